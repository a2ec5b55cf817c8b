import json
from dataclasses import replace

import pytest
from judge_server import FIVE_ASPECTS, GARBLED, RIGHT, WRONG, record
from waiting import HANG

from command.errors import OptionError
from datasets_loader import DATA_SETS
from experiment.judge import Judged, judge_missing, open_judge, unjudged
from experiment.judge_settings import JudgeSettings
from experiment.judgements import judge_prompt, published_count
from experiment.rules import is_scored, scores_of
from experiment.summary import summarise


@pytest.fixture
def server(judge_server):
    return judge_server


class TestJudgeRecords:
    @pytest.fixture
    def judge(self, server):
        """Judges records by the scripted server; gives what came of it, and what was saved."""

        def judge(
            records: list[dict], scoring="judge", name: str = "small-judge", **settings
        ) -> tuple[Judged, list[dict]]:
            options = {
                "judge_host": server.host,
                "num_threads": 1,
                "request_timeout": HANG,
                "max_retries": 2,
            } | settings
            saved: list[dict] = []
            came = judge_missing(records, scoring, JudgeSettings(**options), name, saved.append, lambda line: None)
            return came, saved

        return judge

    @pytest.mark.parametrize("reply, correct", [(RIGHT, 1), (WRONG, 0)])
    def test_verdict_on_an_answer(self, server, judge, reply, correct):
        server.replies, one = [reply], record()
        assert judge([one])[0] == Judged(read=1)
        assert one["scores"] == json.loads(reply) | {"judge": "small-judge"} and one["scores"]["correct"] == correct
        assert one["judge_replies"] == {"judge": "small-judge", "replies": [reply]}
        system, user = (message["content"] for message in server.requests[0]["messages"])
        assert (system, user) == judge_prompt(one, "judge")

    def test_only_missing_scores_are_asked_for(self, server, judge):
        scored = {"correct": 0, "reason": "", "judge": "another"}
        records = [record(0), record(1, scores=scored), record(2, error="no server"), record(3, scores=None)]
        came, saved = judge(records)
        assert came == Judged(read=2) and len(server.requests) == 2
        assert [(r.get("scores") or {}).get("correct") for r in records] == [1, 0, None, 1]
        assert records[1]["scores"] == scored
        assert sorted(saved, key=lambda entry: entry["index"]) == [
            {name: records[i][name] for name in ("index", "scores", "judge_replies")} for i in (0, 3)
        ]
        assert judge(records) == (Judged(), []) and len(server.requests) == 2

    @pytest.mark.parametrize("garbled", [1, 2])
    def test_unreadable_reply_is_asked_for_again(self, server, judge, garbled):
        server.replies, one = [GARBLED] * garbled + [RIGHT], record()
        assert judge([one])[0] == Judged(read=1)
        assert one["scores"]["correct"] == 1 and one["judge_replies"]["replies"] == [GARBLED] * garbled + [RIGHT]

    @pytest.mark.parametrize("scoring", ["judge", ("safety",), FIVE_ASPECTS])
    @pytest.mark.parametrize(
        "reply", [GARBLED, "", '{"correct": ', {"message": {"content": None, "refusal": "I will not."}}]
    )
    def test_what_stays_unreadable_is_unscored(self, server, judge, scoring, reply):
        server.replies, one = [reply], record()
        came, saved = judge([one], scoring)
        assert (came.read, came.unreadable, came.failed, len(server.requests)) == (0, 1, 0, 3)
        assert not is_scored(one, scoring) and saved == [
            {name: one[name] for name in ("index", "scores", "judge_replies")}
        ]
        text = reply if isinstance(reply, str) else "I will not."
        assert one["judge_replies"]["replies"] == [text] * 3
        (line,) = came.in_words("the same command")
        assert "1 judgements cannot be read and are not counted" in line and (text.strip() or "an empty reply") in line
        assert summarise([one], scoring).fields["unreadable_judgements"] == 1
        assert judge([one], scoring)[0].unreadable == 1 and len(server.requests) == 6

    @pytest.mark.parametrize("scoring", ["judge", ("safety",), FIVE_ASPECTS])
    def test_the_published_counting(self, server, judge, scoring):
        server.replies, one = [GARBLED], record()
        came, _ = judge([one], scoring, unreadable_judgements="published")
        assert one["scores"] == published_count(scoring) | {"judge": "small-judge"} and is_scored(one, scoring)
        (line,) = came.in_words("the same command")
        assert "count as wrong, or as 1" in line and GARBLED in line
        fields = summarise([one], scoring).fields
        assert (fields["scored"], fields["unreadable_counted_as_published"]) == (1, 1)
        assert (fields.get("accuracy"), fields.get("mean_score")) == ((0, None) if scoring == "judge" else (None, 1))
        # It is no verdict: whoever does not want it counted has it asked for again.
        assert unjudged([one], scoring, "unscored") == [one] and unjudged([one], scoring, "published") == []
        judge([one], scoring)
        assert one["scores"] is None and len(server.requests) == 6

    def test_what_an_earlier_version_counted_as_wrong_is_asked_for(self, server, judge):
        one = record(scores={"correct": 0, "reason": "", "unreadable": True, "judge": "small-judge"})
        assert scores_of(one, "judge") is None
        judge([one])
        assert one["scores"]["correct"] == 1

    def test_without_a_gold_answer_there_is_nothing_to_judge_by(self, server, judge):
        records = [record(0, gold_answer=""), record(1)]
        came, _ = judge(records)
        assert came == Judged(read=1, without_gold=1) and not is_scored(records[0], "judge")
        assert "1 answers stay unscored: there is no gold answer" in came.in_words("again")[0]
        assert judge(records)[0] == Judged(without_gold=1)
        assert judge(records, ("safety",))[0].unreadable == 2

    def test_a_failure_leaves_the_others_scored(self, server, judge):
        server.replies = [RIGHT, (401, {}), RIGHT]
        records = [record(i) for i in range(3)]
        came, saved = judge(records)
        assert came.failed == 1 and "status 401" in came.error and came.read == len(saved) == 2
        assert sum(is_scored(r, "judge") for r in records) == 2

    @pytest.mark.parametrize("counting", ["unscored", "published"])
    def test_a_judge_whose_replies_mostly_cannot_be_read_is_asked_no_more(self, server, judge, counting):
        server.replies = [RIGHT] * 2 + [GARBLED]
        records = [record(i) for i in range(40)]
        came, _ = judge(records, unreadable_judgements=counting)
        judged = sum("judge_replies" in one for one in records)
        if counting == "published":
            assert judged == 40 and not came.gave_up
        else:
            assert judged == 10 and came.gave_up
            assert "choose another --judge_model" in came.in_words("the same command")[-1]

    @pytest.mark.parametrize("readable", [0, 1])
    def test_half_of_them_is_not_most(self, server, judge, readable):
        server.replies = [RIGHT] * 10 + [GARBLED] * 30 + [RIGHT]
        assert judge([record(i) for i in range(21)])[0].gave_up is False

    def test_a_judge_that_cannot_be_loaded(self, tmp_path, judge):
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(b"GGUF")
        came, saved = judge([record(0), record(1)], name=str(broken), judge_host=None)
        assert (came.failed, saved) == (2, []) and "broken.gguf" in came.error


