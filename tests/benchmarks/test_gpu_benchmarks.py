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
NOT_NEEDED = ("tiktoken", "openai", "pydantic", "pandas", "datasets", "accelerate", "tabulate", "pytest")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))


def printed(name: str, *options: object) -> str:
    command = [sys.executable, str(BARE), str(REPOSITORY / "benchmarks" / f"{name}.py"), *map(str, options)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_what_is_not_needed_is_not_there(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"from importlib.util import find_spec\nassert not [*filter(find_spec, {NOT_NEEDED})]\n")
    assert subprocess.run([sys.executable, BARE, script], check=False).returncode == 0
    script.write_text("import torch, transformers, yaml")
    assert subprocess.run([sys.executable, BARE, script], check=False).returncode == 0


@pytest.mark.long
def test_gpu_nudging(tmp_path):
    sections = ["alone@2", "nudging@2", "pad@2", "args@2", "proxy_tuning@2", "generate@2", "continuous@2"]
    options = ("--scale", "tiny", "--engines", "graphs", "--at_a_time", 2, "--tokens", 4, "--out", tmp_path)
    said = printed("gpu_nudging", *options, "--only", *sections, "floor", "passes", "profile")
    found = json.loads((tmp_path / "gpu_nudging.json").read_text())
    rows = {f"{row['section']}@{row['at_a_time']}": row for row in found["rows"]}
    assert rows.keys() == set(sections) and not found["errors"]
    assert all(row["tokens"] >= 8 and row["speed"] > 0 for row in rows.values())
    # The texts are chosen: whoever writes them, they are right.
    assert {rows[name]["texts"] for name in ("alone@2", "generate@2", "continuous@2")} == {"2/2 right"}
    assert rows["alone@2"]["of_alone"] == 1 and 0 <= rows["nudging@2"]["outside"] < 1
    assert rows["pad@2"]["base_per_token"] == rows["alone@2"]["base_per_token"] == 1
    assert json.loads((tmp_path / "prices.json").read_text())["tiny"].keys() == {"passes", "steps"}
    assert found["sections"].keys() == {"floor", "passes/graphs", "profile/graphs"}
    assert "| proxy_tuning | graphs " in said


def test_predictions_by_prices_from_a_file(tmp_path):
    prices = tmp_path / "prices.json"
    one = {"passes": {"1": 4, "128": 8}, "steps": {"1": 4}}
    prices.write_text(json.dumps({"7b": one, "1.1b": one}))
    options = ("--at_a_time", 1, "--tokens", 16, "--runs", 1, "--answers", 1, "--only", "alone", "nudging")
    assert "PREDICTIONS" in printed("gpu_nudging", "--prices", prices, "--out", tmp_path, *options)
    rows = {row["section"]: row for row in json.loads((tmp_path / "gpu_nudging.json").read_text())["rows"]}
    assert rows.keys() == {"alone", "nudging"} and all(row["predicted"] for row in rows.values())
    # The prompt of a hundred tokens is a pass of 8 ms, which gives the first token; fifteen more are of 4 ms each.
    assert rows["alone"]["speed_in_passes"] == pytest.approx(16 / (8 + 15 * 4) * 1000, rel=0.01)
    assert rows["alone"]["texts"] == "1/1 right"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--prices", "empty.json"), "has none for the shape '7b'"),
        (("--prices", "spoilt.json"), "spoilt.json has no prices"),
        (("--prices", "nothing.json"), "nothing.json"),
        (("--base", "70b"), "no shape: '70b'"),
        (("--nudging", "64,2,3,2,64"), "no shape: '64,2,3,2,64'"),
        (("--tokens", "0"), "--tokens and --runs begin at 1"),
    ],
)
def test_prices_and_shapes_that_are_none(tmp_path, monkeypatch, capsys, options, said):
    import gpu_nudging

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "spoilt.json").write_text('{"7b": {"passes": {"1": -1}, "steps": {}}}')
    with pytest.raises(SystemExit) as ended:
        gpu_nudging.main(list(options))
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.long
def test_gpu_checks(tmp_path):
    said = printed("gpu_checks", "--scale", "tiny", "--only", "identity", "tests", "--minutes", 60, "--out", tmp_path)
    found = json.loads((tmp_path / "gpu_checks.json").read_text())
    verdicts = {"identity": "passed", "tests": "not run: pytest or hypothesis is not installed"}
    assert {name: step["verdict"] for name, step in found.items()} | {"tests": verdicts["tests"]} == verdicts
    assert "float32 on cpu: all the same" in said


@pytest.mark.parametrize(("failing", "code"), [("identity", 1), ("half", 3), ("none", 0)])
def test_gpu_checks_end_with_what_failed(tmp_path, monkeypatch, capsys, failing, code):
    import gpu_checks

    def steps(options):
        return [
            gpu_checks.Step(name, [sys.executable, "-c", f"print('done'); raise SystemExit({name == failing:d})"])
            for name in ("identity", "half")
        ]

    monkeypatch.setattr(gpu_checks, "steps", steps)
    assert gpu_checks.main(["--out", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert said.count("  done") == 2 and (f"{failing}: FAILED (exit code 1)" in said) == bool(code)


def test_a_step_that_hangs_is_ended(monkeypatch):
    import gpu_checks

    monkeypatch.setattr(gpu_checks, "LEAST_S", 0.5)
    step = gpu_checks.Step("hangs", [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"])
    assert gpu_checks.run(step, 1.0)["verdict"] == "over its time of 1 s"
    assert gpu_checks.run(step, 0.1)["verdict"] == "not run: 0 s are left"


def test_an_engine_that_writes_something_else_is_noticed(monkeypatch):
    import identity_check
    import torch

    from language_models.local.packed_engine import PackedEngine

    run = PackedEngine.run

    def other(self, segments):
        found = run(self, segments)
        token = found[0][-1]
        found[0][-1] = type(token)(token.token ^ 1, token.top)
        return found

    monkeypatch.setattr(PackedEngine, "run", other)
    well, how = identity_check.check("llama", "packed", torch.device("cpu"))
    assert not well and not how.startswith("298 of 298")
    monkeypatch.setattr(PackedEngine, "run", run)
    assert identity_check.check("llama", "packed", torch.device("cpu"))[0]


def test_worse_than_rounding_is_noticed():
    import half_precision
    import torch

    exact = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))

    def noisy(scale, seed):
        return exact + scale * torch.randn(exact.shape, generator=torch.Generator().manual_seed(seed))

    ways = dict.fromkeys(half_precision.WAYS)
    ways |= {way: noisy(0.01, n) for n, way in enumerate(ways)}
    assert not half_precision.worse(half_precision.compared(exact, ways))
    report = half_precision.compared(exact, ways | {"graphs": noisy(0.1, 9)})
    found = half_precision.worse(report)
    assert len(found) == 2 and all(line.startswith("graphs: ") for line in found)
    # Where the choice is another one, it was close.
    assert 0 < report["ways"]["packed"]["largest_margin_there"] < 0.1
