"""Reward-guided generation, PAD and ARGS: prompts -> answers, one file per decoding configuration.

    python collect_model_outs.py --config configs/psoups_llama3SFT_hhh.config --out_file results/psoups_hhh \\
        --llm princeton-nlp/Llama-3-Base-8B-SFT --rm RuizheChen/PAD --dataset psoups --sys_prompt "[Guidelines] ..."

Chen et al., "PAD: Personalized Alignment of LLMs at Decoding-time", ICLR 2025 (arXiv 2410.04070); Khanov et al., "ARGS:
Alignment as Reward-Guided Search", ICLR 2024 (arXiv 2402.01694).
"""

from command.entry import begin, end

if __name__ == "__main__":
    begin("collect_model_outs.py")  # the imports below take seconds

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from command.console import Command
from command.errors import OptionError
from command.files import ResultsError
from command.provenance import git_commit, now, versions
from pad.config import DecodingConfig, read_configs
from pad.outputs import OutputFile, answered_row, skipped_row
from pad.plan import Plan, make_plan
from pad.prompt_sets import load_prompts
from pad.prompts import Prompt, decode_answer
from pad.settings import CollectSettings, build_parser

COMMAND = Command("collect_model_outs.py")
note = COMMAND.note


@dataclass
class Job:
    """One configuration: its output, its prompts, the rows that are there, and its seed."""

    output: OutputFile
    prompts: list[Prompt]
    rows: dict[int, dict]
    seed: int

    @property
    def todo(self) -> list[Prompt]:
        """What has no row yet, long prompts first: prompts of like length share a batch, and a lack of memory shows at once."""
        return sorted((p for p in self.prompts if p.index not in self.rows), key=lambda p: (-len(p.ids), p.index))


def main(argv: list[str] | None = None) -> int:
    """Answer the prompts by every configuration.

    Returns the exit code: 0, 1 (prompts were skipped), 2 (cannot start or go on), 130 (interrupted), 143 (SIGTERM).
    """
    options = vars(build_parser().parse_args(argv))
    return COMMAND.run(
        lambda: run(CollectSettings(**options)),
        interrupted="interrupted; what is finished is saved, the same command continues",
    )


def run(settings: CollectSettings) -> int:
    """Answer the prompts by every configuration; returns the exit code.

    Raises:
        UserError: it cannot start, or not go on.
    """
    configs = read_configs(Path(settings.config), note)
    settings.check_configs(configs)
    instructions = load_prompts(
        settings.dataset,
        split=settings.split,
        data_dir=settings.data_dir and Path(settings.data_dir),
        run_percent=settings.run_percent,
        limit=settings.limit,
        say=note,
    )
    plan = make_plan(settings, configs, note)
    with contextlib.ExitStack() as locks:
        jobs = [job_of(settings, plan, config, i, instructions, locks) for i, config in enumerate(configs)]
        refuse_if_all_are_too_long(plan, jobs)
        # Nothing is written or moved before everything is checked.
        for job in jobs:
            start_output(settings, job)
            locks.callback(job.output.close)
        skipped = sum(skip_too_long(plan, job) for job in jobs)
        models = None
        if any(job.todo for job in jobs):
            from pad.models import load_models

            models = load_models(settings, plan, longest_text(settings, plan, jobs), note)
        for job in jobs:
            if job.todo:
                answer_all(settings, plan, models, job)
            job.output.finish(job.rows)
            print(f"{job.output.path}: {len(job.rows)} rows")
    return 1 if skipped else 0


def job_of(
    settings: CollectSettings,
    plan: Plan,
    config: DecodingConfig,
    number: int,
    instructions: list[str],
    locks: contextlib.ExitStack,
) -> Job:
    """What is to do for one configuration, its output locked."""
    output = OutputFile(settings.out_file, number, config)
    prompts = plan.prompts(settings, config, instructions)
    seed = settings.seed if config.seed is None else config.seed
    locks.enter_context(output.locked())
    texts = [prompt.text for prompt in prompts]
    rows = {} if settings.overwrite else output.earlier_rows(texts, seed, decisive(settings, plan), note)
    # What could not be asked then, and can be now (a template was mended), has no answer yet.
    rows = {index: row for index, row in rows.items() if not (row.get("skipped") and plan.room(prompts[index]) > 0)}
    return Job(output, prompts, rows, seed)


def decisive(settings: CollectSettings, plan: Plan) -> dict:
    """The settings on which answers depend; of several outputs of a reward model by its number the one that guides."""
    return settings.decisive | {"dimension": plan.dimension}


def start_output(settings: CollectSettings, job: Job) -> None:
    """Open a configuration's output, after moving an old one aside if that is wanted."""
    if settings.overwrite:
        for path in job.output.set_aside():
            note(f"moved aside: {path}")
    if job.rows:
        note(f"{job.output.path}: {len(job.rows)} of {len(job.prompts)} answers are there already")
    job.output.open(lambda: job.rows.values(), note)


