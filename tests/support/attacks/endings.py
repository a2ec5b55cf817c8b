"""Attacks on a run's end: samples that cannot be asked, odd records, and SIGTERM at every time and with every kind of model."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from attack import Attack, Outcome, run_command
from doubles import ScriptedServer
from gguf_files import gguf_bytes
from judge_server import RIGHT, JudgeServer
from runs import REPOSITORY, final_records, gsm8k_rows, write_rows
from waiting import records_in

from demo.catalogue import DEMO_MODELS, demo_cache_dir

RAISES = (
    "{% for m in messages %}{% if 'zebra' in m['content'] %}{{ raise_exception('no zebras here') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
)
ENDS_IN = 10.0  # seconds after SIGTERM
GGUF = all((demo_cache_dir() / DEMO_MODELS[name].file).is_file() for name in ("demo-base", "demo-aligned"))
HOSTED, SERVED, LOADED = "hosted", "GGUF", "transformers"
TORCH = find_spec("torch") is not None
ROLES = {
    "base_only": ("base",),
    "nudging_only": ("nudging",),
    "nudging": ("base", "nudging"),
    "baseline": ("base", "proxy_chat"),
}


@contextlib.contextmanager
def scripted(*options: str) -> Iterator[ScriptedServer]:
    server = ScriptedServer(*options).start()
    try:
        yield server
    finally:
        server.stop()


def models(exp: str, kind: str, host: str, folder: Path) -> list[str]:
    words = ["--exp", exp]
    for role in ROLES[exp]:
        aligned = role != "base"
        if kind == LOADED:
            words += [f"--{role}_model", str(tiny_model(folder / role, aligned))]
            continue
        hosted, served = ("llama-2-chat", "demo-aligned") if aligned else ("base-lm", "demo-base")
        words += [f"--{role}_model", hosted if kind == HOSTED else served]
        words += [f"--{role}_host", host] if kind == HOSTED else []
    return words


def tiny_model(folder: Path, aligned: bool) -> Path:
    """A small model with random weights, for this process."""
    from tiny_models import make_model, save

    return save(folder, make_model("llama", 1 + aligned, context=4096))


def questions(folder: Path, *more: str, many: int = 2) -> list[str]:
    rows = gsm8k_rows(many) + [{"question": question, "answer": "#### 1"} for question in more]
    return ["--data_dir", str(write_rows(folder / "data", "gsm8k", rows)), "--output_dir", str(folder / "out")]


def one_question_fails(question: str, *options: str, fails: bool = True, dry: bool = False):
    """A run in whose last sample the prompt cannot be written."""

    def run(folder: Path) -> Outcome:
        template = folder / "model.gguf"
        template.write_bytes(gguf_bytes(tokenizer__chat_template=RAISES))
        with scripted("--seed", "2") as server:
            words = [
                *models("nudging", HOSTED, server.host, folder),
                *questions(folder, question),
                "--max_token_total",
                "40",
            ]
            outcome = run_command("run_api.py", *words, "--nudging_template", f"tokenizer:{template}", *options)
        if not dry:
            *others, odd = final_records(folder / "out")
            assert all(record["raw_answer"] for record in others) and ("error" in odd) == fails
        return outcome

    return run


def judging(command: str, *options: str, raw_answer: str = "4"):
    """Judging answers one of which holds something odd."""

    def run(folder: Path) -> Outcome:
        server = JudgeServer()
        server.replies = [RIGHT]
        row = {"question": "Is it?", "gold_answer": "yes", "scores": None, "context": ""}
        rows = [row | {"index": i, "id": i, "raw_answer": answer} for i, answer in enumerate(("yes", raw_answer))]
        path = folder / "outputs/strategyqa/all_info/x.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(rows))
        try:
            return run_command(
                command, path, "--judge_model", "j", "--judge_host", server.host, *options, env={"OPENAI_API_KEY": "k"}
            )
        finally:
            server.stop()

    return run


def told_to_stop(
    exp: str, kind: str, *options: str, when: float | None = None, number: int = signal.SIGTERM, twice: bool = False
) -> Callable[[Path], Outcome]:
    """A run that is told to stop after its first record, or some seconds after it has a folder; timed from then on."""

    def run(folder: Path) -> Outcome:
        with scripted("--seed", "2", "--latency_ms", "40") as server:
            words = [*models(exp, kind, server.host, folder), *questions(folder, many=200), "--max_token_total", "200"]
            command = [sys.executable, str(REPOSITORY / "run_api.py"), *words, "--num_threads", "2", *options]
            with (folder / "err").open("wb") as err:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < 90:
                if (folder / "out").exists() if when is not None else records_in(folder / "out"):
                    break
                time.sleep(0.05)
            time.sleep(when or 0)
            told = time.monotonic()
            process.send_signal(number)
            if twice:
                time.sleep(0.5)
                process.send_signal(number)
            try:
                code = process.wait(4 * ENDS_IN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = None
        took = time.monotonic() - told
        assert took < ENDS_IN, f"{took:.1f} s"
        return Outcome(code, took, "", (folder / "err").read_text(errors="replace"))

    return run


ATTACKS = [
    Attack("endings", "a template raises on one word", one_question_fails("A zebra?"), 1, "no zebras here"),
    Attack(
        "endings",
        "the same, --dry_run",
        one_question_fails("A zebra?", "--dry_run", dry=True),
        1,
        "1 of 3 samples would fail; the first: row 2: .*no zebras here",
    ),
    Attack("endings", "half a character in a question", one_question_fails("Half \ud83d?", fails=False)),
    Attack("endings", "NUL in a question", one_question_fails("A\x00B?", fails=False)),
    Attack("endings", "a question of 400,000 characters", one_question_fails("word " * 80_000, fails=False)),
    Attack("endings", "half a character in an answer that is judged", judging("eval_utils.py", raw_answer="no \ud83d")),
    Attack("endings", "NUL in an answer that is judged", judging("eval_utils.py", raw_answer="\x00")),
    *(Attack("endings", f"SIGTERM, hosted, {exp}", told_to_stop(exp, HOSTED), 143, "told to stop") for exp in ROLES),
    Attack("endings", "SIGTERM, hosted, published calls", told_to_stop("nudging", HOSTED, "--calls", "published"), 143),
    Attack(
        "endings", "SIGTERM, hosted, while it starts", told_to_stop("nudging", HOSTED, when=0.1), 143, "interrupted"
    ),
    Attack("endings", "Ctrl-C twice, hosted", told_to_stop("nudging", HOSTED, number=signal.SIGINT, twice=True), 130),
]
if TORCH:
    ATTACKS += [
        Attack("endings", f"SIGTERM, {LOADED}, {exp}", told_to_stop(exp, LOADED), 143, "told to stop") for exp in ROLES
    ]
if GGUF:  # the demo's models, where they have been fetched
    ATTACKS += [
        *(
            Attack("endings", f"SIGTERM, {SERVED}, {exp}", told_to_stop(exp, SERVED), 143, "told to stop")
            for exp in ROLES
        ),
        *(
            Attack(
                "endings", f"SIGTERM, {SERVED}, {at:g} s after its start", told_to_stop("nudging", SERVED, when=at), 143
            )
            for at in (0.3, 2.0, 4.0)
        ),
        Attack(
            "endings", f"Ctrl-C twice, {SERVED}", told_to_stop("nudging", SERVED, number=signal.SIGINT, twice=True), 130
        ),
    ]
