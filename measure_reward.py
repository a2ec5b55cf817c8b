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
import gc
import json
import threading
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from command.console import Command
from command.errors import OptionError
from command.files import ResultsError
from experiment.judge_settings import JUDGE_OPTIONS, JudgeSettings
from language_models.interface import ChatModel
from pad.answers import Answered
from pad.measure_options import Wanted, build_parser, check, wanted_scorers
from pad.pairwise_judge import REPLY_SCHEMA, ReplyLog, compare, instructions
from pad.reports import AnswersFile, Measured, by_prompt, check_baseline, means, read_file, save, shown_table
from pad.summary import headline, table

if TYPE_CHECKING:
    from pad.scorers import Scorer

COMMAND = Command("measure_reward.py")
note = COMMAND.note


def main(argv: list[str] | None = None) -> int:
    """Measure; returns the exit code: 0, 1 (a judge did not answer everything), 2 (cannot be done), 130 (interrupted)."""
    options = build_parser(judge_options()).parse_args(argv)

    def work() -> int:
        check(options)
        judge = judge_settings(options)
        judge.check_engine()
        if options.judge_model:
            judge.check_connection(options.judge_model)
        return run(options)

    return COMMAND.run(work)


def judge_options() -> dict[str, dict]:
    """How a judge is reached, as options."""
    found = {
        name: JUDGE_OPTIONS[name] | {"default": getattr(JudgeSettings, name)}
        for name in ("judge_host", "judge_api_key_env")
    }
    outage = {"type": float, "default": JudgeSettings.max_outage, "help": "seconds to wait for a judge that is gone"}
    return found | {"max_outage": outage}


def judge_settings(options: argparse.Namespace) -> JudgeSettings:
    """What the options say of the judge (OptionError: it cannot be)."""
    names = {field.name for field in dataclasses.fields(JudgeSettings)} & vars(options).keys()
    return JudgeSettings(**{name: getattr(options, name) for name in names})


def run(options: argparse.Namespace) -> int:
    """Measure every file by every reward model; returns the exit code.

    Raises:
        OptionError, DataError, ModelError, ResultsError: it cannot be done. What was measured before is printed and written.
    """
    names = list(dict.fromkeys(file_names(options)))
    # All files are read, and the reward models looked at, before a model is loaded.
    files = [read_file(name, options, note) for name in names]
    baseline = None
    if options.baseline:
        baseline = next((file for file in files if same_file(file.name, options.baseline)), None)
        baseline = baseline or read_file(options.baseline, options, note)
        check_baseline(files, baseline)
        if options.rm:
            tell_of_unlike_prompts(files, baseline)
    if options.judge_model and any(file.several for file in [*files, baseline]):
        raise OptionError("--judge_model compares one answer to a prompt with another, and there are several to each")
    wanted = wanted_scorers(options)
    if wanted:
        from language_models.local.loading import require_torch

        require_torch()
        from pad.scorers import check_scorer

        for one in wanted:
            check_scorer(one.model, one.dimension, options.format)
    pattern = len(options.out_file) == 1 and "{}" in options.out_file[0]
    reports, measured, compared, unanswered = [], [], [], 0
    try:
        first = True
        for one in scorers(options, wanted) if wanted else [None]:
            theirs = None
            if one is not None and baseline is not None:
                theirs = one[1].score(list(baseline.answers.values()), options.batch_size, pattern=pattern)
                if baseline not in files:  # in the table and the plot it stands all the same
                    compared.append(Measured(baseline, one[0], theirs, None, is_baseline=True))
            for file in files:
                report: dict = {"file": file.name, **file.about, "skipped": file.rows - len(file.answers)}
                if one is not None:
                    found = measure(options, *one, file, theirs, file is baseline, pattern)
                    report = found.report(options, pattern, baseline)
                    measured.append(found)
                    compared.append(found)
                if first:  # what needs no reward model is found once
                    report |= text_figures(options, list(file.answers.values()))
                    if options.judge_model:
                        report["judged"] = judged(options, by_prompt(file.answers), by_prompt(baseline.answers))
                        unanswered += tell_unscored(report["judged"])
                show(report)
                if one is not None:
                    report |= {"scores": {str(i): value for i, value in found.scores.items()}}
                reports.append(report)
            first, one = False, None  # which would keep the model in memory beside the next
    finally:
        if reports:
            if len(measured) > 1:
                print(f"\n{shown_table([one.row() for one in compared])}")
            save(options, reports, measured, [one.row() for one in compared], note)
            if options.plot and measured:
                draw(options.plot, compared)
    return 1 if unanswered else 0


def tell_of_unlike_prompts(files: list[AnswersFile], baseline: AnswersFile) -> None:
    """Say which files are compared with the baseline on fewer prompts than their means are of."""
    theirs = by_prompt(baseline.answers).keys()
    for file in files:
        if (mine := by_prompt(file.answers).keys()) != theirs:
            note(
                f"{file.name} answers {len(mine)} prompts and the baseline {len(theirs)}: differences are of the "
                f"{len(mine & theirs)} that both answer, means of all"
            )


def draw(path: str, measured: list[Measured]) -> None:
    """Write --plot (ResultsError: it cannot be written)."""
    from reporting.reward_plot import save_reward_plot

    try:
        save_reward_plot(Path(path), measured)
    except OSError as error:
        raise ResultsError(f"--plot {path} cannot be written ({error}); --table and --save have its figures") from None


def file_names(options: argparse.Namespace) -> Iterator[str]:
    """The files of --out_file, {} filled in."""
    for name in options.out_file:
        numbers = range(options.start_index, options.end_index + 1) if "{}" in name else [None]
        yield from (name if number is None else name.replace("{}", str(number)) for number in numbers)


def same_file(one: str, other: str) -> bool:
    """Whether two names are of one file."""
    with contextlib.suppress(OSError):
        return Path(one).samefile(other)
    return one == other


def measure(
    options: argparse.Namespace,
    wanted: Wanted,
    scorer: "Scorer",
    file: AnswersFile,
    baseline,
    is_baseline: bool,
    pattern: bool,
) -> Measured:
    """What a reward model says of a file; `baseline`: what it says of that, or None."""
    if is_baseline:
        scored = baseline
    else:
        with tqdm(total=len(file.answers), desc="scoring", unit="answer") as bar:
            answers = list(file.answers.values())
            scored = scorer.score(answers, options.batch_size, pattern=pattern, done=bar.update)
    compared = None if baseline is None or is_baseline else means(baseline.scores)
    return Measured(file, wanted, scored, compared, is_baseline)


def scorers(options: argparse.Namespace, wanted: list[Wanted]) -> "Iterator[tuple[Wanted, Scorer]]":
    """The reward models one after the other, each loaded once for all of its outputs, and freed before the next."""
    from language_models.local.loading import pick_dtype
    from pad.plan import device_or_fallback
    from pad.scorers import Scorer, free_cached_memory

    device = device_or_fallback(options.rm_gpu, "--rm_gpu", note)
    for name, group in groupby(wanted, key=lambda one: one.model):
        outputs = list(group)
        model = Scorer(
            name,
            device=device,
            dtype=pick_dtype(options.dtype, device),
            tokenizer=options.tokenizer,
            dimension=outputs[0].dimension,
            text_format=options.format,
            experiment=options.experiment,
            text_field=options.field,
            load_in_4bit=options.load_in_4bit,
            say=note,
        )
        for one in outputs:
            yield one, model if len(outputs) == 1 else model.by(one.dimension)
        del model
        gc.collect()
        free_cached_memory(device)


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


if __name__ == "__main__":
    end(main)
