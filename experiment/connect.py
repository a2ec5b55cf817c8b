"""The models of a run: behind servers, which are probed for what is needed of them, served by this process, or loaded into it."""

import contextlib
import time
from typing import TYPE_CHECKING

from command.errors import OptionError
from command.options import api_key, split_hosts
from command.secrets import NEUTRAL_API_KEY
from datasets_loader import DataSet, Example
from experiment.command_line import COMMAND
from experiment.sample import PromptBuilder, PromptError, family_name, sample_prompts
from experiment.settings import ModelSettings, RunSettings
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.llama_cpp import TOKENS_PER_CL100K_TOKEN, engine_in_words, is_gguf, serve, threads_per_model
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import RetryPolicy
from language_models.interface import ModelError, SharedModel
from language_models.local.loading import require_torch
from utils import count_tokens

if TYPE_CHECKING:
    from language_models.local.model import LocalModel

STREAMS_PER_SAMPLE = 2  # the nudging model may begin its next proposal before the last one has ended


def connect(
    settings: RunSettings,
    data_set: DataSet,
    examples: list[Example],
    builders: dict[str, PromptBuilder],
    servers: contextlib.ExitStack,
) -> dict[str, SharedModel]:
    """The run's models, each server probed for what is needed of it; by role.

    GGUF models without a host are served by this command until `servers` is closed, transformers models loaded into it; so long
    are the connections to all servers open.

    Raises:
        OptionError: what a model in this process needs is not there.
        ModelError: a server does not answer or cannot do what is needed, or a model cannot be loaded.
        EmbeddedServerError: a GGUF model cannot be served.
    """
    in_process = [model for model in settings.models.values() if model.in_process]
    loaded = local_models(settings, in_process, servers) if in_process else {}
    served_here = embedded_hosts(settings, data_set, examples, builders, servers)
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
        replicas = Replicas(endpoints, policy, COMMAND.note)
        servers.callback(replicas.close)
        try:
            reports = replicas.probe(
                model.logprobs,
                family_name(model.name),
                **asked_sampling(settings, role),
            )
        except ModelError as error:
            raise ModelError(f"{option}: {error}") from None
        for warning in dict.fromkeys(warning for report in reports for warning in report.warnings):
            COMMAND.note(f"warning: {warning}")
        if not model.host:
            told = engine_in_words()
            replicas.packages += ("xllamacpp",)
            for report in reports:
                report.engine, report.device = told
        models[role] = replicas
    return models


def asked_sampling(settings: RunSettings, role: str) -> dict[str, float]:
    """The temperature and top_p of a run's requests to the model of a role."""
    model = settings.models[role]
    if settings.exp == "baseline":  # all models are asked alike
        return {"temperature": settings.base_temperature, "top_p": 1.0}
    if settings.exp == "nudging" and role == "nudging":  # as published, without a top_p of its own
        return {"temperature": model.temperature, "top_p": 1.0}
    return {"temperature": model.temperature, "top_p": model.top_p}


def local_models(
    settings: RunSettings, models: list[ModelSettings], servers: contextlib.ExitStack
) -> "dict[str, LocalModel]":
    """Models of this process by role, each loaded once; what they cost is told when `servers` is closed.

    The nudging model drafts for the base model.

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

    by_name: dict[str, LocalModel] = {}
    found: dict[str, LocalModel] = {}
    # The nudging model first: the base model takes it along.
    for model in sorted(models, key=lambda model: model.role == "base"):
        if model.name in by_name:
            found[model.role] = by_name[model.name].shared()
            continue
        started = time.monotonic()
        drafter = found.get("nudging")
        users = sum(other.name == model.name for other in models)
        loaded = by_name[model.name] = found[model.role] = LocalModel.load(
            model.name,
            device=settings.device,
            dtype=settings.dtype,
            # A sample that drafts for another model has a text of its own.
            samples=settings.num_threads * (users + (model.role == "nudging" and len(models) > 1)),
            drafter=drafter,
        )
        COMMAND.note(f"loaded {loaded.in_words} ({time.monotonic() - started:.1f} s)")
        for warning in loaded.warnings:
            COMMAND.note(f"warning: {warning}")
        servers.callback(lambda loaded=loaded: COMMAND.note(loaded.cost_in_words))
    return {model.role: found[model.role] for model in models}


def embedded_hosts(
    settings: RunSettings,
    data_set: DataSet,
    examples: list[Example],
    builders: dict[str, PromptBuilder],
    servers: contextlib.ExitStack,
) -> dict[str, str]:
    """The base URLs of the models without a host, by name: each is served once by this process, until `servers` is closed."""
    names = list(
        dict.fromkeys(model.name for model in settings.models.values() if is_gguf(model.name) and not model.host)
    )
    if not names:
        return {}
    longest = settings.max_token_total
    for example in examples:
        with contextlib.suppress(PromptError):  # such a sample fails by itself
            prompts = sample_prompts(data_set, example, builders).values()
            longest = max(longest, settings.max_token_total + max(map(count_tokens, prompts)))
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
        COMMAND.note(f"serving {name} at {hosts[name]} (ready in {time.monotonic() - started:.1f} s)")
    return hosts
