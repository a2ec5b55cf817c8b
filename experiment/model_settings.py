"""The settings of models and of how they are asked, which run_api.py, serve_nudged.py and NudgedPair have in common."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from command.errors import OptionError
from command.options import api_key, check_one_credential, check_requests, split_hosts
from decoding.blending import AUTO, BLEND_LOGPROBS
from decoding.criteria import CRITERIA, Criterion, number_of
from demo.catalogue import DEMO_MODELS
from experiment.judge_settings import JudgeSettings
from language_models.hosted.llama_cpp import is_gguf
from language_models.local.devices import DEVICE_MAPS, ENGINE_CHOICES
from language_models.local.loading import DTYPES, is_transformers_model
from nudging import NudgingSettings
from utils import INSTRUCT_TEMPLATES

CALLS = ("auto", "streamed", "published")
DEFAULT_CRITERION = "top_prob"


class SettingsError(OptionError):
    """Settings that cannot work; the message says which and what to do."""


@dataclass(frozen=True)
class ModelSettings:
    """One model of a run: its role, name as served, base URLs, template, sampling, and the log-probabilities needed per position.

    Without a host it is a GGUF file that this process serves, or (`in_process`) a transformers model that it runs itself.
    `key_option` is the option that names the variable with its API key. `device` and `device_map` are those of a model that this
    process runs itself.
    """

    role: str
    name: str
    host: str | None
    api_key_env: str | None
    key_option: str
    template: str
    temperature: float
    top_p: float
    logprobs: int | None
    device: str = "auto"
    device_map: str = "none"

    @property
    def in_process(self) -> bool:
        """Whether the model is loaded into this process."""
        return not self.host and not is_gguf(self.name)


@dataclass(frozen=True)
class PairSettings:
    """A base model and a small aligned one, and how they are asked; the fields are the command-line options.

    Raises:
        SettingsError: at construction, if the settings cannot work.
    """

    base_model: str | None = None
    nudging_model: str | None = None
    base_host: str | None = None
    nudging_host: str | None = None
    base_api_key_env: str | None = None
    nudging_api_key_env: str | None = None
    base_template: str = "auto"
    nudging_template: str = "auto"
    end_tokens: tuple[str, ...] = ()
    criterion: str = DEFAULT_CRITERION
    threshold: float | None = None
    top_prob_thres: float = NudgingSettings.top_prob_thres
    blend: str | None = None
    completion_token_num: int = NudgingSettings.completion_token_num
    completion_token_num_nudging: int = NudgingSettings.completion_token_num_nudging
    max_token_total: int = NudgingSettings.max_token_total
    base_temperature: float = NudgingSettings.base_temperature
    base_top_p: float = NudgingSettings.base_top_p
    nudging_temperature: float = NudgingSettings.nudging_temperature
    num_threads: int = JudgeSettings.num_threads
    calls: str = "auto"
    device: str = "auto"
    base_device: str | None = None
    nudging_device: str | None = None
    device_map: str = "none"
    dtype: str = "auto"
    engine: str = JudgeSettings.engine
    request_timeout: float = JudgeSettings.request_timeout
    max_retries: int = JudgeSettings.max_retries
    max_outage: float = JudgeSettings.max_outage

    def __post_init__(self):
        self.check_no_nul()
        check_requests(self.num_threads, self.request_timeout, self.max_retries)
        check(0 <= self.max_outage < math.inf, "max_outage", "must be 0 or more", self.max_outage)
        check_choice("calls", self.calls, CALLS)
        for option, choices in (("dtype", DTYPES), ("engine", ENGINE_CHOICES), ("device_map", DEVICE_MAPS)):
            check_choice(option, getattr(self, option), choices)
        for option in ("base_template", "nudging_template"):
            if not getattr(self, option).startswith("tokenizer:"):
                check_choice(option, getattr(self, option), ("auto", *INSTRUCT_TEMPLATES, "tokenizer"))
        for option in ("completion_token_num", "completion_token_num_nudging", "max_token_total"):
            check(getattr(self, option) >= 1, option, "must be at least 1", getattr(self, option))
        check(0 <= self.top_prob_thres <= 1, "top_prob_thres", "is a probability, 0 to 1", self.top_prob_thres)
        self._check_criterion()
        for option in ("base_temperature", "nudging_temperature"):
            check(0 <= getattr(self, option) < math.inf, option, "must be 0 or more", getattr(self, option))
        check(0 < self.base_top_p <= 1, "base_top_p", "must be above 0 and at most 1", self.base_top_p)
        for model in self.models.values():
            self._check_model(model)
            if model.api_key_env:
                api_key(model.api_key_env, model.key_option)
                check_one_credential(model.host, f"--{model.role}_host", model.api_key_env, model.key_option)
        self._check_engine()

    def check_no_nul(self) -> None:
        """Raise SettingsError if a text holds NUL, which no path, name or option can."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and "\0" in value:
                raise SettingsError(f"--{field.name} holds a NUL character, which no option can")

    def _check_criterion(self) -> None:
        """Check the criterion and its number; of top_prob both options are one from here on."""
        check_choice("criterion", self.criterion, CRITERIA)
        told = self.top_prob_thres != NudgingSettings.top_prob_thres
        if self.criterion != DEFAULT_CRITERION and told:
            raise SettingsError(
                f"--top_prob_thres is the number of --criterion {DEFAULT_CRITERION}; that of {self.criterion} is --threshold"
            )
        if self.threshold is not None:
            check_number(self.criterion, self.threshold, "--threshold")
            if self.criterion == DEFAULT_CRITERION:
                if told and self.threshold != self.top_prob_thres:
                    raise SettingsError(
                        f"--threshold {self.threshold:g} and --top_prob_thres {self.top_prob_thres:g} are the same number: give one"
                    )
                object.__setattr__(self, "top_prob_thres", self.threshold)
                object.__setattr__(self, "threshold", None)
        self.blend_weight  # noqa: B018  raises that it is none

    @property
    def blend_weight(self) -> float | str | None:
        """How much the nudging model counts where the next token is chosen from a mixture; "auto", or None for no mixtures.

        Raises:
            SettingsError: --blend is neither auto nor a number from 0 to 1.
        """
        if self.blend in (None, AUTO):
            return self.blend
        try:
            weight = float(self.blend)
        except ValueError:
            weight = math.nan
        check(0 <= weight <= 1, "blend", f"is {AUTO}, or how much the nudging model counts, 0 to 1", self.blend)
        return weight

    @property
    def used_threshold(self) -> float | None:
        """The number that the criterion is asked with; None where it has none."""
        if CRITERIA[self.criterion].threshold is None:
            return None
        return number_of(self.criterion, self.threshold, self.top_prob_thres)

    def _check_model(self, model: ModelSettings) -> None:
        role, name = model.role, model.name
        if not name:
            raise SettingsError(f"{self.asked_for} needs --{role}_model: its name as served, a GGUF file, or a folder")
        if not model.host and not is_gguf(name) and not is_transformers_model(name):
            raise SettingsError(
                f"{self.asked_for} needs --{role}_host: a URL such as http://localhost:8000/v1 (without a host go "
                f"{' and '.join(DEMO_MODELS)}, GGUF files, and folders and hub ids of transformers models; "
                f"{name!r} is none)"
            )
        if model.host:
            split_hosts(model.host, f"--{role}_host")

    def _check_engine(self) -> None:
        """Refuse options of models in this process that none of the run's models would follow, or that exclude each other."""
        for role, model in self.models.items():
            if getattr(self, f"{role}_device") and not model.in_process:
                where = "behind a server" if model.host else "a GGUF file"
                raise SettingsError(
                    f"--{role}_device is of a model that this process loads; --{role}_model {model.name} is {where}: "
                    "leave the option out"
                )
        base = self.models.get("base")
        if self.device_map == "auto" and base:
            if not base.in_process:
                raise SettingsError(
                    "--device_map auto is for a base model that this process loads; leave it out, or leave out --base_host"
                )
            if self.base_device:
                raise SettingsError(
                    "--device_map auto puts the base model on all GPUs: leave out --base_device, or this"
                )
            if self.engine == "graphs":
                raise SettingsError(
                    "--engine graphs needs each model on one device: leave out --device_map auto, or take --engine auto"
                )

    @property
    def asked_for(self) -> str:
        """What needs the models, for messages."""
        return "a nudged pair"

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that are used, as the options call them."""
        return "base", "nudging"

    @property
    def nudges(self) -> bool:
        """Whether a base model is nudged."""
        return True

    def logprobs_of(self, role: str) -> int | None:
        """How many log-probabilities are needed at each position of a role's model; None for none."""
        return logprobs_needed(CRITERIA[self.criterion], self.blend is not None)[role]

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """What is needed of each model, by role."""
        base = self.base_template, self.base_temperature, self.base_top_p
        nudging = self.nudging_template, self.nudging_temperature, NudgingSettings.nudging_top_p
        return {"base": self.model_of("base", "base", *base), "nudging": self.model_of("nudging", "nudging", *nudging)}

    def model_of(self, role: str, key_owner: str, template: str, temperature: float, top_p: float) -> ModelSettings:
        """What is needed of the model of a role; `key_owner` is in the name of the option of its key."""
        device = getattr(self, f"{role}_device") or self.device
        device_map = self.device_map if role == "base" else "none"
        asked = template, temperature, top_p, self.logprobs_of(role)
        served = (
            getattr(self, f"{role}_model"),
            getattr(self, f"{role}_host"),
            getattr(self, f"{key_owner}_api_key_env"),
        )
        return ModelSettings(role, *served, f"--{key_owner}_api_key_env", *asked, device, device_map)

    def sampling(self, role: str) -> dict[str, float]:
        """The temperature and top_p of the requests to the model of a role."""
        model = self.models[role]
        # The nudging model's proposals are asked for as published, without a top_p of their own.
        top_p = NudgingSettings.nudging_top_p if self.nudges and role == "nudging" else model.top_p
        return {"temperature": model.temperature, "top_p": top_p}

    @property
    def nudging_settings(self) -> NudgingSettings:
        """The part of the settings that the nudging loop takes."""
        own = ("nudging_top_p", "seed", "blend")
        taken = [f.name for f in dataclasses.fields(NudgingSettings) if f.name not in own]
        return NudgingSettings(**{name: getattr(self, name) for name in taken}, blend=self.blend_weight)


