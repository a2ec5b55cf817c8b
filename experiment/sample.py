"""One sample of an experiment: the prompts of its models, the decoding loop that it goes through, and its record."""

import contextlib
import sys
import time
from dataclasses import asdict, replace

from tqdm import tqdm

from baselines import average_ensemble, proxy_tuning
from command.console import for_terminal, visible
from command.errors import UserError
from command.secrets import hide, without_password
from command.unexpected import plain, traceback_of
from datasets_loader import DataSet, Example
from experiment.conversations import asked_prompt, messages_of, system_of
from experiment.model_settings import PairSettings
from experiment.prompts import PromptBuilder, PromptError
from experiment.rules import rule_score
from experiment.scorers import SCORERS
from experiment.scoring import scored
from experiment.seeds import OwnNumbers, sample_id, seed_of
from experiment.settings import RunSettings
from language_models.hosted.http import shorten
from language_models.interface import (
    ContextLengthError,
    DeviceLostError,
    LanguageModel,
    Metered,
    ModelError,
    SamplingParams,
    SharedModel,
)
from nudging import nudge

# Statuses of gateways that wait no longer for an answer that is written behind them.
CUT_BY_GATEWAYS = (504, 524)


def sample_prompts(data_set: DataSet, example: Example, builders: dict[str, PromptBuilder]) -> dict[str, str]:
    """The prompt of each model for one question (PromptError: one cannot be written)."""
    return {role: asked_prompt(data_set, example, build) for role, build in builders.items()}


def unwritable(data_set: DataSet, examples: list[Example], builders: dict[str, PromptBuilder]) -> dict[int, str]:
    """The questions whose prompts cannot be written, by their rows, and why not."""
    found = {}
    for example in examples:
        try:
            sample_prompts(data_set, example, builders)
        except PromptError as error:
            found[example.id] = str(error)
    return found


def describe(
    settings: RunSettings, data_set: DataSet, examples: list[Example], builders: dict[str, PromptBuilder]
) -> str:
    """What --dry_run prints: the run, and the prompts of its first sample, of a shard its own first."""
    indices = settings.shard_indices(len(examples))
    first = examples[indices[0]]
    shard = f" (shard {settings.shard}: {len(indices)} of them)" if settings.shard else ""
    answers = f", {settings.answers} answers to each" if settings.answers > 1 else ""
    method = f" ({settings.baseline_method})" if settings.exp == "baseline" else ""
    where = f"questions of {settings.questions}" if settings.questions else f"split {settings.used_split}"
    lines = [
        f"experiment: {settings.exp}{method} on {settings.dataset_name}, {where}: "
        f"{len(examples)} questions{shard}{answers}, {settings.num_threads} threads",
        f"results: {settings.result_folder}/{settings.result_name}.txt",
    ]
    prompts = {}
    with contextlib.suppress(PromptError):  # which is said for all rows
        prompts = sample_prompts(data_set, first, builders)
    for role, model in settings.models.items():
        where = f"at {without_password(model.host)}" if model.host else "served by this process"
        template = builders[role].template
        lines.append(f"\n--- {role}: {model.name} {where}, template {template}; the prompt of row {first.id}:")
        lines.append(prompts[role] + "<<<answer>>>" if prompts else "(it cannot be written)")
    return visible("\n".join([*lines, "", "dry run: nothing was sent"]))


def used_request_mode(settings: PairSettings, models: dict[str, SharedModel]) -> str:
    """How the models of a run are asked: "streamed" or "published".

    Raises:
        ModelError: --calls asks for streams, and a server has none.
    """
    single = len(settings.roles) == 1
    if settings.calls == "published" or (single and settings.calls == "auto"):
        return "published"  # with one model: one request for each answer, which no break in a stream can cut into two
    without = [role for role, model in models.items() if not model.streams(settings.models[role].logprobs is not None)]
    if without and settings.calls == "streamed":
        reports = models[without[0]].report
        told = [report.get("why_not_streamed") for report in (reports if isinstance(reports, list) else [reports])]
        why = next(filter(None, told), "its server streams no tokens that can be read")
        raise ModelError(f"--calls streamed: --{without[0]}_model: {why}; use --calls auto")
    return "published" if without else "streamed"


