"""The settings of one experiment: what must hold, what each model needs, and the names of the results."""

import dataclasses
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from baselines import ENSEMBLE_LOGPROBS, PROXY_TUNING_LOGPROBS
from command.paths import expanded, is_file, is_folder
from datasets_loader import DATA_SETS, DataError, DataSet
from decoding.criteria import CRITERIA
from experiment.judge_settings import JudgeSettings
from experiment.judgements import NONE
from experiment.model_settings import DEFAULT_CRITERION, ModelSettings, PairSettings, SettingsError, check, check_choice
from experiment.names import fitting_name, last_part
from experiment.scoring import check_scoring
from experiment.seeds import MOST_ANSWERS
from language_models.interface import SEEDS
from questions.few_shot import check_train_split
from questions.own import own_data_set, questions_name

EXPERIMENTS = ("base_only", "nudging_only", "nudging", "baseline")
BASELINE_METHODS = ("ensemble", "proxy_tuning")
DEFAULT_DATA_SET = "gsm8k"
# Decisive settings that run.json has only where they are not the default.
ONLY_WHERE_GIVEN = ("system_prompt", "few_shot", "answers", "seed")


@dataclass(frozen=True)
class RunSettings(PairSettings):
    """Everything that one run of run_api.py is told; the fields are the command-line options.

    With `questions`, `dataset_name` is from construction on what these are called.

    Raises:
        SettingsError: at construction, if the settings cannot work.
    """

    dataset_name: str | None = None
    questions: str | None = None
    system_prompt: str | None = None
    scoring: str = NONE
    few_shot: int = 0
    few_shot_file: str | None = None
    split: str | None = None
    num_samples: int | None = None
    answers: int = 1
    seed: int | None = None
    shard: str | None = None
    data_dir: str | None = None
    exp: str = "nudging_only"
    baseline_method: str = "ensemble"
    proxy_chat_model: str | None = None
    proxy_base_model: str | None = None
    proxy_chat_host: str | None = None
    proxy_base_host: str | None = None
    proxy_api_key_env: str | None = None
    nudging_top_p: float = 0.9
    proxy_chat_device: str | None = None
    proxy_base_device: str | None = None
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
        try:
            self._check_what_is_asked()
        except DataError as error:
            raise SettingsError(str(error)) from None
        check_choice("exp", self.exp, EXPERIMENTS)
        check_choice("baseline_method", self.baseline_method, BASELINE_METHODS)
        self.judge_settings  # noqa: B018  raises what is wrong with it
        self.judge_settings.check_rule(self.data_set)
        self._check_nudging_alone()
        check(self.num_samples is None or self.num_samples >= 1, "num_samples", "must be at least 1", self.num_samples)
        self.shard_of  # noqa: B018  raises what is wrong with it
        check(0 < self.nudging_top_p <= 1, "nudging_top_p", "must be above 0 and at most 1", self.nudging_top_p)
        super().__post_init__()
        self._check_answers()
        self.result_name  # noqa: B018  raises that it is too long

    def _check_nudging_alone(self) -> None:
        """Refuse what other experiments would pass over; --top_prob_thres they always have."""
        if self.exp != "nudging":
            for option, default in (("criterion", DEFAULT_CRITERION), ("threshold", None), ("blend", None)):
                if getattr(self, option) != default:
                    raise SettingsError(f"--{option} is of --exp nudging; leave it out of --exp {self.exp}")

    def _check_answers(self) -> None:
        """Refuse several answers to a question that would all be the same; a seed also decides what --criterion random does."""
        check(1 <= self.answers <= MOST_ANSWERS, "answers", f"must be from 1 to {MOST_ANSWERS}", self.answers)
        check(self.seed is None or self.seed >= 0, "seed", "must be 0 or more", self.seed)
        draws = any(getattr(self, option) for option in self._drawn_by)
        if self.answers > 1 and not draws and not (self.criterion == "random" and self.seed is not None):
            options = " or ".join(f"--{option}" for option in self._drawn_by)
            raise SettingsError(
                f"--answers {self.answers}: at temperature 0 all answers to a question are the same; set {options} above 0, "
                f"such as --{self._drawn_by[0]} 1.0"
            )

    @property
    def _drawn_by(self) -> tuple[str, ...]:
        """The options of the temperatures that texts depend on."""
        base, nudging = ("base_temperature",), ("nudging_temperature",)
        if self.exp != "nudging":
            return nudging if self.exp == "nudging_only" else base
        if self.blend is not None:
            return base
        return {"base": base, "nudging": nudging}.get(CRITERIA[self.criterion].alone, base + nudging)

    def _check_paths(self) -> None:
        """Check what becomes part of a path; ~ is the home folder from here on."""
        self.check_no_nul()
        paths = {"data_dir": "folder", "output_dir": "folder", "questions": "file", "few_shot_file": "file"}
        for option, kind in paths.items():
            if (value := getattr(self, option)) is not None:
                check(bool(value.strip()), option, f"names a {kind}: leave it out, or name one", value)
                object.__setattr__(self, option, expanded(value))
        if self.data_dir is not None:
            check(is_folder(self.data_dir), "data_dir", "is not a folder", self.data_dir)
            check(os.access(self.data_dir, os.R_OK | os.X_OK), "data_dir", "cannot be read", self.data_dir)
        check(
            not re.search(r"[/\\]", self.exp_prefix),
            "exp_prefix",
            "is part of a file name: no slashes (--output_dir chooses the folder)",
            self.exp_prefix,
        )
        check(
            not re.search(r"[/\\]|^\.+$", self.split or ""),
            "split",
            "is the name of a split such as test, no path (--data_dir names the folder with DATA_SET/SPLIT.jsonl)",
            self.split,
        )

    def _check_what_is_asked(self) -> None:
        """Check what names a data set or a file of questions, and what stands before them.

        Raises:
            SettingsError, DataError: it cannot be asked.
        """
        if self.questions is None:
            name = DEFAULT_DATA_SET if self.dataset_name is None else self.dataset_name
            check_choice("dataset_name", name, DATA_SETS)
            check(
                self.scoring == NONE, "scoring", "is of --questions; how a data set is scored is its own", self.scoring
            )
        else:
            name = questions_name(Path(self.questions))
            for option, known in (("dataset_name", name), ("split", None), ("data_dir", None)):
                if getattr(self, option) not in (None, known):
                    raise SettingsError(
                        f"--{option} is of a data set, and --questions takes the place of one: leave one out"
                    )
            check_scoring(self.scoring)
        object.__setattr__(self, "dataset_name", name)
        for option in ("questions", "few_shot_file"):
            if (file := getattr(self, option)) is not None and not is_file(file):
                raise SettingsError(f"--{option}: there is no file {file}")
        check(self.few_shot >= 0, "few_shot", "must be 0 or more", self.few_shot)
        if self.few_shot_file is not None:
            check(
                self.few_shot > 0, "few_shot_file", "needs --few_shot N, how many of its questions", self.few_shot_file
            )
        elif self.few_shot and self.questions is not None:
            raise SettingsError("--few_shot with --questions needs --few_shot_file: a file of questions with answers")
        elif self.few_shot:
            check_train_split(name)

    @cached_property
    def data_set(self) -> DataSet:
        """How what is asked is asked and scored: a data set's entry, or that of questions of one's own."""
        if self.questions is not None:
            return own_data_set(self.system_prompt, self.scoring)
        data_set = DATA_SETS[self.dataset_name]
        return (
            data_set if self.system_prompt is None else dataclasses.replace(data_set, system_prompt=self.system_prompt)
        )

    @property
    def _usual_system_prompt(self) -> str:
        return (DATA_SETS[self.dataset_name] if self.questions is None else own_data_set(None, NONE)).system_prompt

    @property
    def roles(self) -> tuple[str, ...]:
        """The models that the experiment uses, as the options call them."""
        if self.exp == "baseline":
            return ("base", "proxy_chat") + (("proxy_base",) if self.baseline_method == "proxy_tuning" else ())
        return {"base_only": ("base",), "nudging_only": ("nudging",), "nudging": ("base", "nudging")}[self.exp]

    @property
    def asked_for(self) -> str:
        """What needs the models, for messages."""
        return f"--exp {self.exp}" + (f" ({self.baseline_method})" if self.exp == "baseline" else "")

    @property
    def nudges(self) -> bool:
        """Whether a base model is nudged."""
        return self.exp == "nudging"

    def logprobs_of(self, role: str) -> int | None:
        """How many log-probabilities are needed at each position of a role's model; None for none."""
        if self.exp == "baseline":
            return {"ensemble": ENSEMBLE_LOGPROBS, "proxy_tuning": PROXY_TUNING_LOGPROBS}[self.baseline_method]
        return super().logprobs_of(role) if self.nudges else None

    def sampling(self, role: str) -> dict[str, float | int]:
        """The temperature and top_p of the requests to the model of a role, and a seed where they have one."""
        asked = super().sampling(role)
        if self.exp == "baseline":  # all models are asked alike
            asked = {"temperature": self.base_temperature, "top_p": 1.0}
        return asked | ({"seed": self.seed % SEEDS} if self.seed is not None and asked["temperature"] else {})

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """What the run needs of each model, by role."""
        base = self.base_template, self.base_temperature, self.base_top_p
        # The proxies are the small pair: the aligned one answers in the nudging model's template. They share a key.
        nudging = self.nudging_template, self.nudging_temperature, self.nudging_top_p
        how = {
            "base": ("base", *base),
            "nudging": ("nudging", *nudging),
            "proxy_chat": ("proxy", *nudging),
            "proxy_base": ("proxy", *base),
        }
        return {role: self.model_of(role, *how[role]) for role in self.roles}

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
        check(1 <= i <= n, "shard", "is i/n with i from 1 to n, such as 2/4", self.shard)
        return i, n

    def shard_indices(self, samples: int) -> range:
        """Which of all questions are this run's: every n-th, so that shards are of one size and of one difficulty.

        With several answers to a question, all of them are in one shard.
        """
        i, n = self.shard_of
        return range(i - 1, samples, n)

    def differing(self, then: dict) -> list[str]:
        """The names of the decisive settings that differ from those of an earlier run, as its run.json has them."""
        # Compared as JSON has them: a tuple comes back as a list.
        now = {name: list(value) if isinstance(value, tuple) else value for name, value in self.decisive.items()}
        now = {name: None for name in ONLY_WHERE_GIVEN if name in then} | now
        return [name for name in now if now[name] != then.get(name)]

    @property
    def same_command(self) -> str:
        """How to say which command goes on from here."""
        return "the same command without --rerun" if self.rerun else "the same command"

    @property
    def used_split(self) -> str | None:
        """The split that is asked: the one given, or the data set's own; None for questions of one's own."""
        return None if self.questions is not None else self.split or self.data_set.splits[0]

    @property
    def result_name(self) -> str:
        """The name of the result files, without folder and suffix: the published program's, with long models' names cut.

        Raises:
            SettingsError: it is too long whatever is cut.
        """
        prefix = "questions_" if self.used_split is None else f"split_{self.used_split}_"
        prefix += self.exp_prefix.rstrip("_") + "_" if self.exp_prefix else ""
        prefix += f"few_shot_{self.few_shot}_" if self.few_shot else ""
        models = "_".join(last_part(model.name) for role, model in self.models.items() if role != "proxy_base")
        number = "" if self.used_threshold is None else f"_{self.used_threshold}"
        blend = "" if self.blend is None else f"blend_{self.blend_weight}_"
        kind = {
            "nudging": f"{self.criterion}{number}_thres_{blend}nudging_",
            "baseline": f"{self.baseline_method}_",
        }
        i, n = self.shard_of
        shard = f"_shard{i}of{n}" if self.shard else ""
        numbers = f"_{self.num_samples}_samples" + f"_{self.answers}_answers" * (self.answers > 1)
        name = fitting_name(prefix + kind.get(self.exp, ""), models, numbers)
        if name is None:
            raise SettingsError(
                "--exp_prefix and --split make the names of the result files longer than a file's name can be; "
                f"shorten them (--exp_prefix has {len(self.exp_prefix)} characters, --split {len(self.used_split or '')})"
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
        found: dict = {}
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
        if self.exp == "nudging" and self.criterion != DEFAULT_CRITERION:
            names[names.index("top_prob_thres")] = "criterion"
            found["threshold"] = self.used_threshold
        if self.exp == "nudging" and self.blend is not None:
            found["blend"] = self.blend_weight
        if self.system_prompt is not None and self.system_prompt != self._usual_system_prompt:
            names.append("system_prompt")
        names += ["answers"] * (self.answers > 1) + ["seed"] * (self.seed is not None)
        names += ["few_shot"] * bool(self.few_shot) + ["shard"] * bool(self.shard)
        if any(model.in_process for model in self.models.values()):
            names.append("dtype")
        split = {} if self.used_split is None else {"split": self.used_split}
        return split | {name: getattr(self, name) for name in names} | found