def logprobs_needed(criterion: Criterion, blends: bool) -> dict[str, int | None]:
    """How many log-probabilities are needed at each position of the base and the nudging model, by role; None for none."""
    base = None if criterion.alone == "nudging" and not blends else criterion.logprobs
    needed = {"base": base, "nudging": criterion.nudging_logprobs}
    return {role: max(n or 0, BLEND_LOGPROBS) for role, n in needed.items()} if blends else needed


def check_number(criterion: str, number: float, option: str) -> None:
    """Raise SettingsError unless a criterion can be asked with a number; `option` is what gave it."""
    rule = CRITERIA[criterion]
    if rule.threshold is None:
        raise SettingsError(f"{option}: --criterion {criterion} has no number; leave it out")
    if not rule.lowest <= number <= rule.highest:
        raise SettingsError(
            f"{option} of --criterion {criterion} is {rule.quantity}, {rule.lowest:g} to {rule.highest:.4g}; it is {number:g}"
        )


def check(holds: bool, option: str, rule: str, value: object) -> None:
    """Raise SettingsError, naming an option, its rule and its value, unless the rule holds."""
    if not holds:
        raise SettingsError(f"--{option} {rule}; it is {value!r}")


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise SettingsError unless an option's value is one of its choices."""
    if value not in choices:
        raise SettingsError(f"--{option} has no choice {value!r}; choose one of: {', '.join(choices)}")
