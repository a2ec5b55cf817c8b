"""The models of a run: behind servers, which are probed for what is needed of them, served by this process, or loaded into it."""

import contextlib
import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from command.errors import OptionError
from command.options import api_key, split_hosts
from command.secrets import NEUTRAL_API_KEY
from datasets_loader import DataSet, Example
from experiment.command_line import COMMAND
from experiment.model_settings import ModelSettings, PairSettings
from experiment.prompts import PromptBuilder, PromptError, family_name
from experiment.sample import sample_prompts
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.llama_cpp import TOKENS_PER_CL100K_TOKEN, engine_in_words, is_gguf, serve, threads_per_model
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError, SeedError, SharedModel
from language_models.local.devices import gpus, with_number
from language_models.local.loading import find_model, pick_device, require_torch
from nudging import ROUNDS_AHEAD_RIDING
from utils import count_tokens

if TYPE_CHECKING:
    from language_models.local.model import LocalModel

LONGEST_QUESTIONS = 64  # whose prompts are looked at, to know how long texts will be
# What an answer of so many cl100k_base tokens has in most models' own ones; caches grow where it has more.
USUAL_TOKENS_PER_CL100K_TOKEN = 1.25
STREAMS_PER_SAMPLE = 2  # the nudging model may begin its next proposal before the last one has ended


@dataclass(frozen=True)
class Lengths:
    """How long texts will be: the longest prompts, and the most cl100k_base tokens of prompt and answer, counted if need be."""

    prompts: Sequence[str]
    most_tokens: Callable[[], int]


def lengths(
    settings: PairSettings, data_set: DataSet, examples: list[Example], builders: dict[str, PromptBuilder]
) -> Lengths:
    """How long the texts of an experiment will be."""

    def most_tokens() -> int:
        longest = settings.max_token_total
        for example in examples:
            with contextlib.suppress(PromptError):  # such a sample fails by itself
                prompts = sample_prompts(data_set, example, builders).values()
                longest = max(longest, settings.max_token_total + max(map(count_tokens, prompts)))
        return longest

    in_process = any(model.in_process for model in settings.models.values())
    return Lengths(longest_prompts(data_set, examples, builders) if in_process else (), most_tokens)


def connect(
    settings: PairSettings,
    lengths: Lengths,
    servers: contextlib.ExitStack,
    say: Callable[[str], None] = COMMAND.note,
) -> dict[str, SharedModel]:
    """The models of the settings, each server probed for what is needed of it; by role.

    GGUF models without a host are served by this command until `servers` is closed, transformers models loaded into it; so long
    are the connections to all servers open.

    Args:
        say: is told what is being loaded and served, and warnings.

    Raises:
        OptionError: what a model in this process needs is not there.
        ModelError: a server does not answer or cannot do what is needed, or a model cannot be loaded.
        EmbeddedServerError: a GGUF model cannot be served.
    """
    in_process = [model for model in settings.models.values() if model.in_process]
    loaded = {}
    if in_process:
        loaded = local_models(settings, in_process, servers, lengths.prompts, say)
    served_here = embedded_hosts(settings, lengths, servers, say)
    retry_policy = RetryPolicy(settings.max_retries, settings.max_outage, settings.max_outage)
    # A server of this process is there, however slow it is.
    own_policy = RetryPolicy(settings.max_retries, settings.max_outage)
    models = {}
    for role, model in settings.models.items():
        if role in loaded:
            models[role] = loaded[role]
            continue
        option = f"--{role}_host"
        policy = retry_policy if model.host else own_policy
        endpoints = [
            OpenAIEndpoint(
                model.name,
                host,
                api_key=api_key(model.api_key_env, "the key of " + role) if model.api_key_env else NEUTRAL_API_KEY,
                max_connections=STREAMS_PER_SAMPLE * settings.num_threads,
                request_timeout=settings.request_timeout,
                retry_policy=policy,
                end_names=settings.end_tokens,
            )
            for host in split_hosts(model.host or served_here[model.name], option)
        ]
        replicas = Replicas(endpoints, policy, say)
        servers.callback(replicas.close)
        try:
            reports = replicas.probe(
                model.logprobs,
                family_name(model.name),
                **settings.sampling(role),
            )
        except SeedError as error:
            raise ModelError(f"{option}: {error}: leave out --seed") from None
        except ModelError as error:
            raise ModelError(f"{option}: {error}") from None
        for warning in dict.fromkeys(warning for report in reports for warning in report.warnings):
            say(f"warning: {warning}")
        if not model.host:
            told = engine_in_words()
            replicas.packages += ("xllamacpp",)
            for report in reports:
                report.engine, report.device = told
        models[role] = replicas
    return models


