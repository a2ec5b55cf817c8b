"""One sample of an experiment: the prompts of its models, the decoding loop that it goes through, and its record."""

import contextlib
import sys
import time
from dataclasses import asdict, dataclass

from tqdm import tqdm

from baselines import average_ensemble, proxy_tuning
from command.console import for_terminal, visible
from command.errors import OptionError, UserError
from command.secrets import hide, without_password
from command.unexpected import plain, traceback_of
from datasets_loader import DataSet, Example
from demo.catalogue import DEMO_MODELS
from experiment.command_line import COMMAND
from experiment.rules import rule_score
from experiment.settings import ModelSettings, RunSettings, SettingsError
from language_models.chat_templates import PromptWriter
from language_models.hosted.gguf_file import gguf_prompt_writer
from language_models.hosted.http import shorten
from language_models.hosted.llama_cpp import gguf_path, is_gguf
from language_models.interface import (
    ContextLengthError,
    DeviceLostError,
    LanguageModel,
    Metered,
    ModelError,
    SamplingParams,
    SharedModel,
)
from language_models.local.chat_template import named_prompt_writer, tokenizer_prompt_writer
from language_models.local.loading import load_tokenizer
from nudging import nudge
from utils import apply_instruct_template, recognise_family, without_surrogates

# Statuses of gateways that wait no longer for an answer that is written behind them.
CUT_BY_GATEWAYS = (504, 524)
# A base model is asked in plain text; these are asked in the template that they were trained on.
ALIGNED_ROLES = ("nudging", "proxy_chat")


class PromptError(UserError):
    """A prompt cannot be written; the message says in which template, and why."""


@dataclass(frozen=True)
class PromptBuilder:
    """Writes a model's prompt before any answer text; half a character in it is U+FFFD.

    `template` says for people which one, and why; `packages` have a part in it. Raises PromptError where nothing can be written.
    """

    write: PromptWriter
    template: str
    packages: tuple[str, ...] = ()

    def __call__(self, system: str, user: str) -> str:
        try:
            prompt = self.write(system, user)
        except Exception as error:  # a template raises errors of its own and any of Python's
            reason = f"{type(error).__name__}: {error}" if str(error).strip() else type(error).__name__
            raise PromptError(self._cannot(reason)) from None
        if not isinstance(prompt, str) or not prompt.strip():
            raise PromptError(self._cannot(f"it gives {prompt!r}"))
        return without_surrogates(prompt)

    def _cannot(self, reason: str) -> str:
        return f"the prompt cannot be written in the template {self.template} ({shorten(reason)})"


def family_name(model_name: str) -> str:
    """The name that a model's family is recognised by: its own, or the file name of a bundled model."""
    return DEMO_MODELS[model_name].file if model_name in DEMO_MODELS else model_name


def prompt_builders(settings: RunSettings) -> dict[str, PromptBuilder]:
    """For each model of the run what writes its prompts.

    Raises:
        SettingsError: an aligned model would be asked in plain text that nobody named.
        UserError: a template cannot be read.
    """
    builders = {role: _prompt_builder(model) for role, model in settings.models.items()}
    for role, builder in builders.items():
        with contextlib.suppress(PromptError):  # each sample tells by itself
            if builder("S", "U").rstrip().endswith("<think>"):
                COMMAND.note(
                    f"warning: the template of --{role}_model ({builder.template}) opens a block of thoughts, "
                    "which will count as the answer"
                )
    return builders


