"""run_api.py with each engine: the same answers, and run.json and the last lines say what has computed them."""

import json

import needs
import pytest
from runs import final_records, gsm8k_rows, one, write_rows

torch = needs.module("torch")

from tiny_models import make_model, make_tokenizer, save  # noqa: E402

import run_api  # noqa: E402
from language_models.local.cache import CachedSample  # noqa: E402

ENGINES = ("packed", "graphs")
SAID = {"packed": "forward passes (packed), ", "graphs": "forward passes (fixed sizes, no CUDA graphs), "}
WITHOUT_GRAPHS = "is on cpu, where passes of fixed sizes run without CUDA graphs"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    other = make_tokenizer(["Tom has apples and buys more. How many are there? The answer is the sum."] * 3)
    return {
        "base": save(folder / "tiny-base", make_model("llama", 1)),
        "chat": save(folder / "tiny-chat", make_model("gpt2", 2), other),
    }


@pytest.fixture
def start(tmp_path, capsys):
    """A nudging run in this process: its records, its session in run.json, and its messages."""
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(4))

    def run(base, nudging, *options: object) -> tuple[list[dict], dict, str]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        command = ["--exp", "nudging", "--base_model", base, "--nudging_model", nudging, "--nudging_template", "plain"]
        command += ["--device", "cpu", "--top_prob_thres", 0.6, "--max_token_total", 20, "--num_threads", 3]
        command += ["--num_samples", 4, "--data_dir", data, "--output_dir", out, *options]
        assert run_api.main([str(word) for word in command]) == 0
        session = json.loads(one(out, "*.run.json").read_text())["sessions"][-1]
        return final_records(out), session, capsys.readouterr().err

    return run


def words(records: list[dict]) -> list[tuple]:
    return [(record["raw_answer"], record["all_nudging_words"], record["stop_reason"]) for record in records]


def test_both_engines_write_the_same(folders, start):
    found = {}
    for kind in ENGINES:
        records, session, said = start(folders["base"], folders["chat"], "--engine", kind)
        found[kind] = words(records)
        for role in ("base", "nudging"):
            told, used = session["servers"][role], session["usage_by_host"][role]["this process"]
            assert told["passes"]["kind"] == used["passes"]["kind"] == kind
            assert told["engine"].startswith("transformers ") and told["devices"] == {"cpu": None}
            assert used["forward_passes"] > 0 and used["passes"]["cache_tokens"] > 0
        assert said.count(SAID[kind]) == 2 and said.count(WITHOUT_GRAPHS) == 2 * (kind == "graphs")
    assert found["packed"] == found["graphs"] and all(answer for answer, *_ in found["packed"])


@pytest.mark.parametrize("calls", ["streamed", "published"])
def test_both_models_as_one(folders, start, monkeypatch, calls):
    """It is loaded once, has room for both roles of every sample, and counts its passes once."""
    lost, forget = [], CachedSample.forget
    monkeypatch.setattr(CachedSample, "forget", lambda sample: lost.append(sample) or forget(sample))
    found = {}
    for kind in ENGINES:
        options = ("--engine", kind, "--calls", calls)
        records, session, said = start(folders["base"], folders["base"], *options)
        found[kind] = words(records)
        assert said.count("loaded ") == said.count("forward passes") == 1
        used = {role: told["this process"] for role, told in session["usage_by_host"].items()}
        assert used["base"]["passes_counted_in"] == "nudging" and "forward_passes" not in used["base"]
        assert used["nudging"]["forward_passes"] > 0
        for role, usage in used.items():
            assert usage["requests"] == sum(record["usage"][role]["requests"] for record in records) > 0
        assert {role: told["drafter"] for role, told in session["servers"].items()} == {"base": None, "nudging": None}
    assert found["packed"] == found["graphs"] and not lost
