"""collect_model_outs.py goes on where an earlier run stopped, and loses nothing."""

import json
import os
import signal
import subprocess
import sys

import needs
import pytest
from runs import REPOSITORY
from waiting import finish

torch = needs.module("torch")

from collect_runs import GREEDY, PREFERENCE, collect, options, rows_of, without_times  # noqa: E402

from language_models.local.loading import load_tokenizer  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402
from pad.outputs import OutputFile  # noqa: E402


def test_the_same_command_goes_on(tiny, pad_folder, capsys):
    words = options(tiny, "--sys_prompt", PREFERENCE)
    assert collect(*words) == 0
    path = pad_folder / "out/x_0.jsonl"
    whole = rows_of(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[2] + lines[4] + lines[0][:50])  # out of order, and a torn line
    assert collect(*words, "--recover") == 0
    assert without_times(rows_of(path)) == without_times(whole)
    assert rows_of(path)[2] == whole[2] and "2 of 6 answers are there already" in capsys.readouterr().err
    meta = json.loads((pad_folder / "out/x_0.meta.json").read_text())
    assert [session["tokens"] > 0 for session in meta["sessions"]] == [True, True]


def test_versions_are_of_the_packages_that_had_a_part(tiny, pad_folder):
    """No server, no hub, no adapter; in a process of its own, as its user runs it."""
    command = [sys.executable, str(REPOSITORY / "collect_model_outs.py"), *options(tiny, "--limit", 1)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    (session,) = json.loads((pad_folder / "out/x_0.meta.json").read_text())["sessions"]
    assert set(session["versions"]) == {"python", "torch", "transformers", "tokenizers", "safetensors"}


def test_other_settings_are_refused_and_overwrite_starts_afresh(tiny, pad_folder, capsys):
    assert collect(*options(tiny, "--limit", 2)) == 0
    assert collect(*options(tiny, "--limit", 2, "--max_new_token", 5)) == 2
    assert "--max_new_token was 12, is 5" in capsys.readouterr().err
    assert collect(*options(tiny, "--limit", 2, "--max_new_token", 5, "--overwrite")) == 0
    assert all(row["n_tokens"] <= 5 for row in rows_of(pad_folder / "out/x_0.jsonl"))
    assert len(list((pad_folder / "out").glob("x_0.jsonl.replaced-*"))) == 1


def test_fewer_prompts_later_lose_nothing(tiny, pad_folder, capsys):
    assert collect(*options(tiny, "--limit", 3)) == 0
    before = (pad_folder / "out/x_0.jsonl").read_text()
    assert collect(*options(tiny, "--limit", 2)) == 2
    assert "line 3 answers prompt 2, and there are 2 now" in capsys.readouterr().err
    assert (pad_folder / "out/x_0.jsonl").read_text() == before


def test_more_prompts_later(tiny, pad_folder):
    assert collect(*options(tiny, "--limit", 2)) == 0
    first = rows_of(pad_folder / "out/x_0.jsonl")
    assert collect(*options(tiny)) == 0
    assert rows_of(pad_folder / "out/x_0.jsonl")[:2] == first and len(rows_of(pad_folder / "out/x_0.jsonl")) == 6


def test_the_same_text_that_is_put_in_another_way_is_another_prompt(tiny, pad_folder, capsys):
    turns = [{"role": "system", "content": "Be a poet."}, {"role": "user", "content": "Who?"}]
    (pad_folder / "p.json").write_text(json.dumps([{"messages": turns}]))
    assert collect(*options(tiny)) == 0
    (pad_folder / "p.json").write_text(json.dumps([{"sys_prompt": "Be a poet.", "prompt": "Who?"}]))
    assert collect(*options(tiny)) == 2
    assert "line 1 answers a prompt of 36 tokens, which are 27 now" in capsys.readouterr().err


def test_a_preference_has_one_name_in_a_file(tiny, pad_folder):
    for name, prompts in (("", 2), ("nice: ", 3)):
        (pad_folder / "p.txt").write_text(f"{name}kind\n")
        assert collect(*options(tiny, "--principles_file", "p.txt", "--limit", prompts)) == 0
    assert [row["preference"] for row in rows_of(pad_folder / "out/x_0.jsonl")] == ["nice"] * 3


def test_files_of_a_command_with_more_weights_are_said(tiny, pad_folder, capsys):
    """A name with * takes them in beside those of this command."""
    (pad_folder / "x.config").write_text(json.dumps(GREEDY | {"rm_weight": [1, 2, 3]}))
    assert collect(*options(tiny, "--limit", 1)) == 0
    assert "of another command" not in capsys.readouterr().err
    (pad_folder / "x.config").write_text(json.dumps(GREEDY))
    assert collect(*options(tiny, "--limit", 1, "--overwrite")) == 0
    assert "out/x_1.jsonl and 2 more are of another command: this one writes 1 files" in capsys.readouterr().err
    assert collect(*options(tiny, "--limit", 1, out="out/x_0")) == 0
    assert "of another command" not in capsys.readouterr().err


# collect_model_outs.py, which stands still in the middle of an answer once a file has some lines.
STANDS_STILL = """
import sys, time
from pathlib import Path
repository, path, lines = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, repository)
from torch.nn.modules.module import register_module_forward_pre_hook
import collect_model_outs

def stand_still(*_):
    if path.exists() and path.read_bytes().count(b"\\n") >= lines:
        print("stands still", flush=True)
        time.sleep(1800)

register_module_forward_pre_hook(stand_still)
sys.exit(collect_model_outs.main(sys.argv[4:]))
"""


@pytest.mark.long
@pytest.mark.slow
def test_killed_in_the_middle(tiny, pad_folder):
    """Neither kill -9 nor SIGTERM loses what was finished, and the result is that of an undisturbed run."""
    (pad_folder / "x.config").write_text(json.dumps(GREEDY | {"mode": "topk"}))
    (pad_folder / "p.json").write_text(json.dumps([f"Is {i} odd?" for i in range(8)]))
    assert collect(*options(tiny, out="out/undisturbed")) == 0
    words = options(tiny)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    path, kept = pad_folder / "out/x_0.jsonl", {}
    for blow, answers in ((signal.SIGKILL, 2), (signal.SIGTERM, 5)):
        command = [sys.executable, "-c", STANDS_STILL, str(REPOSITORY), str(path), str(answers), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=environment, text=True, **pipes)
        assert process.stdout.readline() == "stands still\n"
        process.send_signal(blow)
        _, error = finish(process)
        assert process.returncode == (-9 if blow == signal.SIGKILL else 143)
        assert blow == signal.SIGKILL or "the same command continues" in error
        assert path.read_bytes().count(b"\n") == answers
        now = {row["index"]: row for row in rows_of(path)}
        assert all(now[index] == row for index, row in kept.items())
        kept = now
    assert collect(*words) == 0
    rows = rows_of(path)
    assert all(rows[index] == row for index, row in kept.items())
    assert without_times(rows) == without_times(rows_of(pad_folder / "out/undisturbed_0.jsonl"))


def test_a_row_behind_a_torn_line(pad_folder):
    """A second kill before the file is put in order must find whole lines."""
    output = OutputFile("x", 0, DecodingConfig(1.0, 10))
    output.path.write_text('{"index": 0}\n{"inde')
    output.open(tuple, print)
    output.append({"index": 1})
    output.close()
    assert rows_of(output.path) == [{"index": 0}, {"index": 1}]


def test_two_runs_at_once(tiny, pad_folder, capsys):
    with OutputFile("out/x", 0, DecodingConfig(1.0, 10)).locked():
        assert collect(*options(tiny)) == 2
    assert "is being written by another run" in capsys.readouterr().err


def test_a_prompt_that_the_chat_template_fails_on_is_skipped_until_the_template_is_mended(tiny, pad_folder, capsys):
    def command(template: str) -> int:
        tokenizer = load_tokenizer(str(tiny / "lm"))
        tokenizer.chat_template = template
        tokenizer.save_pretrained(pad_folder / "tokenizer")
        more = ("--chat_template", "on", "--tokenizer", pad_folder / "tokenizer", "--max_new_token", 2)
        return collect(*options(tiny, *more))

    works = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fails = "{% if 'cat' in messages[0]['content'] %}{{ raise_exception('no cats here') }}{% endif %}" + works
    assert command(fails) == 1
    assert (
        "error: out/x_0: prompt 1 is skipped: the chat template cannot be used (no cats here)"
        in capsys.readouterr().err
    )
    rows = rows_of(pad_folder / "out/x_0.jsonl")
    assert [bool(row["result"]) for row in rows] == [index != 1 for index in range(6)]
    assert "no cats here" in rows[1]["skipped"]
    assert command(works) == 0
    again = rows_of(pad_folder / "out/x_0.jsonl")
    assert again[1]["result"] and again[:1] + again[2:] == rows[:1] + rows[2:]
    assert command("{{ raise_exception('never') }}") == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .startswith("collect_model_outs.py: error: the chat template cannot")
    )
