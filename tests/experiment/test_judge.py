import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from waiting import HANG, wait_until

import eval_utils
from datasets_loader import DATA_SETS
from experiment.judge import (
    Judge,
    judge_for,
    judge_records,
    just_eval_instructions,
    read_judgement,
    unreadable_score,
)
from experiment.judge_settings import JudgeSettings
from experiment.rules import is_scored
from language_models.hosted.token_texts import UnreadableReply
from language_models.interface import ModelError

FIVE_ASPECTS = ("helpfulness", "clarity", "factuality", "depth", "engagement")
RIGHT = '{"reason": "the same", "correct": 1}'
WRONG = '{"reason": "another", "correct": 0}'
GARBLED = "Well, I would say that it is right."


def ratings(**scores: object) -> str:
    return json.dumps({aspect: {"reason": f"on {aspect}", "score": score} for aspect, score in scores.items()})


class JudgeServer:
    """A real HTTP server that gives the scripted replies in turn, the last one for ever, and keeps the requests.

    A reply is the text of a chat completion, or a status with headers.
    """

    def __init__(self):
        self.replies: list[str | tuple[int, dict]] = []
        self.requests: list[dict] = []
        app = Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.uvicorn.started or not self.thread.is_alive(), "the server starts")
        port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.host = f"http://127.0.0.1:{port}/v1"

    async def answer(self, request: Request) -> Response:
        self.requests.append(await request.json() | {"authorization": request.headers.get("authorization")})
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, tuple):
            status, headers = reply
            return JSONResponse({"error": {"message": f"scripted {status}"}}, status, headers)
        return JSONResponse({"choices": [{"message": {"role": "assistant", "content": reply}}]})

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def running_server():
    server = JudgeServer()
    yield server
    server.stop()


@pytest.fixture
def server(running_server):
    running_server.replies, running_server.requests = [RIGHT], []
    return running_server


@pytest.fixture
def judge_named(server):
    def make(model: str = "small-judge", max_retries: int = 2) -> Judge:
        return Judge(model, server.host, "a-key", num_threads=1, request_timeout=HANG, max_retries=max_retries)

    return make


def record(index: int = 0, **more) -> dict:
    texts = {"question": f"question {index}?", "raw_answer": f"answer {index}", "gold_answer": f"gold {index}"}
    return {"index": index} | texts | more


class TestReadJudgement:
    @pytest.mark.parametrize(
        "text, correct",
        [(RIGHT, 1), (WRONG, 0), ('{"correct": true}', 1), ('{"correct": 1.0}', 1), (f"\n {RIGHT}\n", 1)],
    )
    def test_right_or_wrong(self, text, correct):
        scores = read_judgement(text, "judge")
        assert scores["correct"] == correct and type(scores["correct"]) is int
        assert scores["reason"] == json.loads(text).get("reason", "")

    def test_aspects_and_their_mean(self):
        scores = read_judgement(ratings(helpfulness=5, clarity="4", factuality=3, depth=2, engagement=2), FIVE_ASPECTS)
        assert [scores[aspect]["score"] for aspect in FIVE_ASPECTS] == [5, 4, 3, 2, 2]
        assert scores["depth"]["reason"] == "on depth"
        assert scores["mean"] == 3.2

    @pytest.mark.parametrize("text", ["", GARBLED, "[1]", "null", "1", "{}", '{"correct": 2}', '{"correct": "yes"}'])
    def test_unreadable_verdict(self, text):
        with pytest.raises(UnreadableReply):
            read_judgement(text, "judge")

    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            '{"safety": 5}',
            '{"safety": {"reason": "no score"}}',
            ratings(safety=0),
            ratings(safety=6),
            ratings(safety="high"),
            ratings(safety=None),
            ratings(safety=4.7),  # asked for was a whole number
            '{"safety": {"score": 1e999}}',
            ratings(helpfulness=5),
        ],
    )
    def test_unreadable_ratings(self, text):
        with pytest.raises(UnreadableReply):
            read_judgement(text, ("safety",))


@pytest.mark.parametrize("aspects", [FIVE_ASPECTS, ("safety",)])
def test_instructions_name_the_aspects_asked_for_alone(aspects):
    text = just_eval_instructions(aspects)
    for aspect in (*FIVE_ASPECTS, "safety"):
        assert (f"- {aspect}: " in text) == (f'"{aspect}": {{"reason"' in text) == (aspect in aspects)
    assert ("1 (highly unsafe) to 5 (completely safe)" in text) == ("safety" in aspects)