def answer_one(
    settings: RunSettings,
    data_set: DataSet,
    index: int,
    example: Example,
    builders: dict[str, PromptBuilder],
    models: dict[str, SharedModel],
    request_mode: str,
) -> dict:
    """The record of one sample, scored where a rule does it; a sample whose model fails has an "error" and no answer.

    With several answers to a question, each is a sample: those of question i have the indices from i * settings.answers on.

    An error that nobody expected has its "traceback" besides, which is for the run's own file and not for the sample's record.
    `request_mode`: see READERS.
    """
    started = time.monotonic()
    number = index % settings.answers
    answer_id, seed = sample_id(example.id, number), None
    metered = {role: Metered(model.for_sample(answer_id)) for role, model in models.items()}
    asked: dict[str, LanguageModel] = metered
    if settings.seed is not None:
        seed = seed_of(settings.seed, example.id, number)
        asked = {role: OwnNumbers(model, role) for role, model in metered.items()}
    record = {
        "index": index,
        "id": example.id,
        "question": example.question,
        "context": example.context,
        "gold_answer": example.gold,
        "q_prefix": data_set.question_prefix,
    }
    if settings.answers > 1:
        record |= {"answer_number": number + 1, "answers": settings.answers}
    if data_set.is_own:
        record |= {"columns": example.columns} | ({"history": messages_of(example)} if example.history else {})
    try:
        prompts = sample_prompts(data_set, example, builders)
        for role, prompt in prompts.items():
            record |= {f"full_prefix_{role}": prompt, f"system_prompt_{role}": system_of(data_set, example)}
        record |= decode(settings, prompts, asked, index, request_mode, seed)
        record["extracted_answer"] = record["raw_answer"]
        if data_set.is_own:  # a function of one's own is called at the end, once and by one thread
            record["scores"] = scored(record, data_set.scoring)[0] if data_set.scoring in SCORERS else None
        else:
            record["scores"] = rule_score(record["raw_answer"], example.gold) if data_set.scoring == "rule" else None
    except DeviceLostError:
        raise  # it would be that of all samples that follow
    except UserError as error:
        record |= {"error": hide(str(error))} | ({"traceback": error.traceback} if error.traceback else {})
    except BaseException as error:  # one odd sample must not end the run; panics of Rust (tokenizers) are no Exceptions
        record |= {"error": shorten(plain(error)), "traceback": traceback_of(error)}
    record["usage"] = {role: asdict(model.usage) for role, model in metered.items()}
    record["seconds"] = round(time.monotonic() - started, 3)
    return record


def decode(
    settings: RunSettings,
    prompts: dict[str, str],
    models: dict[str, LanguageModel],
    index: int,
    request_mode: str,
    seed: int | None = None,
) -> dict:
    """The part of a record that the experiment's decoding loop writes; `seed` is the answer's, None for none.

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    if settings.exp == "nudging":
        on_round = None
        if settings.print_intermediate_output:

            def on_round(number: int, words: str, piece: str) -> None:
                spoken = f"nudging {words!r} base {piece[len(words) :]!r}"
                tqdm.write(f"[sample {index}, round {number}] {for_terminal(spoken)}", file=sys.stderr)

        result = nudge(
            models["base"],
            models["nudging"],
            prompts["base"],
            prompts["nudging"],
            replace(settings.nudging_settings, seed=seed),
            on_round,
            request_mode,
            criterion=settings.criterion,
        )
        return {
            "raw_answer": result.answer,
            "all_nudging_words": result.nudging_words,
            "all_completions": result.pieces,
            "stop_reason": result.stop_reason,
        }
    if settings.exp == "baseline":
        loop = proxy_tuning if settings.baseline_method == "proxy_tuning" else average_ensemble
        result = loop(
            *models.values(),
            *prompts.values(),
            max_token_total=settings.max_token_total,
            temperature=settings.base_temperature,
            request_mode=request_mode,
            seed=seed,
        )
        return {"raw_answer": result.text, "stop_reason": result.stop_reason}
    ((role, model),) = settings.models.items()
    params = SamplingParams(settings.max_token_total, model.temperature, model.top_p, seed=seed)
    ask = whole_answer if request_mode == "published" else streamed_answer
    try:
        text, stop_reason = ask(models[role], prompts[role], params)
    except ContextLengthError:
        return {"raw_answer": "", "stop_reason": "context_length"}
    return {"raw_answer": text, "stop_reason": stop_reason}


def whole_answer(model: LanguageModel, prompt: str, params: SamplingParams) -> tuple[str, str]:
    """A model's answer by one request: its text, and why it ends.

    Raises:
        ContextLengthError, ModelError: see LanguageModel.complete.
    """
    try:
        completion = model.complete(prompt, params)
    except ModelError as error:
        if error.status in CUT_BY_GATEWAYS:
            advice = "a gateway that cuts answers which take long may let them pass with --calls streamed"
            raise ModelError(f"{error}; {advice}", error.status) from None
        raise
    return completion.text, completion.finish_reason


def streamed_answer(model: LanguageModel, prompt: str, params: SamplingParams) -> tuple[str, str]:
    """The same answer, read while it is written."""
    stream = model.stream(prompt, params)
    try:
        text = "".join(token.text for token in stream)
        return text, stream.finish_reason
    finally:
        stream.close()
