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
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from command.console import Command, visible
from command.errors import OptionError
from command.files import ResultsError
from command.provenance import git_commit, now, version, versions
from pad.collect_options import build_parser
from pad.config import DecodingConfig
from pad.outputs import Key, OutputFile, answered_row, left_by_others, skipped_row
from pad.plan import Plan, make_plan
from pad.prompt_sets import load_prompts, whole
from pad.prompts import Asked, Prompt, decode_answer
from pad.settings import CollectSettings
from pad.stop_texts import cut_at
from pad.variants import Variant, check_rows, make_variants

COMMAND = Command("collect_model_outs.py")
note = COMMAND.note


@dataclass
class Job:
    """One file of answers: what is asked how, the output, its prompts, the rows that are there, the seed, and what it is called."""

    variant: Variant
    output: OutputFile
    prompts: list[Prompt]
    rows: dict[Key, dict]
    seed: int
    shown: str

    @property
    def config(self) -> DecodingConfig:
        """How tokens are chosen."""
        return self.variant.config

    @property
    def todo(self) -> list[Prompt]:
        """What has no row yet, long prompts first: prompts of like length share a batch, and a lack of memory shows at once."""
        return sorted((p for p in self.prompts if p.key not in self.rows), key=lambda p: (-len(p.ids), p.key))


def main(argv: list[str] | None = None) -> int:
    """Answer the prompts by every preference and configuration.

    Returns the exit code: 0, 1 (prompts were skipped), 2 (cannot start or go on), 130 (interrupted), 143 (SIGTERM).
    """
    options = vars(build_parser().parse_args(argv))
    kept = "what is finished is saved, the same command continues" if options["out_file"] else "nothing was to be kept"
    return COMMAND.run(lambda: run(CollectSettings(**options)), interrupted=f"interrupted; {kept}")


def run(settings: CollectSettings) -> int:
    """Answer the prompts by every preference and configuration; returns the exit code.

    Raises:
        UserError: it cannot start, or not go on.
    """
    if settings.out_file:
        return answer_jobs(settings, settings.out_file)
    with tempfile.TemporaryDirectory() as folder:
        return answer_jobs(settings, str(Path(folder) / "answers"))


def answer_jobs(settings: CollectSettings, prefix: str) -> int:
    """See `run`; `prefix` of the files."""
    variants = make_variants(settings, note)
    asked = prompts_of(settings)
    check_rows(settings, variants, asked, note)
    plan = make_plan(settings, variants, asked, note)
    with contextlib.ExitStack() as locks:
        jobs = [job_of(settings, plan, variant, prefix, asked, locks) for variant in variants]
        refuse_if_all_are_too_long(plan, jobs)
        tell_of_short_room(settings, plan, jobs)
        if settings.out_file and (left := left_by_others(prefix, [job.variant.number for job in jobs])):
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            note(f"{left[0]}{more} {'are' if more else 'is'} of another command: this one writes {len(jobs)} files")
        # Nothing is written or moved before everything is checked.
        for job in jobs:
            start_output(settings, job)
            locks.callback(job.output.close)
        skipped = sum(skip_too_long(settings, plan, job) for job in jobs)
        models = None
        if any(job.todo for job in jobs):
            from pad.models import load_models

            models = load_models(settings, plan, longest_text(settings, plan, jobs), note)
        for job in jobs:
            if job.todo:
                answer_all(settings, plan, models, job)
            job.output.finish(job.rows)
            if settings.prompt:
                print(answers_in_words(job))
            if settings.out_file:
                print(f"{job.output.path}: {len(job.rows)} rows ({visible(job.variant.in_words())})")
    return 1 if skipped else 0