class TestJudge:
    @pytest.mark.parametrize("reply, correct", [(RIGHT, 1), (WRONG, 0)])
    def test_verdict_on_an_answer(self, server, judge_named, reply, correct):
        server.replies = [reply]
        scores = judge_named().score(record(), "judge")
        assert scores == json.loads(reply) | {"judge": "small-judge"} and scores["correct"] == correct
        (request,) = server.requests
        assert (request["model"], request["temperature"]) == ("small-judge", 0)
        assert request["response_format"] == {"type": "json_object"}
        assert request["authorization"] == "Bearer a-key"
        system, user = request["messages"]
        assert (system["role"], user["role"]) == ("system", "user")
        assert "JSON" in system["content"]  # OpenAI's JSON mode wants the word
        assert all(text in user["content"] for text in ("question 0?", "answer 0", "gold 0"))

    def test_ratings_are_given_without_the_gold_answer(self, server, judge_named):
        server.replies = [ratings(safety=4)]
        scores = judge_named().score(record(), ("safety",))
        assert scores == {"safety": {"score": 4, "reason": "on safety"}, "mean": 4, "judge": "small-judge"}
        system, user = server.requests[0]["messages"]
        assert system["content"] == just_eval_instructions(("safety",))
        assert "gold 0" not in user["content"] and "answer 0" in user["content"]

    @pytest.mark.parametrize("garbled", [1, 2])
    def test_unreadable_reply_is_asked_for_again(self, server, judge_named, garbled):
        server.replies = [GARBLED] * garbled + [RIGHT]
        assert judge_named().score(record(), "judge")["correct"] == 1
        assert len(server.requests) == garbled + 1

    @pytest.mark.parametrize(
        "scoring, counted",
        [
            ("judge", {"correct": 0}),
            (("safety",), {"safety": {"score": 1, "reason": ""}, "mean": 1}),
            (FIVE_ASPECTS, {"mean": 1}),
        ],
    )
    def test_what_stays_unreadable_counts_as_the_lowest(self, server, judge_named, scoring, counted):
        server.replies = [GARBLED]
        scores = judge_named().score(record(), scoring)
        assert len(server.requests) == 3
        assert scores == unreadable_score(scoring) | {"judge": "small-judge"}
        assert scores.items() >= (counted | {"unreadable": True}).items()

    def test_wrong_key_is_not_tried_again(self, server, judge_named):
        server.replies = [(401, {})]
        with pytest.raises(
            ModelError, match=r"judge small-judge at http://.*: status 401: .*api_key_env names.*scripted 401"
        ) as error:
            judge_named().score(record(), "judge")
        assert error.value.status == 401
        assert len(server.requests) == 1

    def test_busy_server_is_tried_again(self, server, judge_named):
        server.replies = [(503, {"retry-after-ms": "1"}), RIGHT]
        assert judge_named().score(record(), "judge")["correct"] == 1
        assert len(server.requests) == 2

    def test_server_that_stays_busy_is_given_up(self, server, judge_named):
        server.replies = [(503, {"retry-after-ms": "1"})]
        with pytest.raises(ModelError, match="status 503"):
            judge_named(max_retries=1).score(record(), "judge")
        assert len(server.requests) == 2


class TestJudgeRecords:
    @staticmethod
    def score(records: list[dict], judge: Judge) -> tuple[str, list[dict]]:
        saved = []
        return judge_records(records, DATA_SETS["strategyqa"], judge, 1, saved.append), saved

    def test_only_missing_scores_are_asked_for(self, server, judge_named):
        scored = {"correct": 0, "reason": "", "judge": "small-judge"}
        records = [record(0), record(1, scores=scored), record(2, error="no server"), record(3, scores=None)]
        failure, saved = self.score(records, judge_named())
        assert failure == "" and len(server.requests) == 2
        assert [r.get("scores", {}).get("correct") for r in records] == [1, 0, None, 1]
        assert sorted(saved, key=lambda entry: entry["index"]) == [
            {"index": i, "scores": records[i]["scores"]} for i in (0, 3)
        ]
        assert self.score(records, judge_named()) == ("", [])
        assert len(server.requests) == 2

    def test_another_judge_scores_again(self, server, judge_named):
        records = [record()]
        self.score(records, judge_named("small-judge"))
        server.replies = [WRONG]
        self.score(records, judge_named("large-judge"))
        assert records[0]["scores"] == {"correct": 0, "reason": "another", "judge": "large-judge"}

    def test_a_failure_leaves_the_others_scored(self, server, judge_named):
        server.replies = [RIGHT, (401, {}), RIGHT]
        records = [record(i) for i in range(3)]
        failure, saved = self.score(records, judge_named())
        assert "status 401" in failure and len(saved) == 2
        assert sum(is_scored(r, "judge") for r in records) == 2


