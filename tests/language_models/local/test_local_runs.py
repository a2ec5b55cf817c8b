"""run_api.py with models in its own process: tiny ones made here, and the demo's real ones."""

import json
import os
import subprocess

import needs
import pytest
from runs import REPOSITORY, final_records, gsm8k_rows, one, run_api, write_rows

from command.errors import OptionError
from demo.catalogue import demo_cache_dir
from experiment.command_line import parse_settings
from experiment.connect import local_models
from language_models.local import loading

torch = needs.module("torch")

from tiny_models import make_model, make_tokenizer, save  # noqa: E402

pytestmark = pytest.mark.slow  # runs the command line, with torch

ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SHORT = ("--max_token_total", 24, "--num_threads", 3, "--device", "cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, a small model with another tokenizer, and one with a short context window."""
    folder = tmp_path_factory.mktemp("models")
    other = make_tokenizer(["Tom has apples and buys more. How many are there? The answer is the sum."] * 3)
    return {
        "base": save(folder / "tiny-base", make_model("llama", 1)),
        "chat": save(folder / "tiny-chat", make_model("gpt2", 2), other),
        "short": save(folder / "tiny-short", make_model("llama", 3, context=128)),
    }


def start(folder, tmp_path, *options, rows=4, code=0) -> tuple[list[dict], str]:
    """The records and the messages of a run."""
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(rows))
    run = run_api(*SHORT, *options, "--data_dir", data, "--output_dir", tmp_path / "out", env=ONE_THREAD)
    assert run.returncode == code and "Traceback" not in run.stderr, run.stderr
    return final_records(tmp_path / "out") if code == 0 else [], run.stderr


def test_nudging(folders, tmp_path):
    options = ["--exp", "nudging", "--base_model", folders["base"], "--nudging_model", folders["chat"]]
    options += ["--nudging_template", "plain"]  # so that these small models write words with spaces between them
    records, messages = start(folders, tmp_path, *options, "--top_prob_thres", "0.6", rows=2)
    assert all(record["raw_answer"] and record["usage"]["base"]["requests"] for record in records)
    assert f"loaded {folders['base']} on cpu in float32" in messages
    session = json.loads(one(tmp_path, "*.run.json").read_text())["sessions"][0]
    assert session["calls"] == "streamed" and session["servers"]["base"]["drafter"] == str(folders["chat"])
    for role in ("base", "nudging"):
        computed = session["usage_by_host"][role]["this process"]
        assert computed["forward_passes"] and computed["peak_memory_mb"] >= 0
        assert computed["requests"] == sum(record["usage"][role]["requests"] for record in records)
    assert "forward passes" in messages and "of it cache" in messages
    # the published requests lead to the same answers, where a text is cut into the tokens that wrote it
    again, _ = start(
        folders, tmp_path / "published", *options, "--top_prob_thres", "0.6", "--calls", "published", rows=2
    )
    assert [record["all_nudging_words"][0] for record in again] == [r["all_nudging_words"][0] for r in records]


def test_the_template_and_the_packages_of_a_model(folders, tmp_path):
    """Of the packages those alone that had a part: no server, no hub."""
    records, _ = start(folders, tmp_path, "--exp", "nudging_only", "--nudging_model", folders["chat"], rows=2)
    header = "<|start_header|>{}<|end_header|>\n\n"
    for record in records:
        prompt = record["full_prefix_nudging"]
        assert prompt.startswith(header.format("system")) and prompt.endswith("<|eot|>" + header.format("assistant"))
    session = json.loads(one(tmp_path, "*.run.json").read_text())["sessions"][0]
    assert session["templates"] == {"nudging": "the model's own"}
    engine = {"torch", "transformers", "tokenizers", "safetensors"}
    assert session["versions"].keys() == {"python", "tiktoken", "jinja2", *engine}
    told = session["servers"]["nudging"]
    assert told["engine"] == f"transformers {session['versions']['transformers']}"
    assert (told["device"], told["dtype"]) == ("cpu", "float32")


def test_one_model_in_two_roles(folders, tmp_path):
    proxies = ["--proxy_chat_model", folders["chat"], "--proxy_base_model", folders["base"]]
    options = ["--exp", "baseline", "--baseline_method", "proxy_tuning", "--base_model", folders["base"], *proxies]
    records, messages = start(folders, tmp_path, *options, "--max_token_total", 6, rows=2)
    assert messages.count("loaded ") == 2
    assert all(set(record["usage"]) == {"base", "proxy_chat", "proxy_base"} for record in records)
    usage = json.loads(one(tmp_path, "*.run.json").read_text())["sessions"][0]["usage"]
    for role, found in usage.items():
        assert found["requests"] == sum(record["usage"][role]["requests"] for record in records) > 0


def test_questions_too_long_for_the_context(folders, tmp_path):
    options = ["--exp", "base_only", "--base_model", folders["short"], "--base_temperature", "0.7"]
    records, _ = start(folders, tmp_path, *options, "--max_token_total", 120, rows=2)
    assert [record["stop_reason"] for record in records] == ["context_length"] * 2
    assert [record["raw_answer"] for record in records] == ["", ""]


def test_half_a_model(folders, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text((folders["base"] / "config.json").read_text())
    _, messages = start(folders, tmp_path, "--exp", "base_only", "--base_model", tmp_path / "half", code=2)
    assert "cannot be loaded" in messages and "is the folder whole?" in messages


def test_without_torch_the_install_line_is_named(folders, monkeypatch):
    settings = parse_settings(["--exp", "base_only", "--base_model", str(folders["base"])])
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"has no --base_host, .*: pip install -r requirements-torch\.txt"):
        local_models(settings, list(settings.models.values()), None)


@pytest.fixture(scope="module")
def real_pair() -> list[str]:
    """The pair of the demo, in the form that the tests with vLLM make of it."""
    python = os.environ.get("VLLM_PYTHON") or REPOSITORY / ".venv-vllm/bin/python"
    script = REPOSITORY / "scripts/get_demo_models.py"
    subprocess.run([str(python), str(script), "--transformers", "demo-base", "demo-aligned"], check=True)
    return [str(demo_cache_dir() / f"{name}-transformers") for name in ("demo-base", "demo-aligned")]


@pytest.mark.real_servers
def test_nudging_with_real_models(real_pair, tmp_path):
    options = ["--exp", "nudging", "--base_model", real_pair[0], "--nudging_model", real_pair[1]]
    options += [
        "--nudging_template",
        "chatml",
        "--top_prob_thres",
        "0.4",
        "--dtype",
        "float32",
        "--max_token_total",
        14,
    ]
    modes = ("streamed", "published")

    def run(calls: str):
        return start(None, tmp_path / calls, *options, "--calls", calls, rows=2)

    # One after the other: each takes more than 4 GB, beside vLLM's servers and the tests that run at the same time.
    found = {calls: run(calls) for calls in modes}
    answers = {calls: [record["raw_answer"] for record in records] for calls, (records, _) in found.items()}
    for calls, (_, messages) in found.items():
        assert not [mark for mark in ("<|", "<bos>", "\ufffd", "▁") if mark in "".join([*answers[calls], messages])]
        assert sum(" " in answer for answer in answers[calls]) >= 1
    assert answers["streamed"] == answers["published"]