def prompts_of(settings: CollectSettings) -> list[Asked]:
    """What is to be answered (DataError: it cannot be read)."""
    if settings.prompt:
        if settings.dataset != CollectSettings.dataset:
            note("--prompt is answered, and nothing of --dataset")
        return [whole(Asked(text)) for text in settings.prompt]
    return load_prompts(
        settings.dataset,
        field=settings.prompt_field,
        frame=settings.frame,
        split=settings.split,
        data_dir=settings.data_dir and Path(settings.data_dir),
        run_percent=settings.run_percent,
        limit=settings.limit,
        say=note,
    )


def job_of(
    settings: CollectSettings,
    plan: Plan,
    variant: Variant,
    prefix: str,
    asked: list[Asked],
    locks: contextlib.ExitStack,
) -> Job:
    """What is to do for one file of answers, its output locked."""
    output = OutputFile(prefix, variant.number, variant.config)
    prompts = plan.prompts(settings, variant, asked)
    seed = settings.seed if variant.config.seed is None else variant.config.seed
    locks.enter_context(output.locked())
    by_key = {prompt.key: prompt for prompt in prompts}
    rows = {} if settings.overwrite else output.earlier_rows(by_key, seed, decisive(settings, plan), note)
    # What could not be asked then, and can be now (a template was mended), has no answer yet.
    rows = {key: row for key, row in rows.items() if not (row.get("skipped") and plan.room(by_key[key]) > 0)}
    # A preference of the same text may have got another name: in one file it has one.
    rows = {key: row | {"preference": by_key[key].preference.name} for key, row in rows.items()}
    shown = output.method if settings.out_file else visible(variant.in_words())
    return Job(variant, output, prompts, rows, seed, shown)


def answers_in_words(job: Job) -> str:
    """The answers to what the command line asks, for people."""
    parts = []
    for prompt in job.prompts:
        row = job.rows[prompt.key]
        sample = f", answer {prompt.sample + 1}" if len(job.prompts) > 1 and prompt.sample else ""
        answer = row["result"].strip() if row.get("result") is not None else f"(skipped: {row.get('skipped')})"
        parts.append(f"\n[{job.variant.in_words()}{sample}] {prompt.instruction.strip()}\n{answer}\n")
    return visible("".join(parts))


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


def tell_of_short_room(settings: CollectSettings, plan: Plan, jobs: list[Job]) -> None:
    """Say which answers the models' context ends before --max_new_token does."""
    rooms = [room for job in jobs for prompt in job.prompts if (room := plan.room(prompt)) > 0]
    short = [room for room in rooms if room < settings.max_new_token]
    if short:
        note(
            f"--max_new_token {settings.max_new_token} goes beyond the context of the models "
            f"({plan.context} tokens with the prompt): {len(short)} of {len(rooms)} answers have room for less, "
            f"the shortest for {min(short)}"
        )


def skip_too_long(settings: CollectSettings, plan: Plan, job: Job) -> int:
    """Record prompts that leave no room for an answer as skipped; returns how many there are."""
    too_long = [prompt for prompt in job.prompts if plan.room(prompt) < 1]
    for prompt in too_long:
        if not prompt.sample:
            note(f"error: {job.shown}: prompt {prompt.index} is skipped: {plan.why_no_room(prompt)}")
        if prompt.key not in job.rows:
            row = skipped_row(prompt, plan.why_no_room(prompt), **about(settings, job, prompt))
            job.output.append(row)
            job.rows[prompt.key] = row
    return len(too_long)


def longest_text(settings: CollectSettings, plan: Plan, jobs: list[Job]) -> int:
    """Tokens of the longest prompt that has no answer yet, with its answer, for the base LM or the reward model."""
    return max(
        max(len(prompt.ids), len(prompt.rm_ids), len(prompt.plain_ids)) + min(settings.max_new_token, plan.room(prompt))
        for job in jobs
        for prompt in job.todo
    )


