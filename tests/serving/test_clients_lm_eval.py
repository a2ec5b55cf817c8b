"""lm-evaluation-harness against the server: its answers are those of run_api.py, whichever way it asks."""

import json
from pathlib import Path

import pytest
from clients import run_client
from runs import REPOSITORY, final_records, gsm8k_rows, nudging_options, run_api, write_rows
from served_pair import demo_pair, in_this_process, settings_over

from datasets_loader import local_rows
from utils import clean_answer

pytestmark = pytest.mark.slow

FIXTURES, DATA = REPOSITORY / "tests/fixtures", REPOSITORY.parent / "shared/data"
SYSTEM = "Answer the question by walking through the reasoning steps."
TOKENS = 48  # of an answer, as an experiment counts them
CHAT = {"apply_chat_template": True, "system_instruction": SYSTEM}
SHORT = {"gen_kwargs": f"max_token_total={TOKENS}"}
NO_LOGPROBS = "logprobs is not supported: an answer that two models write has no log-probabilities"


def questions() -> list[dict]:
    """Questions of our own, and some of GSM8K where they are there."""
    rows = local_rows(FIXTURES, "gsm8k", "test")[0] + gsm8k_rows(2)
    return rows + (local_rows(DATA, "gsm8k", "test")[0][:2] if (DATA / "gsm8k").is_dir() else [])


def answers_of_run_api(host: str, template: str, folder: Path) -> list[str]:
    """What run_api.py answers, with the nudging model in one template."""
    options = nudging_options(host, write_rows(folder / "data", "gsm8k", questions()), folder / template)
    run = run_api(*options, "--max_token_total", TOKENS, "--nudging_template", template)
    assert run.returncode == 0, run.stderr
    return [record["raw_answer"] for record in final_records(folder / template)]


def run_of(kind: str, task: str, url: str, **arguments) -> dict:
    """A run of the harness, over everything of a task."""
    path, more = ("chat/completions", CHAT | SHORT) if "chat" in kind else ("completions", SHORT)
    told = {"model": "pair", "base_url": f"{url}/v1/{path}", **arguments}
    return {"model": f"local-{kind}", "model_args": told, "task": task, "more": more}


def tasks_in(folder: Path) -> str:
    """The tasks over these questions."""
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions()))
    for file in (FIXTURES / "lm_eval").iterdir():
        (folder / file.name).write_text(file.read_text().replace("questions.jsonl", f"{folder}/questions.jsonl"))
    return str(folder)


def test_the_answers_are_those_of_run_api(server, demo_models, tmp_path):
    """All in one test: the harness takes long to start."""
    text = {"tokenizer_backend": "None"}
    with in_this_process(settings_over(server.host)) as served, demo_pair() as demo:
        runs = {
            "chat": run_of("chat-completions", "gsm8k_chat", served.url),
            "chat, 8 at a time": run_of("chat-completions", "gsm8k_chat", served.url, num_concurrent=8),
            "text": run_of("completions", "gsm8k_text", served.url, **text),
            "text, 8 at a time": run_of("completions", "gsm8k_text", served.url, **text, num_concurrent=8),
            "text, in batches": run_of("completions", "gsm8k_text", served.url, **text, batch_size=4),
            "ids": run_of("completions", "gsm8k_text", demo.url),
            "the same as text": run_of("completions", "gsm8k_text", demo.url, **text, eos_string="<eos>"),
            "log-likelihoods": run_of("completions", "gsm8k_choice", demo.url, max_retries=1),
            "log-likelihoods of a chat": run_of("chat-completions", "gsm8k_choice", demo.url),
        }
        for name in ("ids", "the same as text"):
            runs[name]["more"] = {"limit": 2, "gen_kwargs": "max_gen_toks=12"}
        work = {"tasks": tasks_in(tmp_path), "runs": list(runs.values())}
        made, said = run_client("run_lm_eval.py", work, tmp_path)
    found = dict(zip(runs, made, strict=True))
    for kind, template in (("chat", "auto"), ("text", "plain")):
        expected = answers_of_run_api(server.host, template, tmp_path)
        assert len(set(expected)) > len(expected) / 2
        for name in (name for name in runs if name.split(",")[0] == kind):
            assert "error" not in found[name], (name, said[-5000:])
            assert [clean_answer(answer) for answer in found[name]["texts"]] == expected, name
            assert found[name]["score"] is not None
    assert found["ids"]["texts"] == found["the same as text"]["texts"], said[-5000:]
    assert len(found["ids"]["texts"]) == 2 and all(found["ids"]["texts"])
    assert found["log-likelihoods"]["error"].startswith("HTTPError: 400 Client Error"), found
    assert NO_LOGPROBS in said
    assert "Loglikelihood is not supported" in found["log-likelihoods of a chat"]["error"]