class TestJudgeFor:
    def test_rules_need_none(self):
        settings = JudgeSettings(judge="none")
        assert judge_for(DATA_SETS["gsm8k"], settings) is None and not settings.why_none(DATA_SETS["gsm8k"])

    def test_switched_off(self):
        settings = JudgeSettings(judge="none", judge_host="http://127.0.0.1:1/v1")
        assert judge_for(DATA_SETS["date"], settings) is None and "--judge none" in settings.why_none(DATA_SETS["date"])

    def test_no_key_and_no_host(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        assert judge_for(DATA_SETS["date"], JudgeSettings()) is None
        assert "OPENAI_API_KEY holds no API key" in JudgeSettings().why_none(DATA_SETS["date"])

    @pytest.mark.parametrize(
        "name, model",
        [("date", "gpt-4o-mini"), ("coin_flip", "gpt-4o"), ("justeval", "gpt-4o"), ("justeval_safe", "gpt-4o")],
    )
    def test_model_of_the_data_set_or_the_one_named(self, monkeypatch, name, model):
        monkeypatch.setenv("MY_KEY", "secret")
        data_set, settings = DATA_SETS[name], JudgeSettings(judge_api_key_env="MY_KEY")
        judge = judge_for(data_set, settings)
        assert (judge.model, judge.client.api_key, settings.why_none(data_set)) == (model, "secret", "")
        assert judge_for(data_set, replace(settings, judge_model="mine")).model == "mine"

    def test_a_host_needs_no_key(self, server, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        judge = judge_for(DATA_SETS["date"], JudgeSettings(judge_host=server.host))
        assert judge.score(record(), "judge")["correct"] == 1


class TestCommandLine:
    @pytest.fixture
    def run(self, server, tmp_path):
        """Runs eval_utils.py with the scripted judge on a result file of two answers, and returns its exit code."""

        def run(*options: str, data_set: str = "strategyqa") -> int:
            path = self.path(tmp_path, data_set)
            if not path.exists():
                path.parent.mkdir(parents=True)
                path.write_text(json.dumps([record(0), record(1), record(2, error="no server")]))
            return eval_utils.main([str(path), "--judge_host", server.host, "--num_threads", "1", *options])

        return run

    @staticmethod
    def path(tmp_path: Path, data_set: str = "strategyqa") -> Path:
        return tmp_path / "outputs" / data_set / "all_info" / "run.json"

    def test_scores_are_stored_and_not_asked_for_again(self, run, server, tmp_path, capsys):
        server.replies = [RIGHT, WRONG]
        assert run() == 0
        assert "num_sample 2 correct 1 ratio_gpt 0.5000\n" in capsys.readouterr().out
        stored = json.loads(self.path(tmp_path).read_text())
        assert [r.get("scores", {}).get("judge") for r in stored] == ["gpt-4o-mini", "gpt-4o-mini", None]
        log = self.path(tmp_path).with_suffix(".jsonl").read_text()
        assert [json.loads(line) for line in log.splitlines()] == stored

        assert run() == 0 and len(server.requests) == 2
        assert run("--judge_model", "large-judge") == 0 and len(server.requests) == 4

    def test_just_eval(self, run, server, capsys):
        server.replies = [ratings(safety=5), ratings(safety=4)]
        assert run(data_set="justeval_safe") == 0
        assert "safety: 4.5000\n" in capsys.readouterr().out

    def test_failure_keeps_what_is_scored_and_a_second_run_completes(self, run, server, tmp_path, capsys):
        server.replies = [RIGHT, (401, {})]
        assert run() == 1
        printed = capsys.readouterr()
        assert "num_sample 1 correct 1 ratio_gpt 1.0000" in printed.out
        assert "1 answers could not be scored" in printed.err and "status 401" in printed.err
        assert sum(bool(r.get("scores")) for r in json.loads(self.path(tmp_path).read_text())) == 1

        server.replies, server.requests = [RIGHT], []
        assert run() == 0 and len(server.requests) == 1
        assert "num_sample 2 correct 2 ratio_gpt 1.0000" in capsys.readouterr().out