def about(settings: CollectSettings, job: Job, prompt: Prompt) -> dict:
    """What every row says of its preference and configuration."""
    preference, config = prompt.preference, job.config
    return {
        "method": job.output.method if settings.out_file else job.shown,
        "preference": preference.name,
        **({} if preference.principles is None else {"principles": preference.principles}),
        **({"messages": prompt.messages} if prompt.messages else {}),
        "rm_weight": config.rm_weight,
        **({"name": config.name} if config.name is not None else {}),
        **({"sample": prompt.sample} if settings.answers > 1 else {}),
        "config": config.written(),
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
    meta |= {"preference": job.variant.preference.name, "baseline": job.variant.bare}
    meta |= {"config": job.config.written(), "reward": plan.kind}
    meta |= {"devices": {"llm": str(plan.llm_device), "rm": str(plan.rm_device)}, "dtype": str(models.dtype)}
    meta |= {"sessions": job.output.read_meta().get("sessions", [])}
    packages = {"torch", "transformers", "tokenizers", "safetensors"}
    packages |= {"bitsandbytes", "accelerate"} if settings.load_in_4bit else set()
    packages |= {"datasets", "peft"} & sys.modules.keys()  # imported by what needs them alone
    session = {
        "start": now(),
        "versions": versions(packages),
        "git_commit": git_commit(),
        "version": version(),
        "command": sys.argv,
    }
    meta["sessions"].append(session)
    job.output.write_meta(meta)
    todo, tokens, started, before = job.todo, 0, time.monotonic(), models.counts()
    live = sys.stderr.isatty()
    try:
        with tqdm(total=len(todo), desc=job.shown, unit="prompt", mininterval=0.5 if live else 30) as bar:
            for start in range(0, len(todo), settings.batch_size):
                batch, began = todo[start : start + settings.batch_size], time.monotonic()
                answers = models.answer(batch, job.config, job.variant.number, job.seed)
                seconds = (time.monotonic() - began) / len(batch)
                rows = [
                    answered_row(
                        prompt,
                        cut_at(settings.stop or (), decode_answer(plan.tokenizer, prompt.ids, answer.tokens)),
                        elapsed=round(seconds, 4),
                        **about(settings, job, prompt),
                        n_tokens=len(answer.tokens),
                        finish_reason=answer.finish_reason,
                        **({"batch": len(batch)} if len(batch) > 1 else {}),
                    )
                    for prompt, answer in zip(batch, answers, strict=True)
                ]
                job.output.append(*rows)
                job.rows |= {prompt.key: row for prompt, row in zip(batch, rows, strict=True)}
                tokens += sum(len(answer.tokens) for answer in answers)
                bar.set_postfix({"tokens/s": f"{tokens / (time.monotonic() - started):.1f}"}, refresh=False)
                bar.update(len(batch))
    finally:
        seconds = time.monotonic() - started
        for line in models.new_fallbacks():
            note(line)
        memory = peak_memory({plan.llm_device, plan.rm_device})
        session |= {"end": now(), "seconds": round(seconds, 3), "tokens": tokens, "peak_memory_gb": memory}
        session["models"] = counts = models.counts(since=before)
        session["tokens_per_second"] = round(tokens / seconds, 2)
        with contextlib.suppress(ResultsError):  # where the disk is full, the error under way says more
            job.output.write_meta(meta)
    shown = ", ".join(f"{name} {used:.2f} GB" for name, used in memory.items())
    passes = ", ".join(f"{name} {found['passes']:,} ({computed_by(found)})" for name, found in counts.items())
    print(
        f"{job.shown}: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.1f} tokens/s; "
        f"forward passes: {passes}; peak memory: {shown}"
    )


def computed_by(report: dict) -> str:
    """How a model's passes were computed, by its entry in the file beside the results, in words."""
    name, graphs = report["engine"], report.get("graphs", 0)
    if name != "graphs":
        return name
    return (
        f"CUDA graphs of {graphs} sizes, captured in {report['capture_seconds']:.1f} s"
        if graphs
        else "fixed sizes, no CUDA graphs"
    )


if __name__ == "__main__":
    end(main)
