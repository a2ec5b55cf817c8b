"""Scores of generated answers by reward models, diversity, coherence, and win rates by a judge.

    python measure_reward.py --out_file results/psoups_hhh_0.jsonl --baseline results/psoups_vanilla_0.jsonl \\
        --rm RLHFlow/ArmoRM-Llama3-8B-v0.1 --dimension 10

The reward models of the PAD paper (arXiv 2410.04070, section 4) and any sequence classifier.
"""

from command.entry import begin, end

if __name__ == "__main__":
    begin("measure_reward.py")  # the imports below take seconds

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from command.console import Command
from command.errors import OptionError
from command.files import ResultsError, saved_elsewhere, write_atomically
from command.options import Parser
from command.paths import expanded
from datasets_loader import DataError
from experiment.judge_settings import JUDGE_OPTIONS, JudgeSettings
from language_models.interface import ChatModel
from language_models.local.devices import ENGINE_CHOICES
from language_models.local.loading import DTYPES
from pad.answers import EXPERIMENTS, Answered, read_answer
from pad.pairwise_judge import CRITERIA, REPLY_SCHEMA, ReplyLog, compare, instructions
from pad.rows import read_rows
from pad.summary import check_same_questions, headline, mean_and_error, paired, published_figures, table

if TYPE_CHECKING:
    from pad.scorers import Scored

FORMATS = ("native", "upstream", "args")

COMMAND = Command("measure_reward.py")
note = COMMAND.note


