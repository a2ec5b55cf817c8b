"""Runs made at test time, in the files and the record format of run_api.py."""

import json
from pathlib import Path

HOSTILE = '<script>alert(1)</script> </script><!--<script> "><img src=x onerror="window.hacked=1"> \' & \u2028 $x^2$ {{ 7 * 7 }}'


def record(index: int, question: str, gold: str, pieces: list[tuple[str, str]] | str, correct: int | None) -> dict:
    """A record of a nudging answer (pieces: the nudging model's words, the base model's), or of one model's text."""
    roles = ("base",) if isinstance(pieces, str) else ("base", "nudging")
    made = {
        "index": index,
        "id": index,
        "question": question,
        "context": "",
        "gold_answer": gold,
        "q_prefix": "Question: ",
        "scores": None if correct is None else {"correct": correct},
        "usage": {role: {"requests": 2, "prompt_tokens": 100, "completion_tokens": 20, "retries": 0} for role in roles},
        "seconds": 0.5,
    }
    if isinstance(pieces, str):
        return made | {"raw_answer": pieces, "stop_reason": "stop"}
    joined = [words + rest for words, rest in pieces]
    return made | {
        "raw_answer": "".join(joined).strip(),
        "all_nudging_words": [words for words, _ in pieces],
        "all_completions": joined,
        "stop_reason": "nudging_model_stop",
    }


def failed(index: int, question: str, gold: str, error: str) -> dict:
    """A record of a sample whose model did not answer."""
    made = record(index, question, gold, "", None)
    del made["raw_answer"], made["stop_reason"], made["scores"]
    return made | {"error": error}


def settings(exp: str, **others) -> dict:
    """The settings that run.json holds."""
    models = {
        "base_only": {"base_model": "org/large"},
        "nudging_only": {"nudging_model": "small-chat"},
        "nudging": {"base_model": "org/large", "nudging_model": "small-chat", "top_prob_thres": 0.3},
        "baseline": {"base_model": "org/large", "proxy_chat_model": "small-chat", "baseline_method": "ensemble"},
    }
    common = {"split": "test", "dataset_name": "gsm8k", "num_samples": None, "exp": exp, "max_token_total": 512}
    return common | models[exp] | others


def write_run(
    folder: Path, name: str, records: list[dict], run_settings: dict | None, *, finished: bool = True
) -> Path:
    """Write a run below `folder`; returns the result file."""
    all_info = folder / (run_settings or {}).get("dataset_name", "gsm8k") / "all_info"
    all_info.mkdir(parents=True, exist_ok=True)
    (all_info / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if finished:
        (all_info / f"{name}.json").write_text(json.dumps(records))
    if run_settings is not None:
        (all_info / f"{name}.run.json").write_text(json.dumps({"settings": run_settings, "sessions": []}))
    return all_info / (f"{name}.json" if finished else f"{name}.jsonl")


def questions(n: int) -> list[tuple[str, str]]:
    """Questions with their gold answers."""
    return [(f"Nora has {i} pears and buys {i + 1} more. How many has she?", f"#### {2 * i + 1}") for i in range(n)]


def nudged_pieces(i: int, total: int, length: int = 1) -> list[tuple[str, str]]:
    """An answer by nudging that ends in `total`."""
    steps = [(" Next,", f" we add {i} and {i + 1}")] * length
    return [("First,", f" Nora has {i} pears."), *steps, (" Therefore, the answer is", f" {total}.")]


def write_small_runs(folder: Path) -> None:
    """Five runs over four questions: base only, and nudging at three thresholds (one with a failed sample), and a baseline."""
    asked = questions(4)
    base = [record(i, q, gold, f"The number of pears is {i}.", int(i == 0)) for i, (q, gold) in enumerate(asked)]
    write_run(folder, "base", base, settings("base_only"))
    for threshold, right in ((0.2, 1), (0.4, 3), (0.6, 2)):
        rows = [
            record(i, q, gold, nudged_pieces(i, 2 * i + (i < right)), int(i < right))
            for i, (q, gold) in enumerate(asked)
        ]
        if threshold == 0.6:
            rows[3] = failed(3, *asked[3], "http://localhost:8000/v1: no answer after 8 retries")
        write_run(folder, f"nudging_{threshold}", rows, settings("nudging", top_prob_thres=threshold))
    unscored = [record(i, q, gold, f"Perhaps {i}?", None) for i, (q, gold) in enumerate(asked)]
    write_run(folder, "ensemble", unscored, settings("baseline"))