def local_models(
    settings: PairSettings,
    models: list[ModelSettings],
    servers: contextlib.ExitStack,
    prompts: Sequence[str] = (),
    say: Callable[[str], None] = COMMAND.note,
) -> "dict[str, LocalModel]":
    """Models of this process by role, each loaded once on each device; what they cost is told when `servers` is closed.

    The nudging model drafts for the base model, unless they are one model.

    Args:
        prompts: the longest that there will be.

    Raises:
        OptionError, ModelError: a package or a model is missing, or cannot be loaded.
    """
    try:
        require_torch()
    except OptionError as error:
        role, name = models[0].role, models[0].name
        raise OptionError(
            f"--{role}_model {name} has no --{role}_host, so it is loaded into this process: {error}"
        ) from None
    from language_models.local.model import LocalModel

    places = {model.role: _place(model) for model in models}
    drafting = {"base", "nudging"} <= places.keys() and places["base"] != places["nudging"]
    first_of: dict[tuple, str] = {}
    found: dict[str, LocalModel] = {}
    # The nudging model first: the base model takes it along.
    for model in sorted(models, key=lambda model: model.role == "base"):
        place = places[model.role]
        first = first_of.setdefault(place, model.role)
        if first in found:
            found[model.role] = found[first].shared(first)
            continue
        started = time.monotonic()
        users = list(places.values()).count(place)
        loaded = found[model.role] = LocalModel.load(
            model.name,
            device=model.device,
            dtype=settings.dtype,
            device_map=model.device_map,
            # A sample that drafts for another model has a text of its own.
            samples=settings.num_threads * (users + (drafting and model.role == "nudging")),
            riders=settings.num_threads * (settings.nudges and model.role == "nudging") * ROUNDS_AHEAD_RIDING,
            drafter=found["nudging"] if drafting and model.role == "base" else None,
            engine=settings.engine,
            prompts=prompts,
            answer_tokens=int(USUAL_TOKENS_PER_CL100K_TOKEN * settings.max_token_total) + settings.completion_token_num,
        )
        say(f"loaded {loaded.in_words} ({time.monotonic() - started:.1f} s)")
        for line in (*loaded.notes, *(f"warning: {warning}" for warning in loaded.warnings)):
            say(line)
        servers.callback(lambda loaded=loaded: say(loaded.cost_in_words))
    return {model.role: found[model.role] for model in models}


def _place(model: ModelSettings) -> tuple[str, str]:
    """Which weights are loaded, and where to: roles that have both in common share a model."""
    if model.device_map == "auto" and len(gpus()) > 1:
        return find_model(model.name), "all GPUs"
    return find_model(model.name), str(with_number(pick_device(model.device)))


def _length(example: Example) -> int:
    before = sum(len(text) for pair in (*example.history, *example.shots) for text in pair)
    return before + len(example.context) + len(example.question)


def longest_prompts(data_set: DataSet, examples: list[Example], builders: dict[str, PromptBuilder]) -> list[str]:
    """The longest prompts of each model, by their characters."""
    found: dict[str, str] = {}
    for example in heapq.nlargest(LONGEST_QUESTIONS, examples, key=_length):
        with contextlib.suppress(PromptError):  # such a sample fails by itself
            for role, prompt in sample_prompts(data_set, example, builders).items():
                found[role] = max(found.get(role, ""), prompt, key=len)
    return list(found.values())


def embedded_hosts(
    settings: PairSettings,
    lengths: Lengths,
    servers: contextlib.ExitStack,
    say: Callable[[str], None] = COMMAND.note,
) -> dict[str, str]:
    """The base URLs of the models without a host, by name: each is served once by this process, until `servers` is closed."""
    names = list(
        dict.fromkeys(model.name for model in settings.models.values() if is_gguf(model.name) and not model.host)
    )
    if not names:
        return {}
    longest = lengths.most_tokens()
    hosts = {}
    for name in names:
        started = time.monotonic()
        hosts[name] = servers.enter_context(
            serve(
                name,
                num_threads=settings.num_threads,
                context_length=TOKENS_PER_CL100K_TOKEN * longest + settings.completion_token_num,
                model_threads=threads_per_model(len(names)),
            )
        )
        say(f"serving {name} at {hosts[name]} (ready in {time.monotonic() - started:.1f} s)")
    return hosts