def build_parser() -> argparse.ArgumentParser:
    """The command line of measure_reward.py."""
    parser = Parser(prog="measure_reward.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--out_file", type=expanded, metavar="FILE", help="JSON array or lines; {} stands for each number below"
    )
    group.add_argument("--start_index", type=int, default=0, metavar="N", help="the first number (default: 0)")
    group.add_argument("--end_index", type=int, default=0, metavar="N", help="the last number (default: 0)")
    group.add_argument(
        "--baseline", type=expanded, metavar="FILE", help="other answers to the same prompts, to compare with"
    )
    group.add_argument(
        "--experiment",
        choices=EXPERIMENTS,
        default="hhrlhf",
        help="where an invented next turn begins (default: hhrlhf)",
    )
    group.add_argument("--field", metavar="NAME", help="the field of the answers (default: result, output or response)")
    group = parser.add_argument_group("reward model")
    group.add_argument("--rm", "--rm_path", metavar="MODEL", help="a sequence classifier or ArmoRM: folder or hub id")
    group.add_argument("--tokenizer", metavar="MODEL", help="another tokenizer than its own")
    group.add_argument("--dimension", metavar="N|NAME", help="which of its outputs, by number or name")
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="native",
        help="text and counting: native, as the model was trained; upstream, PAD's published program's; args, ARGS's "
        "(default: native)",
    )
    group.add_argument("--rm_gpu", default="cuda:0", metavar="DEVICE", help="(default: cuda:0, or the CPU)")
    group.add_argument("--dtype", default="auto", choices=DTYPES)
    group.add_argument("--load_in_4bit", action="store_true", help="weights in 4 bits (needs bitsandbytes)")
    group.add_argument("--batch_size", type=int, default=8, metavar="N", help="answers scored together (default: 8)")
    group = parser.add_argument_group("diversity and coherence")
    group.add_argument("--metrics", action="store_true", help="repetition, diversity, length")
    group.add_argument("--embedder", metavar="MODEL", help="coherence by this sentence encoder")
    group = parser.add_argument_group("judge (compares with --baseline)")
    group.add_argument(
        "--judge_model", metavar="MODEL", help="a model of --judge_host, a GGUF file, a folder or hub id"
    )
    for name in ("judge_host", "judge_api_key_env"):
        group.add_argument(f"--{name}", default=getattr(JudgeSettings, name), **JUDGE_OPTIONS[name])
    group.add_argument(
        "--engine",
        choices=ENGINE_CHOICES,
        default="auto",
        help="of a judge that this process loads (see run_api.py --help)",
    )
    group.add_argument("--judge_criterion", choices=CRITERIA, default="overall")
    group.add_argument(
        "--judge_log", type=expanded, metavar="FILE", help="keeps its replies; what is in it is not asked again"
    )
    group.add_argument("--n", type=int, metavar="N", help="at most N prompts, drawn by --seed (default: all)")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--num_threads", type=int, default=8)
    group.add_argument("--request_timeout", type=float, default=600.0)
    group.add_argument("--max_retries", type=int, default=8)
    group.add_argument("--max_outage", type=float, default=JudgeSettings.max_outage)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--npout", type=expanded, default="", metavar="FILE", help="scores as a NumPy array, NaN for skipped rows"
    )
    group.add_argument("--save", type=expanded, metavar="FILE", help="all figures and scores as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure; returns the exit code: 0, 1 (a judge did not answer everything), 2 (cannot be done), 130 (interrupted)."""
    options = build_parser().parse_args(argv)

    def work() -> int:
        check(options)
        return run(options)

    return COMMAND.run(work)


def check(options: argparse.Namespace) -> None:
    """Raise OptionError if the options cannot work."""
    if not options.out_file:
        raise OptionError("--out_file is needed: the answers to measure")
    if not (options.rm or options.metrics or options.embedder or options.judge_model):
        raise OptionError("nothing to measure: name a reward model by --rm, or --metrics, --embedder, --judge_model")
    if options.judge_model and not options.baseline:
        raise OptionError("--judge_model compares with --baseline, which is missing")
    judge = judge_settings(options)
    judge.check_engine()
    if options.judge_model:
        judge.check_connection(options.judge_model)
    for name in ("batch_size", "n"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise OptionError(f"--{name} must be at least 1; it is {getattr(options, name)}")
    for name in ("npout", "save"):
        if (path := getattr(options, name)) and (Path(path).is_dir() or not _makes_folder(Path(path).parent)):
            raise OptionError(f"--{name} {path} cannot be written: name a file in a folder of one's own")
    if options.end_index < options.start_index:
        raise OptionError(f"--end_index {options.end_index} is below --start_index {options.start_index}")


def _makes_folder(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def run(options: argparse.Namespace) -> int:
    """Measure every file; returns the exit code.

    Raises:
        OptionError, DataError, ModelError, ResultsError: it cannot be done.
    """
    numbers = range(options.start_index, options.end_index + 1) if "{}" in options.out_file else [None]
    names = [options.out_file if number is None else options.out_file.replace("{}", str(number)) for number in numbers]
    # All files are read before a model is loaded.
    files = {name: read_file(name, options) for name in names}
    baseline = read_file(options.baseline, options)[0] if options.baseline else None
    for name, (answers, _) in files.items():
        if baseline is not None:
            check_same_questions(answers, baseline, f"--baseline {options.baseline} and {name}")
    score = scorer(options) if options.rm else None
    pattern = "{}" in options.out_file
    baseline_scores = score(baseline, pattern).scores if score and baseline is not None else None
    reports, arrays, unanswered = [], [], 0
    for name, (answers, rows) in files.items():
        report: dict = {"file": name, "skipped": rows - len(answers)}
        if score:
            scored = score(answers, pattern)
            scores = scored.scores
            report["skipped"] += scored.too_long
            if options.format != "native":
                report["published"] = published_figures(scored.counted, scored.too_long, pattern)
            report |= {"rm": options.rm, "dimension": options.dimension, "format": options.format}
            report |= mean_and_error(list(scores.values()))
            if options.npout:
                arrays.append(np.full(max(rows, *(i + 1 for i in scores)), np.nan))
                arrays[-1][list(scores)] = list(scores.values())
            if baseline_scores is not None:
                report["baseline"] = {"file": options.baseline} | mean_and_error(list(baseline_scores.values()))
                report["paired"] = paired(scores, baseline_scores)
        report |= text_figures(options, list(answers.values()))
        if options.judge_model:
            report["judged"] = judged(options, answers, baseline)
            unanswered += tell_unscored(report["judged"])
        show(report)
        reports.append(report | ({"scores": {str(i): value for i, value in scores.items()}} if score else {}))
    save(options, reports, arrays)
    return 1 if unanswered else 0


def read_file(name: str, options: argparse.Namespace) -> tuple[dict[int, Answered], int]:
    """The answers of a file by index, and how many rows it has.

    Raises:
        DataError: it cannot be read, has no answers, or two of one index.
    """
    rows = read_rows(Path(name), note)
    answers: dict[int, Answered] = {}
    published = options.format != "native"
    for number, row in enumerate(rows):
        how = {"experiment": options.experiment, "field": options.field, "any_response": published}
        answered = read_answer(row, number, name, **how)
        if answered is None:
            continue
        if answered.index in answers:
            raise DataError(f"{name}: two rows have the index {answered.index}")
        answers[answered.index] = answered
    if not answers:
        raise DataError(f"{name} holds no answers")
    return answers, len(rows)


def scorer(options: argparse.Namespace):
    """A function from answers by index, and whether they are of one of several files, to their scores."""
    from language_models.local.loading import pick_dtype, require_torch
    from pad.plan import device_or_fallback
    from pad.scorers import Scorer

    require_torch()
    device = device_or_fallback(options.rm_gpu, "--rm_gpu", note)
    model = Scorer(
        options.rm,
        device=device,
        dtype=pick_dtype(options.dtype, device),
        tokenizer=options.tokenizer,
        dimension=options.dimension,
        text_format=options.format,
        experiment=options.experiment,
        text_field=options.field,
        load_in_4bit=options.load_in_4bit,
        say=note,
    )

    def score(answers: dict[int, Answered], pattern: bool) -> "Scored":
        with tqdm(total=len(answers), desc="scoring", unit="answer") as bar:
            return model.score(list(answers.values()), options.batch_size, pattern=pattern, done=bar.update)

    return score


def text_figures(options: argparse.Namespace, answers: list[Answered]) -> dict:
    """Diversity and coherence, as far as they are asked for."""
    found = {}
    if options.metrics:
        from pad.text_metrics import text_metrics

        found["metrics"] = text_metrics(answers)
    if options.embedder:
        from pad.plan import device_or_fallback
        from pad.text_metrics import coherence

        device = device_or_fallback(options.rm_gpu, "--rm_gpu", note)
        found["coherence"] = coherence(answers, options.embedder, device, options.batch_size, note)
    return found


def judged(options: argparse.Namespace, answers: dict[int, Answered], baseline: dict[int, Answered]) -> dict:
    """Win rates by the judge."""
    log = ReplyLog(Path(options.judge_log) if options.judge_log else None, say=note)
    settings = judge_settings(options)
    name = options.judge_model
    opening = threading.Lock()
    with contextlib.ExitStack() as opened:

        @functools.cache
        def judge() -> ChatModel:
            # Imported here: the client takes a second, and a log that holds all replies needs none.
            from experiment.judge import open_judge

            if obstacle := settings.obstacle(name):
                raise OptionError(f"--judge_model {name}: {obstacle}")
            both = (f"{one.question}{one.answer}" for one in (*answers.values(), *baseline.values()))
            longest = 2 * max(both, key=len)  # two answers to one question
            return opened.enter_context(
                open_judge(name, settings, REPLY_SCHEMA, [(instructions(options.judge_criterion), longest)], note)
            )

        def ask(told: str, question: str) -> str:
            with opening:
                asked = judge()
            return asked.ask(told, question).text

        return compare(
            answers,
            baseline,
            ask,
            judge=name,
            criterion=options.judge_criterion,
            n=options.n,
            seed=options.seed,
            num_threads=options.num_threads,
            log=log,
            replay=settings.obstacle(name) != "",
        )


def tell_unscored(judged: dict) -> int:
    """Say which pairs the judge's figures leave out; how many they are."""
    if judged["failed"]:
        note(f"{judged['failed']} pairs were not judged ({judged['error']}); the same command tries again")
    if judged["unreadable"]:
        note(
            f"{judged['unreadable']} pairs are not counted, since the judge's replies cannot be read, such as "
            f"{judged['unreadable_reply']}; the same command asks again"
        )
    if judged["left"]:
        note(
            f"stopped judging: most replies cannot be read; {judged['left']} pairs are left; choose another --judge_model"
        )
    return judged["failed"] + judged["unreadable"] + judged["left"]


def judge_settings(options: argparse.Namespace) -> JudgeSettings:
    """What the options say of the judge (OptionError: it cannot be)."""
    names = {field.name for field in dataclasses.fields(JudgeSettings)} & vars(options).keys()
    return JudgeSettings(**{name: getattr(options, name) for name in names})


def show(report: dict) -> None:
    """The published lines, a table, and one line of JSON."""
    print(f"\n{report['file']}")
    if "mean" in report:
        print("\n".join(headline(report)))
        print(table(report))
    for name in ("metrics", "coherence", "judged"):
        if name in report:
            print(f"{name}: {json.dumps(report[name])}")
    print(json.dumps(report))


def save(options: argparse.Namespace, reports: list[dict], arrays: list[np.ndarray]) -> None:
    """Write --npout and --save (ResultsError: they cannot be written)."""
    content = json.dumps(reports, indent=2) + "\n"
    try:
        if options.save:
            Path(options.save).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(options.save), content)
        if options.npout and arrays:
            Path(options.npout).parent.mkdir(parents=True, exist_ok=True)
            with open(options.npout, "wb") as file:
                np.save(file, np.concatenate(arrays))
    except OSError as error:
        place = saved_elsewhere(Path(options.save or "scores.json"), content, "all of them, with the scores,")
        raise ResultsError(f"the figures cannot be written ({error}); {place}") from None


if __name__ == "__main__":
    end(main)
