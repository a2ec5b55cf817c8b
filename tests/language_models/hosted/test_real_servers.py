"""run_api.py against real vLLM servers with real weights, hosted by scripts/serve_models.sh on the CPU.

tests/support/real_servers.py says which models.
"""

import json
import math
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from real_servers import MARKS, STORIES, Hosts
from runs import final_records, gsm8k_rows, one, run_api, write_rows
from waiting import HANG

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.token_texts import END_NAMES
from language_models.interface import REPLACEMENT, SamplingParams
from nudging import REPETITION_WORDS
from utils import clean_answer

pytestmark = MARKS

ROWS = 2
THRESHOLD = 0.4
SHORT = ("--max_token_total", 14, "--num_threads", ROWS)
RUNS_AT_A_TIME = 3
PLAIN, ODD_TEXT = "plain", "odd text"
ODD_QUESTION = "Continue: 😀🎉 日本 😀🎉 日本 😀🎉. How many 🍎 are 2 🍎 + 3 🍎? «Über»"
ROWS_ASKED = {
    PLAIN: gsm8k_rows(ROWS),
    ODD_TEXT: [{"question": f"{ODD_QUESTION} ({i})", "answer": "#### 5"} for i in range(ROWS)],
}
NOT_TEXT = (*END_NAMES, REPLACEMENT, "Ġ", "Ċ", "▁", "<0x", "<bos>", "<s>", "<|")


