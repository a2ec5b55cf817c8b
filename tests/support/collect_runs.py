"""How tests run collect_model_outs.py, and what they look at. The caller has torch."""

import json

import collect_model_outs

GREEDY = {"rm_weight": 1.0, "topk": 10, "mode": "greedy", "sample_temp": None}
PREFERENCE = "[Guidelines] Be brief. [Principles] humor [Instruction] "


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("elapsed", "batch", "method")} for row in rows]


def options(tiny, *more: object, rm="rm", out="out/x") -> list[str]:
    base = [
        "--llm",
        tiny / "lm",
        "--config",
        "x.config",
        "--out_file",
        out,
        "--dataset",
        "p.json",
        "--max_new_token",
        12,
    ]
    base += ["--llm_gpu", "cpu", "--rm_gpu", "cpu"] + (["--rm", tiny / rm] if rm else [])
    return [str(word) for word in (*base, *more)]


def collect(*words: object) -> int:
    return collect_model_outs.main([str(word) for word in words])