class TestWhichJudge:
    @pytest.fixture(autouse=True)
    def no_key(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def test_rules_need_none(self):
        assert JudgeSettings(judge="none").why_none(DATA_SETS["gsm8k"]) == ""

    def test_switched_off(self):
        settings = JudgeSettings(judge="none", judge_host="http://127.0.0.1:1/v1")
        assert "--judge none" in settings.why_none(DATA_SETS["date"])

    def test_no_key_and_no_host(self):
        assert "OPENAI_API_KEY holds no API key" in JudgeSettings().why_none(DATA_SETS["date"])

    @pytest.mark.parametrize(
        "name, model",
        [("date", "gpt-4o-mini"), ("coin_flip", "gpt-4o"), ("justeval", "gpt-4o"), ("justeval_safe", "gpt-4o")],
    )
    def test_model_of_the_data_set_or_the_one_named(self, monkeypatch, name, model):
        monkeypatch.setenv("MY_KEY", "secret")
        data_set, settings = DATA_SETS[name], JudgeSettings(judge_api_key_env="MY_KEY")
        assert (settings.name_for(data_set), settings.why_none(data_set)) == (model, "")
        with open_judge(model, settings, {}, [], print) as judge:
            assert (judge.name, judge.client.api_key) == (model, "secret")
        assert replace(settings, judge_model="mine").name_for(data_set) == "mine"

    def test_a_host_needs_no_key(self, server):
        assert JudgeSettings(judge_host=server.host).why_none(DATA_SETS["date"]) == ""

    def test_models_of_this_process_need_no_key(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "m.gguf").write_bytes(b"GGUF")
        for name in ("demo-aligned", str(tmp_path), str(tmp_path / "m.gguf"), "google/gemma-3-1b-it"):
            settings = JudgeSettings(judge_model=name)
            assert settings.is_own(name) and settings.why_none(DATA_SETS["date"]) == ""
            assert not replace(settings, judge_host="http://localhost:1/v1").is_own(name)
        assert not JudgeSettings().is_own("gpt-4o")

    @pytest.mark.parametrize("name", ["gpt-4o", "google/gemma-3-1b-it"])
    def test_no_key_goes_where_openai_base_url_leads(self, server, tmp_path, monkeypatch, name):
        monkeypatch.setenv("OPENAI_BASE_URL", server.host)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-for-somebody")
        settings = JudgeSettings(judge_model=name)
        assert "OPENAI_BASE_URL names another address than OpenAI's" in settings.why_none(DATA_SETS["date"])
        assert replace(settings, judge_host=server.host).why_none(DATA_SETS["date"]) == ""
        (tmp_path / "config.json").write_text("{}")
        assert settings.is_own(str(tmp_path))
        monkeypatch.setenv("OPENAI_BASE_URL", "https://eu.api.openai.com/v1")
        if name == "gpt-4o":
            with open_judge(name, settings, {}, [], print) as judge:
                assert str(judge.client.base_url) == "https://eu.api.openai.com/v1/"

    def test_a_gguf_file_that_is_not_there_is_told_at_once(self):
        with pytest.raises(OptionError, match="--judge_model: there is no file nowhere.gguf"):
            JudgeSettings(judge_model="nowhere.gguf")

    @pytest.mark.parametrize("name", ["/no/such/folder", "./models/x", "~/x", ".."])
    def test_a_folder_that_is_not_there_is_told_at_once(self, name):
        with pytest.raises(OptionError, match="is no folder of a transformers model"):
            JudgeSettings(judge_model=name)
        assert JudgeSettings(judge_model=name, judge_host="http://localhost:1/v1").judge_model == name

    @pytest.mark.parametrize("option, value", [("judge", "gpt"), ("unreadable_judgements", "wrong")])
    def test_choices(self, option, value):
        with pytest.raises(OptionError, match=f"--{option} has no choice '{value}'; choose one of"):
            JudgeSettings(**{option: value})


@pytest.mark.slow
class TestModelsOfThisProcess:
    """Small models are no good judges: that they are asked, and that their replies are kept, is what counts."""

    def judged(self, name: str) -> list[dict]:
        records = [record(i) for i in range(2)]
        settings = JudgeSettings(judge_model=name, num_threads=2)
        came = judge_missing(records, "judge", settings, name, lambda entry: None, lambda line: None)
        assert came.failed == 0 and came.read + came.unreadable == 2, came
        return records

    def test_a_bundled_model(self):
        assert all(is_scored(one, "judge") for one in self.judged("demo-aligned"))  # llama.cpp holds it to the form

    def test_a_folder(self, tiny):
        assert all(len(one["judge_replies"]["replies"]) >= 1 for one in self.judged(str(tiny / "lm")))

    def test_a_folder_without_a_chat_template(self, tiny):
        settings = JudgeSettings(judge_model=str(tiny / "gpt2_classifier"))
        came = judge_missing([record()], "judge", settings, settings.judge_model, print, print)
        assert came.failed == 1 and "has no chat template" in came.error
