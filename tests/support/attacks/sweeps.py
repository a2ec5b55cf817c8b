"""Attacks on sweeps: what a dry run has to find, and values that would become more than a value."""

import json
from collections.abc import Callable
from pathlib import Path

from attack import Attack, Outcome, run_command
from runs import gsm8k_rows, write_rows

HOST = "http://127.0.0.1:9/v1"
PAIR = {"base_model": "base-lm", "base_host": HOST, "nudging_model": "llama-2-chat", "nudging_host": HOST}


def sweep(
    top: str = "", *options: str, env: dict | None = None, end: str = "", seconds: float = 60.0, **changed: str | None
) -> Callable[[Path], Outcome]:
    """The dry run of a sweep of one pair, some of whose keys are changed, or left out (None)."""

    def run(folder: Path) -> Outcome:
        write_rows(folder / "data", "gsm8k", gsm8k_rows(3))
        pair = {name: value for name, value in (PAIR | changed).items() if value is not None}
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in pair.items())
        text = f'output_dir = "{folder}/out"\ndata_dir = "{folder}/data"\n{top}\n[[pairs]]\n{lines}{end}'
        (folder / "sweep.toml").write_text(text)
        words = options or ("--dry_run",)
        outcome = run_command("scripts/sweep.py", folder / "sweep.toml", *words, env=env, seconds=seconds)
        assert "--dry_run" not in words or not (folder / "out/gsm8k").exists()
        return outcome

    return run


def sbatch(line: str) -> Callable[[Path], Outcome]:
    return sweep("", "--slurm", end=f"[slurm.sbatch]\n{line}\n")


def run_of_a_folder(folder: Path) -> Outcome:
    """A whole sweep of a transformers model in a folder, without a host: each run loads it itself."""
    from tiny_models import make_model, save  # PyTorch, for this attack alone

    model = save(folder / "tiny", make_model("llama", 0))
    pair = {"base_model": str(model), "base_host": None, "nudging_model": str(model), "nudging_host": None}
    ended = sweep(
        'experiments = ["base_only"]\n[options]\nmax_token_total = 4', "--only", "pair 1", seconds=240, **pair
    )(folder)
    assert "| gsm8k " in (folder / "out/results.md").read_text()
    return ended


ATTACKS = [
    Attack("sweeps", "nothing wrong", sweep()),
    Attack("sweeps", "a host still to come", sweep(base_host=None), says="BASE_HOST"),
    Attack(
        "sweeps", "a GGUF file that is not there", sweep(base_model="none.gguf", base_host=None), 1, "no file none.gguf"
    ),
    Attack(
        "sweeps",
        "a bundled model that is not fetched",
        sweep(nudging_model="demo-aligned", nudging_host=None, env={"NUDGING_CACHE": "/nowhere"}),
        1,
        "get_demo_models.py",
    ),
    Attack("sweeps", "a model's folder, without a host", run_of_a_folder, seconds=240),
    Attack("sweeps", "a host that is none", sweep(base_host="ftp://x"), 2, "must be a URL"),
    Attack(
        "sweeps", "a key's variable that is not set", sweep(base_api_key_env="NO_KEY_HERE"), 2, "NO_KEY_HERE is not set"
    ),
    Attack("sweeps", "a data set that is not there", sweep('data_sets = ["svamp"]'), 1, "cannot start.*svamp"),
    Attack("sweeps", "a family that nobody knows", sweep(nudging_model="mine"), 1, "tells no instruct template"),
    Attack("sweeps", "more shards than samples", sweep("shards = 9"), 1, "--shard 4/9 has no samples"),
    Attack("sweeps", "a judge that cannot be", sweep('[options]\njudge_host = "x"'), 2, "--judge_host must be a URL"),
    Attack(
        "sweeps",
        "a newline in a value",
        sbatch('time = "1:00\\n#SBATCH --uid=0"'),
        2,
        "sbatch.time must be a text of one line",
    ),
    Attack("sweeps", "a carriage return in a value", sbatch('time = "1:00\\r"'), 2, "must be a text of one line"),
    Attack("sweeps", "NUL in a value", sbatch('time = "1\\u0000"'), 2, "must be a text of one line"),
    Attack(
        "sweeps", "a newline in an option's name", sbatch('"time=1\\n#SBATCH --uid" = 1'), 2, "is no option of sbatch"
    ),
    Attack(
        "sweeps", "quotes that end early", sbatch('comment = "\\"a\\" --uid=0 \\"b"'), 2, "holds quotes or backslashes"
    ),
    Attack("sweeps", "the array's own option", sbatch('array = "1-9"'), 2, "max_at_once"),
    Attack(
        "sweeps", "a newline in a model's name", sweep(base_model="a\nb"), 2, "base_model must be a text of one line"
    ),
    Attack(
        "sweeps",
        "an option behind an end token",
        sweep('[options]\nend_tokens = ["--rerun"]'),
        2,
        "begins like an option",
    ),
    Attack("sweeps", "an option in a key", sweep('[options]\n"output_dir=x" = true'), 2, "is no option of run_api.py"),
    Attack(
        "sweeps",
        "another line of a setup",
        sweep(end='[slurm]\nsetup = "a\\u0000b"\n'),
        2,
        "setup must be a text of lines",
    ),
]
