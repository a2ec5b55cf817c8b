"""run_api.py --dry_run checks what a run checks before it asks anything (experiment/readiness.py), and writes nothing."""

import json
import sys

import pytest
from gguf_files import gguf_bytes
from runs import gsm8k_rows, nudging_options, write_rows

import run_api
from experiment.command_line import parse_settings

HOST = "http://127.0.0.1:9/v1"


@pytest.fixture
def dry_run(tmp_path, capsys):
    """A dry run with further options: exit code, standard output and error."""
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(5))

    def run(*more: object) -> tuple[int, str, str]:
        options = [*nudging_options(HOST, data, tmp_path / "out"), "--dry_run", *more]
        before = sorted(tmp_path.rglob("*"))
        code = run_api.main([str(option) for option in options])
        assert sorted(tmp_path.rglob("*")) == before
        return code, *capsys.readouterr()

    return run


def test_nothing_wrong(dry_run):
    code, out, err = dry_run()
    assert (code, err) == (0, "") and "5 questions, " in out and "the prompt of row 0:" in out


def test_a_shard_shows_its_own_first_question(dry_run):
    code, out, _ = dry_run("--shard", "2/3")
    assert code == 0 and "5 questions (shard 2/3: 2 of them)" in out and "the prompt of row 1:" in out
    assert gsm8k_rows(2)[1]["question"] in out and gsm8k_rows(1)[0]["question"] not in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shard", "6/9"], "--shard 6/9 has no samples, since there are 5 in all"),
        (["--output_dir", "/dev/null/x"], "/dev/null is no folder); choose another --output_dir"),
        (["--base_host", "", "--base_model", "none.gguf"], "there is no file none.gguf"),
        (["--base_host", "", "--base_model", "demo-base"], "get_demo_models.py"),
        (["--nudging_model", "mine"], "its name tells no instruct template"),
        (["--nudging_template", "tokenizer:none.gguf"], "there is no file none.gguf"),
    ],
)
def test_what_a_run_would_refuse(dry_run, more, said, monkeypatch, tmp_path):
    monkeypatch.setenv("NUDGING_CACHE", str(tmp_path / "nowhere"))
    code, out, err = dry_run(*more)
    assert code == 2 and said in err and err.count("\n") == 1 and out == ""


def test_what_serves_a_file(dry_run, tmp_path, monkeypatch):
    (tmp_path / "base.gguf").write_bytes(gguf_bytes())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)  # another test may have imported it
    code, _, err = dry_run("--base_host", "", "--base_model", tmp_path / "base.gguf")
    assert code == 2 and "needs the package xllamacpp" in err


def earlier(tmp_path, more: dict | None = None, **settings) -> None:
    """What an earlier run of the first question has left."""
    folder = tmp_path / "out/gsm8k/all_info"
    folder.mkdir(parents=True)
    name = "split_test_top_prob_0.4_thres_nudging_base-lm_llama-2-chat_None_samples"
    answer = {"index": 0, "question": gsm8k_rows(1)[0]["question"], "raw_answer": "3", "gold_answer": "#### 3"}
    answer |= more or {}
    (folder / f"{name}.jsonl").write_text(json.dumps(answer | {"scores": None}) + "\n")
    if settings:
        (folder / f"{name}.run.json").write_text(json.dumps({"settings": settings}))


def test_what_is_there_already(dry_run, tmp_path):
    earlier(tmp_path)
    code, _, err = dry_run()
    assert code == 0 and err == "run_api.py: 1 of 5 answers are there already, 4 to go\n"


def test_results_of_other_settings(dry_run, tmp_path):
    earlier(tmp_path, max_token_total=7)
    code, _, err = dry_run()
    assert code == 2 and "was started with other settings" in err and "--max_token_total was 7, is 128" in err
    assert dry_run("--rerun")[0] == 0


def test_a_setting_that_others_have_spoilt_is_shown_in_part(dry_run, tmp_path):
    earlier(tmp_path, max_token_total=10**400)
    code, _, err = dry_run()
    assert code == 2 and "--max_token_total was 1000" in err and "0 ..., is 128" in err and len(err) < 1200


@pytest.mark.parametrize("name", ["full_prefix_base", "system_prompt_nudging"])
@pytest.mark.parametrize("value", [float("nan"), [], {}, 10**400, True])
def test_a_prompt_that_is_no_text(dry_run, tmp_path, name, value):
    options = nudging_options(HOST, tmp_path / "data", tmp_path / "out")
    earlier(tmp_path, {name: value}, **parse_settings([str(option) for option in options]).decisive)
    code, _, err = dry_run()
    assert code == 2 and err.count("\n") == 1 and f"sample 0: {name} must be a text or null; it is" in err


def test_a_judge_that_is_missing_is_said(dry_run, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_rows(tmp_path / "data", "strategyqa", [{"question": "Is 4 more than 3?", "answer": True}])
    code, _, err = dry_run("--dataset_name", "strategyqa")
    assert code == 0 and "no judge: the environment variable OPENAI_API_KEY holds no API key" in err
