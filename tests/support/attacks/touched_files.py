"""Attacks on files: results that others have spoilt, deleted or replaced, and errors that nobody expected."""

import json
import os
import shutil
from pathlib import Path

from attack import Attack, Outcome, run_command
from doubles import ReplyServer, completion_reply
from made_runs import nudged_pieces, record, settings, write_run
from runs import gsm8k_rows, write_rows

RUN = {"settings": settings("nudging"), "samples": 2, "samples_of_all_shards": 2, "sessions": [{"seconds": 1}]}
RECORDS = [record(i, f"{i} + 1?", f"#### {i + 1}", nudged_pieces(i, i + 1), 1) for i in range(2)]
DEEP = "[" * 100_000


def spoilt(suffix: str, content: str | bytes | None, script: str, *options: object):
    """The files of a run, one of them with other content (None: a pipe), read by a command."""

    def run(folder: Path) -> Outcome:
        result = write_run(folder / "out", "run_shard1of1", RECORDS, settings("nudging"))
        result.with_name("run_shard1of1.run.json").write_text(json.dumps(RUN))
        touched = result.with_name(f"run_shard1of1{suffix}")
        touched.unlink()
        if suffix == ".json":
            result.with_name("run_shard1of1.jsonl").unlink()
        if content is None:
            os.mkfifo(touched)
        else:
            touched.write_bytes(content if isinstance(content, bytes) else content.encode())
        words = [folder / option[1:] if str(option).startswith("@") else option for option in options]
        return run_command(script, *words)

    return run


EVAL = ("eval_utils.py", "@out/gsm8k/all_info/run_shard1of1.json", "--judge", "none")
REPORT = ("scripts/report.py", "@out", "-o", "@page.html")
TABLE = ("scripts/results_table.py", "@out")
MERGE = ("scripts/merge_shards.py", "@out")


def in_mid_run(happens, *more: object):
    """run_api.py, and what happens to its output folder when the third question is asked."""

    def run(folder: Path) -> Outcome:
        asked = []

        def reply(path: str, body: dict) -> tuple:
            if "Tom has" in str(body):
                asked.append(body)
                if len(asked) == 3:
                    happens(folder / "out")
            return 200, {}, {"data": []} if path.endswith("models") else completion_reply(" It is 3.", ("It",), "stop")

        server = ReplyServer(reply)
        try:
            data = write_rows(folder / "data", "gsm8k", gsm8k_rows(5))
            options = ["--exp", "base_only", "--base_model", "b", "--base_host", server.host, "--data_dir", data]
            options += ["--output_dir", folder / "out", "--num_threads", 1, *more]
            (folder / "temporary").mkdir()
            outcome = run_command("run_api.py", *options, env={"TMPDIR": str(folder / "temporary")})
        finally:
            server.stop()
        logs = [*(folder / "out").rglob("*.jsonl"), *(folder / "temporary").glob("saved-*")]
        kept = max((len(path.read_text().splitlines()) for path in logs if path.is_file()), default=0)
        assert kept >= 2, f"{kept} records are left"
        return outcome

    return run


def replaced(out: Path) -> None:
    (log,) = out.rglob("*.jsonl")
    log.unlink()
    log.write_text("another's\n")


def with_a_fault(place: str):
    """run_api.py with a fault in a function of its own."""

    def run(folder: Path) -> Outcome:
        server = ReplyServer(lambda path, body: (200, {}, completion_reply(" It is 3.", ("It",), "stop")))
        data = write_rows(folder / "data", "gsm8k", gsm8k_rows(3))
        module, name = place.rsplit(".", 1)
        script = folder / "faulty.py"
        script.write_text(
            f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[3])!r})\nimport {module}, run_api\n"
            f"def broken(*a, **k):\n    return None['x']\n{module}.{name} = broken\nsys.exit(run_api.main())\n"
        )
        try:
            options = ["--exp", "base_only", "--base_model", "b", "--base_host", server.host, "--data_dir", data]
            outcome = run_command(str(script), *options, "--output_dir", folder / "out")
        finally:
            server.stop()
        (told,) = (folder / "out").rglob("*.run.json")
        assert "TypeError: 'NoneType'" in told.read_text()
        times = outcome.stderr.count("Traceback (most recent call last)")
        assert times == 1, f"{times} tracebacks"
        shown = outcome.stderr.replace("Traceback", "trace back")  # this one is wanted
        return Outcome(outcome.exit_code, outcome.seconds, outcome.stdout, shown)

    return run


def judged(content: str):
    def run(folder: Path) -> Outcome:
        (folder / "a.jsonl").write_text(content)
        return run_command("measure_reward.py", "--out_file", folder / "a.jsonl", "--metrics")

    return run


ATTACKS = [
    Attack("files", "run.json is null: eval", spoilt(".run.json", "null", *EVAL), 2, r"run\.json cannot be read"),
    Attack("files", "run.json of lists in lists: merge", spoilt(".run.json", DEEP, *MERGE), 1, "more than 100 deep"),
    Attack(
        "files",
        "run.json has a key twice: report",
        spoilt(".run.json", '{"settings":1,"settings":2}', *REPORT),
        0,
        'the key "settings" stands twice',
    ),
    Attack("files", "run.json is a pipe: table", spoilt(".run.json", None, *TABLE), 0, "no file but a pipe"),
    Attack(
        "files",
        "settings is a list: table",
        spoilt(".run.json", '{"settings": []}', *TABLE),
        0,
        "settings must be a table of keys and values",
    ),
    Attack("files", "a line is no JSON: eval", spoilt(".jsonl", "{oops\n", *EVAL), 2, r"jsonl, line 1: not a record"),
    Attack(
        "files", "broken UTF-8: report", spoilt(".jsonl", b'{"a":"\xff"}\n', *REPORT), 2, "line 1 is no text in UTF-8"
    ),
    Attack(
        "files",
        "seconds is infinite: eval",
        spoilt(".jsonl", json.dumps(RECORDS[0] | {"seconds": float("inf")}) + "\n", *EVAL),
        2,
        "sample 0: seconds must be a number of seconds from 0; it is Infinity",
    ),
    Attack(
        "files",
        "a number of 5000 digits: table",
        spoilt(".json", '[{"index": 1' + "0" * 5000 + "}]", *TABLE),
        2,
        "more than 4300 digits",
    ),
    Attack(
        "files",
        "a question of half a character: report",
        spoilt(".jsonl", json.dumps(RECORDS[0] | {"question": "\ud800\x00"}) + "\n", *REPORT),
    ),
    Attack("files", "answers in lists in lists: measure", judged('{"prompt":"p","result":' + DEEP + "\n"), 2, "line 1"),
    Attack(
        "files", "answers of another shape: measure", judged('{"prompt": 3}\n'), 2, 'row 0: there is no text "prompt"'
    ),
    Attack("files", "the output folder is deleted in mid-run", in_mid_run(shutil.rmtree), 0, "written anew with all"),
    Attack(
        "files",
        "the output folder is moved in mid-run",
        in_mid_run(lambda out: out.rename(out.with_name("x"))),
        0,
        "deleted or moved .* written anew with all",
    ),
    Attack(
        "files",
        "the log is replaced in mid-run",
        in_mid_run(replaced),
        2,
        r"replaced by another file .* is saved in \S+",
    ),
    Attack("files", "a fault in the loop", with_a_fault("experiment.sample.decode"), 1, "3 of 3 samples failed"),
    Attack(
        "files", "a fault in the scoring", with_a_fault("experiment.run.score_by_rule"), 1, "a fault of the program"
    ),
]
