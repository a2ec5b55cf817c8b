"""The benchmarks of a GPU, at their smallest on a CPU, with nothing installed but what they say that they need."""

import json
import subprocess
import sys

import needs
import pytest
from runs import REPOSITORY
from waiting import HANG

pytestmark = pytest.mark.slow
needs.module("torch")
BARE = REPOSITORY / "tests/support/bare_python.py"


def run(name: str, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BARE), str(REPOSITORY / "benchmarks" / f"{name}.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)


def printed(name: str, *options: object) -> str:
    finished = run(name, *options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("package", ["tiktoken", "openai", "pydantic", "pandas", "datasets", "accelerate", "tabulate"])
def test_what_is_not_needed_is_not_there(tmp_path, package):
    script = tmp_path / "script.py"
    script.write_text(f"import importlib.util\nassert importlib.util.find_spec({package!r}) is None\n")
    assert subprocess.run([sys.executable, BARE, script], check=False).returncode == 0


def test_gpu_nudging(tmp_path):
    sections = ["alone@2", "nudging@2", "pad@2", "args@2", "ensemble@2", "proxy_tuning@2", "generate@2", "continuous@2"]
    more = ["floor", "passes", "profile"]
    options = ("--scale", "tiny", "--engines", "graphs", "--at_a_time", 2, "--tokens", 5, "--out", tmp_path)
    printed("gpu_nudging", *options, "--only", *sections, *more)
    found = json.loads((tmp_path / "gpu_nudging.json").read_text())
    rows = {f"{row['section']}@{row['at_a_time']}": row for row in found["rows"]}
    assert rows.keys() == set(sections) and not found["errors"]
    assert all(row["tokens"] >= 10 and row["speed"] > 0 for row in rows.values())
    # The texts are chosen: whoever writes them, they are right.
    assert {rows[name]["texts"] for name in ("alone@2", "generate@2", "continuous@2")} == {"2/2 right"}
    assert rows["alone@2"]["of_alone"] == 1 and 0 <= rows["nudging@2"]["outside"] < 1
    assert rows["pad@2"]["base_per_token"] == rows["alone@2"]["base_per_token"] == 1
    assert set(json.loads((tmp_path / "prices.json").read_text())) == {"tiny"}


def test_predictions_by_prices_that_were_measured(tmp_path):
    prices = tmp_path / "prices.json"
    one = {"passes": {"1": 2, "64": 4}, "steps": {"1": 1}}
    prices.write_text(json.dumps({"7b": one, "1.1b": one}))
    printed(
        "gpu_nudging",
        "--prices",
        prices,
        "--at_a_time",
        1,
        "--tokens",
        16,
        "--runs",
        1,
        "--answers",
        1,
        "--out",
        tmp_path,
    )
    rows = {row["section"]: row for row in json.loads((tmp_path / "gpu_nudging.json").read_text())["rows"]}
    assert rows.keys() == {"alone", "nudging", "ensemble", "proxy_tuning"} and all(
        r["predicted"] for r in rows.values()
    )
    # The prompt is a pass of 64, and of the sixteen tokens fifteen are steps.
    assert rows["alone"]["speed_in_passes"] == pytest.approx(16 / (4 + 8 * 2) * 1000, rel=1)
    assert rows["alone"]["speed"] < rows["alone"]["speed_in_passes"] * 1.05


def test_prices_and_shapes_that_are_none(tmp_path):
    (tmp_path / "empty.json").write_text("{}")
    for options, said in (
        (("--prices", tmp_path / "empty.json"), "has none for the shape '7b'"),
        (("--prices", "h100", "--base", "70b"), "no shape: '70b'"),
        (("--base", "64,2,3,2,64"), "no shape: '64,2,3,2,64'"),
        (("--prices", tmp_path / "nothing.json"), "nothing.json"),
    ):
        finished = run("gpu_nudging", "--out", tmp_path, *options)
        assert finished.returncode == 2 and said in finished.stderr and "Traceback" not in finished.stderr


def test_half_precision_and_identity():
    said = printed("half_precision", "random", "--tokens", 3)
    assert "random, bfloat16: 24 places" in said and "rounding" in said
    said = printed("identity_check", "--architectures", "gemma2")
    assert "all the same" in said and said.count("same ") == 2


def test_gpu_checks(tmp_path):
    said = printed("gpu_checks", "--scale", "tiny", "--only", "identity", "tests", "rest", "--out", tmp_path)
    found = json.loads((tmp_path / "gpu_checks.json").read_text())
    assert {name: step["verdict"] for name, step in found.items()} == {
        "identity": "passed",
        "tests": "not run: of a tiny run",
        "rest": "passed",
    }
    assert "identity: passed" in said


def test_gpu_checks_fail_where_the_engines_write_something_else(tmp_path):
    finished = run("gpu_checks", "--only", "identity", "--device", "cuda:99", "--out", tmp_path)
    assert finished.returncode == 1 and "identity: FAILED" in finished.stdout
