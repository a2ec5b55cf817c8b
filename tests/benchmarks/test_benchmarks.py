"""Every benchmark does its work, at its smallest: what it measures is no matter here."""

import subprocess
import sys

import needs
import pytest
from runs import REPOSITORY
from waiting import HANG

pytestmark = pytest.mark.slow


def benchmark(name: str, *options: object) -> str:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{name}.py"), *map(str, options)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_nudging_speed():
    small = ("--samples", 1, "--threads", 1, "--cases", "nudging_gamma0.4_short", "--small_token_ms", 1)
    printed = benchmark("nudging_speed", "scripted", *small)
    assert all(word in printed for word in ("base alone", "published", "streamed", " 1/1 "))


def test_attacks():
    assert "1 of 1 end as they should" in benchmark("attacks", "--part", "options", "--name", "no model")


def test_client_throughput():
    printed = benchmark("client_throughput", "--threads", 1, "--seconds", 0.2)
    assert "published" in printed and "streamed" in printed


def test_serving():
    printed = benchmark("serving", "--quick")
    assert "| first text " in printed and "none lost or mixed up" in printed and "| after 20 more " in printed


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory):
    """Two small llamas with random weights, as folders."""
    needs.module("torch")
    from tiny_models import make_model, save

    folder = tmp_path_factory.mktemp("models")
    return [
        save(folder / name, make_model("llama", seed, context=4096)) for seed, name in enumerate(("base", "chat"), 1)
    ]


@pytest.mark.long
def test_local_nudging(tiny_pair):
    data = REPOSITORY / "tests/fixtures"
    sizes = ("--data_dir", data, "--questions", 1, "--slow_questions", 1, "--threads", 2, "--max_token_total", 6)
    printed = benchmark("local_nudging", "--base", tiny_pair[0], "--nudging", tiny_pair[1], *sizes)
    assert all(f"| {method} " in printed for method in ("base", "nudging", "published", "ensemble", "proxy_tuning"))
    assert benchmark("local_nudging", "--base", tiny_pair[0], "--nudging", tiny_pair[1], *sizes, "--identity")


def test_cpu_passes(tiny_pair):
    assert "blocked" in benchmark("cpu_passes", "--model", tiny_pair[0], "--context", 4)


def test_guided_decoding():
    needs.module("torch")
    sizes = {
        "layers": 1,
        "hidden": 32,
        "vocabulary": 64,
        "prompt": 4,
        "new": 3,
        "topk": 2,
        "repeats": 1,
        "long_prompt": 0,
    }
    options = [word for name, size in sizes.items() for word in (f"--{name}", size)]
    printed = benchmark("guided_decoding", *options, "--engine", "packed")
    assert "| ARGS, one-row tree step " in printed
    # Three new tokens of one prompt and of eight: three passes of the base LM, and those of the reward model.
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if ", engine packed" in line
    ]
    assert [(row[0].split(",")[0], row[1], row[4]) for row in rows] == [
        (method, batch, "3") for batch in ("1", "8") for method in ("PAD", "ARGS")
    ]
    assert "other tokens than" not in printed