def refuse_if_all_are_too_long(plan: Plan, jobs: list[Job]) -> None:
    """Raise OptionError if no prompt of a configuration leaves room for an answer."""
    for job in jobs:
        if all(plan.room(prompt) < 1 for prompt in job.prompts):
            longest = max(job.prompts, key=lambda prompt: len(prompt.ids))
            raise OptionError(f"every prompt is too long: {plan.why_no_room(longest)}")


def skip_too_long(plan: Plan, job: Job) -> int:
    """Record prompts that leave no room for an answer as skipped; returns how many there are."""
    too_long = [prompt for prompt in job.prompts if plan.room(prompt) < 1]
    for prompt in too_long:
        note(f"error: prompt {prompt.index} is skipped: {plan.why_no_room(prompt)}")
        if prompt.index not in job.rows:
            row = skipped_row(prompt, plan.why_no_room(prompt), **about(job, prompt))
            job.output.append(row)
            job.rows[prompt.index] = row
    return len(too_long)


def longest_text(settings: CollectSettings, plan: Plan, jobs: list[Job]) -> int:
    """Tokens of the longest prompt that has no answer yet, with its answer, for the base LM or the reward model."""
    return max(
        max(len(prompt.ids), len(prompt.rm_ids), len(prompt.plain_ids)) + min(settings.max_new_token, plan.room(prompt))
        for job in jobs
        for prompt in job.todo
    )


def about(job: Job, prompt: Prompt) -> dict:
    """What every row says of its configuration."""
    return {
        "method": job.output.method,
        "config": job.output.config.written(),
        "n_prompt_tokens": len(prompt.ids),
        "seed": job.seed,
    }


def answer_all(settings: CollectSettings, plan: Plan, models, job: Job) -> None:
    """Answer what is to do in batches, adding rows to the job and its file, and the speed to its meta file.

    Raises:
        ModelError, ResultsError: it cannot go on; what is finished is saved.
    """
    from pad.models import peak_memory

    meta = {"settings": decisive(settings, plan), "all_settings": settings.written(), "label": settings.PAD}
    meta |= {"config": job.output.config.written(), "reward": plan.kind}
    meta |= {"devices": {"llm": str(plan.llm_device), "rm": str(plan.rm_device)}, "dtype": str(models.dtype)}
    meta |= {"sessions": job.output.read_meta().get("sessions", [])}
    packages = {"torch", "transformers", "tokenizers", "safetensors"}
    packages |= {"bitsandbytes", "accelerate"} if settings.load_in_4bit else set()
    packages |= {"datasets", "peft"} & sys.modules.keys()  # imported by what needs them alone
    session = {"start": now(), "versions": versions(packages), "git_commit": git_commit(), "command": sys.argv}
    meta["sessions"].append(session)
    job.output.write_meta(meta)
    todo, tokens, started, before = job.todo, 0, time.monotonic(), models.counts()
    live = sys.stderr.isatty()
    try:
        with tqdm(total=len(todo), desc=job.output.method, unit="prompt", mininterval=0.5 if live else 30) as bar:
            for start in range(0, len(todo), settings.batch_size):
                batch, began = todo[start : start + settings.batch_size], time.monotonic()
                answers = models.answer(batch, job.output.config, job.output.number, job.seed)
                seconds = (time.monotonic() - began) / len(batch)
                rows = [
                    answered_row(
                        prompt,
                        decode_answer(plan.tokenizer, prompt.ids, answer.tokens),
                        elapsed=round(seconds, 4),
                        **about(job, prompt),
                        n_tokens=len(answer.tokens),
                        finish_reason=answer.finish_reason,
                        **({"batch": len(batch)} if len(batch) > 1 else {}),
                    )
                    for prompt, answer in zip(batch, answers, strict=True)
                ]
                job.output.append(*rows)
                job.rows |= {row["index"]: row for row in rows}
                tokens += sum(len(answer.tokens) for answer in answers)
                bar.set_postfix({"tokens/s": f"{tokens / (time.monotonic() - started):.1f}"}, refresh=False)
                bar.update(len(batch))
    finally:
        seconds = time.monotonic() - started
        memory = peak_memory({plan.llm_device, plan.rm_device})
        session |= {"end": now(), "seconds": round(seconds, 3), "tokens": tokens, "peak_memory_gb": memory}
        session["models"] = counts = models.counts(since=before)
        session["tokens_per_second"] = round(tokens / seconds, 2)
        with contextlib.suppress(ResultsError):  # where the disk is full, the error under way says more
            job.output.write_meta(meta)
    shown = ", ".join(f"{name} {used:.2f} GB" for name, used in memory.items())
    passes = ", ".join(f"{name} {found['passes']:,} ({found['engine']})" for name, found in counts.items())
    print(
        f"{job.output.method}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s; "
        f"forward passes: {passes}; peak memory: {shown}"
    )


if __name__ == "__main__":
    end(main)
