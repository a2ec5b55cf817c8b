"""Attacks by paths, names and encodings: what can be meant is understood, the rest is refused with advice."""

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from attack import Attack, Outcome, run_command
from runs import final_records, gsm8k_rows, nudging_options, write_rows

from attacks.terminal import FIXTURE, server

LONG = "very-long-name-of-a-model-" * 20
NOWHERE = "http://127.0.0.1:9/v1"


def dry(*more: object, data: Callable[[Path], object] = lambda folder: None) -> Callable[[Path], Outcome]:
    """A dry run with further options, {folder} in them standing for the attack's folder."""

    def run(folder: Path) -> Outcome:
        write_rows(folder / "data", "gsm8k", gsm8k_rows(2))
        data(folder)
        words = [str(word).replace("{folder}", str(folder)) for word in more]
        options = nudging_options(NOWHERE, folder / "data", folder / "out")
        outcome = run_command("run_api.py", *options, "--dry_run", *words, env={"HOME": str(folder)})
        assert not (folder / "out").is_dir()
        return outcome

    return run


def run_at_home(folder: Path) -> Outcome:
    """A run whose paths begin with ~ in ways that no shell expands."""
    write_rows(folder / "data", "gsm8k", gsm8k_rows(1))
    options = nudging_options(server().host, "~/data", "~/out")
    outcome = run_command("run_api.py", *options, env={"HOME": str(folder)}, cwd=folder)
    assert len(final_records(folder / "out")) == 1 and not (folder / "~").exists()
    return outcome


def long_names(folder: Path) -> Outcome:
    """Shards of a run of models with names too long for a file, merged and shown."""
    data = write_rows(folder / "data", "gsm8k", gsm8k_rows(2))
    options = [*nudging_options(server().host, data, folder / "out"), "--nudging_model", f"{LONG}-llama-2-chat"]
    for shard in ("1/2", "2/2"):
        outcome = run_command("run_api.py", *options, "--shard", shard)
        assert outcome.exit_code == 0, outcome
    assert run_command("scripts/merge_shards.py", folder / "out").exit_code == 0
    whole = run_command("run_api.py", *options)
    assert "requests" not in whole.stderr and len(final_records(folder / "out")) == 2, whole
    table = run_command("scripts/results_table.py", folder / "out")
    assert LONG in table.stdout, table
    return whole


def encoded(encoding: str, mark: bytes = b"") -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        file = folder / "data/gsm8k/test.jsonl"
        file.write_bytes(mark + file.read_text().encode(encoding))

    return write


def scores_of_results(mark: bytes, encoding: str = "utf-8") -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        shutil.copytree(FIXTURE, folder / "gsm8k")
        for file in (folder / "gsm8k").rglob("*.json*"):
            file.write_bytes(mark + file.read_text().encode(encoding))
        result = next(file for file in (folder / "gsm8k").rglob("*.jsonl"))
        return run_command("eval_utils.py", result, "--dataset_name", "gsm8k")

    return run


def sweep_with_mark(folder: Path) -> Outcome:
    write_rows(folder / "data", "gsm8k", gsm8k_rows(1))
    pair = {"base_model": "b", "base_host": NOWHERE, "nudging_model": "llama-2-chat", "nudging_host": NOWHERE}
    values = "".join(f"{name} = {json.dumps(value)}\n" for name, value in pair.items())
    text = f'output_dir = "~/out"\ndata_dir = "~/data"\n[[pairs]]\n{values}'
    (folder / "sweep.toml").write_bytes(codecs.BOM_UTF8 + text.encode())
    outcome = run_command("scripts/sweep.py", "~/sweep.toml", "--dry_run", env={"HOME": str(folder)}, cwd=folder)
    assert f"1 to run; results go to {folder}/out" in outcome.stdout, outcome
    return outcome


def plain(script: str, *options: object) -> Callable[[Path], Outcome]:
    return lambda folder: run_command(script, *(str(option).replace("{folder}", str(folder)) for option in options))


def file_in_the_way(folder: Path) -> None:
    (folder / "file").write_text("x")


ATTACKS = [
    Attack("paths", "~ that no shell has expanded", run_at_home),
    Attack("paths", "models' names too long for a file, in shards", long_names, seconds=120),
    Attack("paths", "--exp_prefix too long for a file", dry("--exp_prefix", "x" * 300), 2, "shorten"),
    Attack("paths", "--exp_prefix ../x", dry("--exp_prefix", "../x"), 2, "--output_dir chooses the folder"),
    Attack("paths", "--exp_prefix ..", dry("--exp_prefix", "..")),
    Attack("paths", "--split ../x", dry("--split", "../x"), 2, "--split is the name of a split such as test"),
    Attack("paths", "--split ..", dry("--split", ".."), 2, "--split is the name of a split"),
    Attack("paths", "--split too long for a file", dry("--split", "x" * 300), 2, "shorten"),
    Attack("paths", "--split test.jsonl", dry("--split", "test.jsonl"), 2, "splits there: test"),
    Attack(
        "paths", "--output_dir a file", dry("--output_dir", "{folder}/file", data=file_in_the_way), 2, "is no folder"
    ),
    Attack("paths", "--output_dir below a file", dry("--output_dir", "/dev/null/x"), 2, "/dev/null is no folder"),
    Attack(
        "paths", "results_table, a name too long", plain("scripts/results_table.py", "x" * 3000), 2, "does not exist"
    ),
    Attack("paths", "--output_dir empty", dry("--output_dir", ""), 2, "leave it out, or name one"),
    Attack("paths", "--data_dir empty", dry("--data_dir", " "), 2, "leave it out, or name one"),
    Attack("paths", "--data_dir of nobody", dry("--data_dir", "~nobody-at-all/x"), 2, "is not a folder"),
    Attack("paths", "--data_dir too long", dry("--data_dir", "x" * 5000), 2, "is not a folder"),
    Attack(
        "paths", "--data_dir the data set's own", dry("--data_dir", "{folder}/data/gsm8k"), 2, "is the one above it"
    ),
    Attack("paths", "a model ~nobody/x", dry("--base_host", "", "--base_model", "~nobody-at-all/x"), 2, "--base_host"),
    Attack(
        "paths", "a model's file too long", dry("--base_host", "", "--base_model", "x" * 5000 + ".gguf"), 2, "no file"
    ),
    Attack("paths", "data with a byte order mark", dry(data=encoded("utf-8", codecs.BOM_UTF8))),
    Attack("paths", "data in UTF-16", dry(data=encoded("utf-16")), 2, "line 1.*it is in UTF-16; save it as UTF-8"),
    Attack("paths", "data in UTF-16 without a mark", dry(data=encoded("utf-16-le")), 2, "it is in UTF-16"),
    Attack("paths", "data in UTF-32", dry(data=encoded("utf-32")), 2, "it is in UTF-32"),
    Attack("paths", "results with a byte order mark", scores_of_results(codecs.BOM_UTF8)),
    Attack("paths", "results in UTF-16", scores_of_results(b"", "utf-16"), 2, "it is in UTF-16"),
    Attack("paths", "a config with a byte order mark, ~ in it", sweep_with_mark),
    Attack(
        "paths", "eval_utils, a name too long", plain("eval_utils.py", "gsm8k/" + "x" * 3000), 2, "there is no file"
    ),
    Attack("paths", "merge_shards, a name too long", plain("scripts/merge_shards.py", "x" * 3000), 2, "does not exist"),
    Attack("paths", "report into a folder", plain("scripts/report.py", FIXTURE, "-o", "{folder}"), 2, "Is a directory"),
]