def _prompt_builder(model: ModelSettings) -> PromptBuilder:
    name, template = family_name(model.name), model.template
    aligned = model.role in ALIGNED_ROLES
    if template.split(":")[0] == "tokenizer":
        return _named_template(model, template.partition(":")[2])
    if template == "auto" and aligned and not model.host and (own := _own_template(model)):
        return PromptBuilder(own, "the model's own", ("jinja2",))
    by_name = template == "auto"
    family = recognise_family(name) if by_name else template
    if by_name and aligned and family == "plain":
        why = "its name tells no instruct template that is known here"
        way_out = (
            "tokenizer takes its tokenizer's chat template (tokenizer:FOLDER_OR_HUB_ID where that has another name)"
        )
        if not model.host:
            why = f"it carries no chat template, and {why}"
            way_out = "tokenizer:FOLDER_OR_HUB_ID takes the chat template of another tokenizer"
        raise SettingsError(
            f"--{model.role}_model {model.name}: {why}; --nudging_template {way_out}, --nudging_template plain asks without one"
        )
    return PromptBuilder(
        lambda system, user: apply_instruct_template(name, system, user, family=family),
        f"{family} (by name)" if by_name else family,
    )


def _named_template(model: ModelSettings, named: str) -> PromptBuilder:
    """The chat template of a tokenizer or a GGUF file, by its name or, without one, the model's."""
    source = named or model.name
    if not is_gguf(source):
        packages = ("jinja2", "transformers", "tokenizers")
        return PromptBuilder(named_prompt_writer(source), f"of the tokenizer of {source}", packages)
    if model.host and not named:
        raise SettingsError(
            f"--{model.role}_model {source} is behind a server: name a file or hub id with its chat template by tokenizer:NAME"
        )
    writer = gguf_prompt_writer(gguf_path(source))
    if writer is None:
        raise SettingsError(f"{source} carries no chat template; choose a template by name")
    return PromptBuilder(writer, f"of {source}", ("jinja2",))


def _own_template(model: ModelSettings) -> PromptWriter | None:
    """The chat template that a GGUF file or a model of this process carries."""
    if is_gguf(model.name):
        return gguf_prompt_writer(gguf_path(model.name))
    try:
        return tokenizer_prompt_writer(load_tokenizer(model.name), model.name)
    except OptionError as error:
        raise SettingsError(
            f"--{model.role}_model {model.name} has no --{model.role}_host, so it is loaded into this process: {error}"
        ) from None


def sample_prompts(data_set: DataSet, example: Example, builders: dict[str, PromptBuilder]) -> dict[str, str]:
    """The prompt of each model for one question (PromptError: one cannot be written)."""
    user = example.context + data_set.question_prefix + example.question
    return {role: build(data_set.system_prompt, user) for role, build in builders.items()}


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
    method = f" ({settings.baseline_method})" if settings.exp == "baseline" else ""
    lines = [
        f"experiment: {settings.exp}{method} on {settings.dataset_name}, split {settings.used_split}: "
        f"{len(examples)} questions{shard}, {settings.num_threads} threads",
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


def used_request_mode(settings: RunSettings, models: dict[str, SharedModel]) -> str:
    """How the models of a run are asked: "streamed" or "published".

    Raises:
        ModelError: --calls asks for streams, and a server has none.
    """
    single = settings.exp in ("base_only", "nudging_only")
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

    An error that nobody expected has its "traceback" besides, which is for the run's own file and not for the sample's record.
    `request_mode`: see READERS.
    """
    started = time.monotonic()
    metered = {role: Metered(model.for_sample(example.id)) for role, model in models.items()}
    record = {
        "index": index,
        "id": example.id,
        "question": example.question,
        "context": example.context,
        "gold_answer": example.gold,
        "q_prefix": data_set.question_prefix,
    }
    try:
        prompts = sample_prompts(data_set, example, builders)
        for role, prompt in prompts.items():
            record |= {f"full_prefix_{role}": prompt, f"system_prompt_{role}": data_set.system_prompt}
        record |= decode(settings, prompts, metered, index, request_mode)
        record["extracted_answer"] = record["raw_answer"]
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
    settings: RunSettings, prompts: dict[str, str], models: dict[str, Metered], index: int, request_mode: str
) -> dict:
    """The part of a record that the experiment's decoding loop writes.

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
            settings.nudging_settings,
            on_round,
            request_mode,
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
        )
        return {"raw_answer": result.text, "stop_reason": result.stop_reason}
    ((role, model),) = settings.models.items()
    params = SamplingParams(settings.max_token_total, model.temperature, model.top_p)
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
