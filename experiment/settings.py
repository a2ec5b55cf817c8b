"""The settings of one experiment: what must hold, what each model needs, and the names of the results."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from baselines import ENSEMBLE_LOGPROBS, PROXY_TUNING_LOGPROBS
from command.errors import OptionError
from command.options import api_key, check_one_credential, split_hosts
from command.paths import expanded, is_folder
from datasets_loader import DATA_SETS
from demo.catalogue import DEMO_MODELS
from experiment.judge_settings import JudgeSettings
from experiment.names import fitting_name, last_part
from language_models.hosted.llama_cpp import is_gguf
from language_models.local.devices import DEVICE_MAPS, ENGINE_CHOICES
from language_models.local.loading import DTYPES, is_transformers_model
from nudging import CRITERIA, NudgingSettings
from utils import INSTRUCT_TEMPLATES

EXPERIMENTS = ("base_only", "nudging_only", "nudging", "baseline")
BASELINE_METHODS = ("ensemble", "proxy_tuning")
CALLS = ("auto", "streamed", "published")


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
class RunSettings:
    """Everything that one run of run_api.py is told; the fields are the command-line options.

    Raises:
        SettingsError: at construction, if the settings cannot work.
    """

    dataset_name: str = "gsm8k"
    split: str | None = None
    num_samples: int | None = None
    shard: str | None = None
    data_dir: str | None = None
    exp: str = "nudging_only"
    baseline_method: str = "ensemble"
    base_model: str | None = None
    nudging_model: str | None = None
    proxy_chat_model: str | None = None
    proxy_base_model: str | None = None
    base_host: str | None = None
    nudging_host: str | None = None
    proxy_chat_host: str | None = None
    proxy_base_host: str | None = None
    base_api_key_env: str | None = None
    nudging_api_key_env: str | None = None
    proxy_api_key_env: str | None = None
    base_template: str = "auto"
    nudging_template: str = "auto"
    end_tokens: tuple[str, ...] = ()
    top_prob_thres: float = NudgingSettings.top_prob_thres
    completion_token_num: int = NudgingSettings.completion_token_num
    completion_token_num_nudging: int = NudgingSettings.completion_token_num_nudging
    max_token_total: int = NudgingSettings.max_token_total
    base_temperature: float = NudgingSettings.base_temperature
    base_top_p: float = NudgingSettings.base_top_p
    nudging_temperature: float = NudgingSettings.nudging_temperature
    nudging_top_p: float = 0.9
    num_threads: int = JudgeSettings.num_threads
    calls: str = "auto"
    device: str = "auto"
    base_device: str | None = None
    nudging_device: str | None = None
    proxy_chat_device: str | None = None
    proxy_base_device: str | None = None
    device_map: str = "none"
    dtype: str = "auto"
    engine: str = JudgeSettings.engine
    request_timeout: float = JudgeSettings.request_timeout
    max_retries: int = JudgeSettings.max_retries
    max_outage: float = JudgeSettings.max_outage
    judge: str = JudgeSettings.judge
    judge_model: str | None = JudgeSettings.judge_model
    judge_host: str | None = JudgeSettings.judge_host
    judge_api_key_env: str | None = JudgeSettings.judge_api_key_env
    unreadable_judgements: str = JudgeSettings.unreadable_judgements
    output_dir: str = "./outputs"
    exp_prefix: str = ""
    rerun: bool = False
    dry_run: bool = False
    print_intermediate_output: bool = False

    def __post_init__(self):
        self._check_paths()
        _check_choice("dataset_name", self.dataset_name, DATA_SETS)
        _check_choice("exp", self.exp, EXPERIMENTS)
        _check_choice("baseline_method", self.baseline_method, BASELINE_METHODS)
        _check_choice("calls", self.calls, CALLS)
        for option, choices in (("dtype", DTYPES), ("engine", ENGINE_CHOICES), ("device_map", DEVICE_MAPS)):
            _check_choice(option, getattr(self, option), choices)
        self.judge_settings  # noqa: B018  raises what is wrong with it
        for option in ("base_template", "nudging_template"):
            if not getattr(self, option).startswith("tokenizer:"):
                _check_choice(option, getattr(self, option), ("auto", *INSTRUCT_TEMPLATES, "tokenizer"))
        for option in ("completion_token_num", "completion_token_num_nudging", "max_token_total"):
            _check(getattr(self, option) >= 1, option, "must be at least 1", getattr(self, option))
        _check(self.num_samples is None or self.num_samples >= 1, "num_samples", "must be at least 1", self.num_samples)
        self.shard_of  # noqa: B018  raises what is wrong with it
        _check(0 <= self.top_prob_thres <= 1, "top_prob_thres", "is a probability, 0 to 1", self.top_prob_thres)
        for option in ("base_temperature", "nudging_temperature"):
            _check(0 <= getattr(self, option) < math.inf, option, "must be 0 or more", getattr(self, option))
        for option in ("base_top_p", "nudging_top_p"):
            _check(0 < getattr(self, option) <= 1, option, "must be above 0 and at most 1", getattr(self, option))
        for model in self.models.values():
            self._check_model(model)
            if model.api_key_env:
                api_key(model.api_key_env, model.key_option)
                check_one_credential(model.host, f"--{model.role}_host", model.api_key_env, model.key_option)
        self._check_engine()
        self.result_name  # noqa: B018  raises that it is too long

    def _check_paths(self) -> None:
        """Check what becomes part of a path; ~ is the home folder from here on."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and "\0" in value:
                raise SettingsError(f"--{field.name} holds a NUL character, which no option can")
        for option in ("data_dir", "output_dir"):
            if (value := getattr(self, option)) is not None:
                _check(bool(value.strip()), option, "names a folder: leave it out, or name one", value)
                object.__setattr__(self, option, expanded(value))
        if self.data_dir is not None:
            _check(is_folder(self.data_dir), "data_dir", "is not a folder", self.data_dir)
            _check(os.access(self.data_dir, os.R_OK | os.X_OK), "data_dir", "cannot be read", self.data_dir)
        _check(
            not re.search(r"[/\\]", self.exp_prefix),
            "exp_prefix",
            "is part of a file name: no slashes (--output_dir chooses the folder)",
            self.exp_prefix,
        )
        _check(
            not re.search(r"[/\\]|^\.+$", self.split or ""),
            "split",
            "is the name of a split such as test, no path (--data_dir names the folder with DATA_SET/SPLIT.jsonl)",
            self.split,
        )

    def _check_model(self, model: ModelSettings) -> None:
        role, name = model.role, model.name
        experiment = f"{self.exp} ({self.baseline_method})" if self.exp == "baseline" else self.exp
        if not name:
            raise SettingsError(
                f"--exp {experiment} needs --{role}_model: its name as served, a GGUF file, or a folder"
            )
        if not model.host and not is_gguf(name) and not is_transformers_model(name):
            raise SettingsError(
                f"--exp {experiment} needs --{role}_host: a URL such as http://localhost:8000/v1 (without a host go "
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
    def roles(self) -> tuple[str, ...]:
        """The models that the experiment uses, as the options call them."""
        if self.exp == "baseline":
            return ("base", "proxy_chat") + (("proxy_base",) if self.baseline_method == "proxy_tuning" else ())
        return {"base_only": ("base",), "nudging_only": ("nudging",), "nudging": ("base", "nudging")}[self.exp]

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """What the run needs of each model, by role."""
        logprobs = {
            ("nudging", "base"): CRITERIA["top_prob"].logprobs,
            ("baseline", "ensemble"): ENSEMBLE_LOGPROBS,
            ("baseline", "proxy_tuning"): PROXY_TUNING_LOGPROBS,
        }

        def model(role: str, name, host, key_owner: str, key_env, template: str, temperature: float, top_p: float):
            needed = logprobs.get((self.exp, self.baseline_method if self.exp == "baseline" else role))
            key_option = f"--{key_owner}_api_key_env"
            device = getattr(self, f"{role}_device") or self.device
            device_map = self.device_map if role == "base" else "none"
            asked = template, temperature, top_p, needed
            return ModelSettings(role, name, host, key_env, key_option, *asked, device, device_map)

        base = self.base_template, self.base_temperature, self.base_top_p
        # The proxies are the small pair: the aligned one answers in the nudging model's template.
        nudging = self.nudging_template, self.nudging_temperature, self.nudging_top_p
        base_key, nudging_key = self.base_api_key_env, self.nudging_api_key_env
        proxy_key = "proxy", self.proxy_api_key_env  # both proxies share one
        every = (
            model("base", self.base_model, self.base_host, "base", base_key, *base),
            model("nudging", self.nudging_model, self.nudging_host, "nudging", nudging_key, *nudging),
            model("proxy_chat", self.proxy_chat_model, self.proxy_chat_host, *proxy_key, *nudging),
            model("proxy_base", self.proxy_base_model, self.proxy_base_host, *proxy_key, *base),
        )
        return {model.role: model for model in every if model.role in self.roles}

    @property
    def nudging_settings(self) -> NudgingSettings:
        """The part of the settings that the nudging loop takes."""
        return NudgingSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(NudgingSettings)})

    @property
    def judge_settings(self) -> JudgeSettings:
        """The part of the settings that concerns the judge."""
        return JudgeSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(JudgeSettings)})

    @property
    def shard_of(self) -> tuple[int, int]:
        """Which shard this run is, from 1, and of how many; (1, 1) without --shard.

        Raises:
            SettingsError: --shard does not say so.
        """
        if self.shard is None:
            return 1, 1
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard, re.ASCII)
        i, n = map(int, match.groups()) if match else (0, 0)
        _check(1 <= i <= n, "shard", "is i/n with i from 1 to n, such as 2/4", self.shard)
        return i, n

    def shard_indices(self, samples: int) -> range:
        """The indices of this run among all samples: every n-th, so that shards are of one size and of one difficulty."""
        i, n = self.shard_of
        return range(i - 1, samples, n)

    def differing(self, then: dict) -> list[str]:
        """The names of the decisive settings that differ from those of an earlier run, as its run.json has them."""
        # Compared as JSON has them: a tuple comes back as a list.
        now = {name: list(value) if isinstance(value, tuple) else value for name, value in self.decisive.items()}
        return [name for name in now if now[name] != then.get(name)]

    @property
    def same_command(self) -> str:
        """How to say which command goes on from here."""
        return "the same command without --rerun" if self.rerun else "the same command"

    @property
    def used_split(self) -> str:
        """The split that is asked: the one given, or the data set's own."""
        return self.split or DATA_SETS[self.dataset_name].splits[0]

    @property
    def result_name(self) -> str:
        """The name of the result files, without folder and suffix: the published program's, with long models' names cut.

        Raises:
            SettingsError: it is too long whatever is cut.
        """
        prefix = f"split_{self.used_split}_" + (self.exp_prefix.rstrip("_") + "_" if self.exp_prefix else "")
        models = "_".join(last_part(model.name) for role, model in self.models.items() if role != "proxy_base")
        kind = {"nudging": f"top_prob_{self.top_prob_thres}_thres_nudging_", "baseline": f"{self.baseline_method}_"}
        i, n = self.shard_of
        shard = f"_shard{i}of{n}" if self.shard else ""
        name = fitting_name(prefix + kind.get(self.exp, ""), models, f"_{self.num_samples}_samples")
        if name is None:
            raise SettingsError(
                "--exp_prefix and --split make the names of the result files longer than a file's name can be; "
                f"shorten them (--exp_prefix has {len(self.exp_prefix)} characters, --split {len(self.used_split)})"
            )
        return name + shard

    @property
    def result_folder(self) -> Path:
        """The folder of the data set's results."""
        return Path(self.output_dir) / self.dataset_name

    @property
    def decisive(self) -> dict:
        """The settings on which answers depend: a run may be continued only with the same ones.

        Devices and engines are none of them: in float32 the text is the same on all, and in half precision it is so up to
        rounding, as between two GPUs. Every session says in run.json what it computed on.
        """
        names = ["dataset_name", "num_samples", "exp", "max_token_total", "end_tokens"]
        names += [f"{role}_model" for role in self.roles]
        base, nudging = "base" in self.roles, "nudging" in self.roles
        names += ["base_temperature", "base_template"] * base + ["nudging_temperature", "nudging_template"] * nudging
        names += {
            "base_only": ["base_top_p"],
            "nudging_only": ["nudging_top_p"],
            "nudging": ["base_top_p", "top_prob_thres", "completion_token_num", "completion_token_num_nudging"],
            "baseline": ["baseline_method", "nudging_template"],
        }[self.exp]
        if self.shard:
            names.append("shard")
        if any(model.in_process for model in self.models.values()):
            names.append("dtype")
        return {"split": self.used_split} | {name: getattr(self, name) for name in names}


def _check(holds: bool, option: str, rule: str, value) -> None:
    if not holds:
        raise SettingsError(f"--{option} {rule}; it is {value!r}")


def _check_choice(option: str, value: str, choices) -> None:
    if value not in choices:
        raise SettingsError(f"--{option} has no choice {value!r}; choose one of: {', '.join(choices)}")