def ask(host: str, **body: object) -> dict:
    """The only choice of a direct request to /v1/completions."""
    data = json.dumps({"temperature": 0, "max_tokens": 1, "logprobs": 1} | body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{host}/completions", data, headers), timeout=HANG) as reply:
        return json.load(reply)["choices"][0]


def streamed_texts(model: OpenAIEndpoint, prompt: str, max_tokens: int) -> list[str]:
    """The tokens of a greedy completion as they are streamed."""
    return [token.text for token in model.stream(prompt, SamplingParams(max_tokens, logprobs=5))]


def runs(hosts: Hosts) -> dict[str, tuple]:
    """The options of all runs of run_api.py, by name."""
    chat = ("--proxy_chat_model", "demo-aligned", "--proxy_chat_host", hosts.nudging)
    proxy_base = ("--proxy_base_model", "demo-base", "--proxy_base_host", hosts.base)
    pair = ("--exp", "nudging", *hosts.base_options, *hosts.nudging_options, "--top_prob_thres")
    stories = ("--exp", "nudging", *hosts.stories_options, *hosts.nudging_options, "--top_prob_thres", THRESHOLD)
    ensemble = ("--exp", "baseline", *chat)
    proxy_tuning = (*ensemble, *hosts.base_options, *proxy_base, "--baseline_method", "proxy_tuning")
    return {
        "proxy_tuning": proxy_tuning,
        "nudging published": (*pair, THRESHOLD, "--calls", "published"),
        "nudging auto": (*pair, THRESHOLD, "--calls", "auto"),
        ODD_TEXT: (*pair, 0.6),
        "ensemble": (*ensemble, *hosts.base_options),
        "stories nudging": stories,
        "stories ensemble": (*ensemble, *hosts.stories_options),
        "stories": ("--exp", "base_only", *hosts.stories_options),
        "base_only": ("--exp", "base_only", *hosts.base_options),
        "nudging_only": ("--exp", "nudging_only", *hosts.nudging_options),
    }


@pytest.fixture(scope="module")
def answers(hosts, tmp_path_factory):
    """The records of a run and its folder, by its name.

    The runs are made together, some side by side: servers write several answers in hardly more time than one.
    """
    folder = tmp_path_factory.mktemp("runs")
    data = {text: write_rows(folder / "data" / text, "gsm8k", rows) for text, rows in ROWS_ASKED.items()}

    def run(name: str):
        where = ("--data_dir", data.get(name, data[PLAIN]), "--output_dir", folder / name)
        return run_api(*runs(hosts)[name], *SHORT, *where)

    with ThreadPoolExecutor(RUNS_AT_A_TIME) as pool:
        finished = {name: pool.submit(run, name) for name in runs(hosts)}

    def get(name: str) -> tuple[list[dict], Path]:
        return records_of(finished[name].result(), folder / name), folder / name

    return get


def records_of(finished: subprocess.CompletedProcess, output: Path) -> list[dict]:
    """The records of a whole run, each with an answer in which nothing but text is."""
    assert finished.returncode == 0, finished.stderr
    assert f"num_sample {ROWS} " in finished.stdout
    records = final_records(output)
    assert [record["index"] for record in records] == list(range(ROWS))
    for record in records:
        texts = [record["raw_answer"], *record.get("all_nudging_words", []), *record.get("all_completions", [])]
        assert not [mark for mark in NOT_TEXT for text in texts if mark in text], texts
        assert all(use["requests"] and not use["retries"] for use in record["usage"].values())
    assert sum(bool(record["raw_answer"].strip()) for record in records) >= ROWS - 1
    return records


class TestExperiments:
    def test_base_only(self, answers):
        records, folder = answers("base_only")
        assert all(" " in record["raw_answer"] for record in records)
        session = json.loads(one(folder, "*.run.json").read_text())["sessions"][0]
        assert session["servers"]["base"]["served_models"] == ["demo-base"]

    def test_nudging_only(self, answers):
        records, _ = answers("nudging_only")
        assert records[0]["full_prefix_nudging"].startswith("<|im_start|>system")

    @pytest.mark.parametrize("calls", ["published", "auto"])
    def test_nudging(self, hosts, answers, calls):
        records, folder = answers(f"nudging {calls}")
        self.check_nudges(records, hosts.base, "demo-base")
        streamed = calls == "auto"
        assert json.loads(one(folder, "*.run.json").read_text())["sessions"][0]["calls"] == (
            "streamed" if streamed else "published"
        )
        for record in records:
            assert record["raw_answer"] == clean_answer("".join(record["all_completions"]))
            base, nudging = record["usage"]["base"], record["usage"]["nudging"]
            assert nudging["requests"] > 1 and base["prompt_tokens"] > 0
            # Each published call asks for 16 tokens; a stream is closed at the first uncertain one.
            if streamed:
                assert base["completion_tokens"] < 100  # of an answer of 14
            else:
                assert base["requests"] > nudging["requests"]

    def check_nudges(self, records: list[dict], host: str, model: str) -> None:
        """Wherever nudging words follow words of the base model, it was uncertain, or repeated itself."""
        checked = 0
        for record in records:
            text = ""
            pieces, nudges = record["all_completions"], record["all_nudging_words"]
            assert any(pieces[i] != words for i, words in enumerate(nudges)), "the base model wrote nothing"
            for i, (piece, words) in enumerate(zip(pieces, nudges, strict=True)):
                assert piece.startswith(words)
                came_from_base = i > 0 and pieces[i - 1] != nudges[i - 1]
                if came_from_base and checked < 6:
                    choice = ask(host, model=model, prompt=record["full_prefix_base"] + text)
                    top = math.exp(max(choice["logprobs"]["top_logprobs"][0].values()))
                    # bfloat16 differs a little between batches
                    repeats = len(pieces[i - 1].split(" ")) > REPETITION_WORDS or choice["text"] in pieces[i - 1]
                    assert top < THRESHOLD + 0.03 or repeats, (top, text, words)
                    checked += top < THRESHOLD + 0.03
                text += piece
        assert checked >= 2

    def test_ensemble(self, answers):
        records, _ = answers("ensemble")
        assert all(set(record["usage"]) == {"base", "proxy_chat"} for record in records)

    def test_proxy_tuning(self, answers):
        records, _ = answers("proxy_tuning")
        assert all(set(record["usage"]) == {"base", "proxy_chat", "proxy_base"} for record in records)


class TestLlama2Tokenizer:
    PROMPT = "Once upon a time, there was a little"

    def test_vllm_prints_tokens_without_their_spaces(self, hosts):
        choice = ask(hosts.stories, model=STORIES, prompt=self.PROMPT, max_tokens=32)
        printed, offsets = choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]
        assert "".join(printed) == choice["text"].replace(" ", "") != choice["text"]
        assert offsets[-1] < len(choice["text"]) - len(printed[-1])  # they count the printed tokens

    @pytest.mark.parametrize("prompt", [PROMPT, 'Tom said: "', "Lily and Tom went to the park.\n", "A dog 😀"])
    def test_slices(self, hosts, prompt):
        model = OpenAIEndpoint(STORIES, hosts.stories)
        model.probe(logprobs=5)
        completion = model.complete(prompt, SamplingParams(32, logprobs=5))
        texts = [token.text for token in completion.tokens]
        assert texts == streamed_texts(model, prompt, 32)
        assert completion.text.strip() and "".join(texts) == completion.text
        assert sum(text.startswith(" ") for text in texts) >= completion.text.count(" ") - 2
        assert all(text.count(" ") <= 1 for text in texts)
        assert all(token.top[0][0] == token.text for token in completion.tokens)  # greedy

    def test_run_api(self, answers):
        records, _ = answers("stories")
        assert all(record["raw_answer"].strip().count(" ") > 1 for record in records)

    def test_run_api_nudging(self, hosts, answers):
        records, _ = answers("stories nudging")
        TestExperiments().check_nudges(records, hosts.stories, STORIES)

    def test_run_api_ensemble(self, answers):
        records, _ = answers("stories ensemble")
        assert all(" " in record["raw_answer"].strip() for record in records)


class TestOddText:
    PROMPTS = ("😀🎉 😀🎉 😀🎉 😀🎉", "日本の首都は", "👨‍👩‍👧‍👦 👨‍👩‍👧‍👦 👨‍👩‍👧‍👦", "naïve café — naïve café — naïve")

    @pytest.mark.parametrize("model", ["demo-base", "demo-aligned"])
    def test_slices_of_cut_characters(self, hosts, model):
        endpoint = OpenAIEndpoint(model, hosts.base if model == "demo-base" else hosts.nudging)
        beyond_ascii = 0
        for prompt in self.PROMPTS:
            for length in (1, 3, 12):
                completion = endpoint.complete(prompt, SamplingParams(length, logprobs=5))
                assert "".join(token.text for token in completion.tokens) == completion.text
                assert REPLACEMENT not in completion.text
                assert "".join(streamed_texts(endpoint, prompt, length)) == completion.text
                beyond_ascii += not completion.text.isascii()
        assert beyond_ascii >= 4

    def test_run_api(self, answers):
        records, folder = answers(ODD_TEXT)
        assert ODD_QUESTION in records[0]["full_prefix_base"]
        assert ODD_QUESTION in one(folder, "*.txt").read_text()
