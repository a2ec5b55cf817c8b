"""Which judge scores answers, if any: the options of run_api.py and eval_utils.py that concern it."""

import math
import os
import re
from dataclasses import dataclass

from command.errors import OptionError
from command.network import check_certificates, proxy_for
from command.options import api_key, check_key_name, check_one_credential, check_requests, check_url, is_openai
from command.paths import is_folder
from command.secrets import register
from datasets_loader import DataSet
from experiment.judgements import PUBLISHED, UNSCORED, is_judged
from experiment.scorers import name_of_rule
from language_models.hosted.credentials import OPENAI_URL
from language_models.hosted.llama_cpp import EmbeddedServerError, gguf_path, is_gguf
from language_models.local.devices import ENGINE_CHOICES
from language_models.local.loading import DTYPES, is_transformers_model

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
RULE = "rule"
JUDGES = ("auto", RULE, "none")
UNREADABLE_JUDGEMENTS = (UNSCORED, PUBLISHED)

# For the command lines of run_api.py and eval_utils.py.
JUDGE_OPTIONS = {
    "judge_model": {
        "help": "the judge: a model of --judge_host, or one that this process loads: a bundled model, a GGUF file, or a folder or "
        "hub id of a transformers model (default: gpt-4o-mini; gpt-4o for coin_flip and justeval)",
        "metavar": "MODEL",
    },
    "judge_host": {"help": "base URL of the judge's server (default: OpenAI)", "metavar": "URL"},
    "judge_api_key_env": {
        "help": f"environment variable that holds its API key (default: {DEFAULT_KEY_ENV}, which is sent to OpenAI alone)",
        "metavar": "VAR",
        "rare": True,
    },
    "unreadable_judgements": {
        "help": "what an answer counts as whose judgement cannot be read: unscored (and asked for again), or as in the published "
        "program wrong, or 1 in every aspect",
        "metavar": "|".join(UNREADABLE_JUDGEMENTS),
        "rare": True,
    },
}


def other_address() -> bool:
    """Whether OPENAI_BASE_URL, which OpenAI's own programs go by, names an address that is not OpenAI's."""
    return not is_openai(os.environ.get("OPENAI_BASE_URL", "").strip())


@dataclass(frozen=True)
class JudgeSettings:
    """The options of run_api.py and eval_utils.py that concern the judge, with their defaults; see RunSettings.

    `device`, `dtype` and `engine` are those of a transformers model that this process loads.

    Raises:
        OptionError: at construction, if one of them cannot work.
    """

    judge: str = "auto"
    judge_model: str | None = None
    judge_host: str | None = None
    judge_api_key_env: str | None = None
    unreadable_judgements: str = UNSCORED
    device: str = "auto"
    dtype: str = "auto"
    engine: str = "auto"
    num_threads: int = 20
    request_timeout: float = 600.0
    max_retries: int = 8
    max_outage: float = 300.0

    def __post_init__(self):
        choices = {
            "judge": JUDGES,
            "unreadable_judgements": UNREADABLE_JUDGEMENTS,
            "dtype": DTYPES,
            "engine": ENGINE_CHOICES,
        }
        for option, allowed in choices.items():
            if getattr(self, option) not in allowed:
                raise OptionError(
                    f"--{option} has no choice {getattr(self, option)!r}; choose one of: {', '.join(allowed)}"
                )
        if self.judge_host:
            check_url(self.judge_host, "--judge_host")
        if self.judge_api_key_env:
            check_key_name(self.judge_api_key_env, "--judge_api_key_env")
            check_one_credential(self.judge_host, "--judge_host", self.judge_api_key_env, "--judge_api_key_env")
        if self.key:  # without a key there is no judge, which is no error
            api_key(self.key_variable, "--judge_api_key_env")
        if self.judge == "auto" and self.judge_model and not self.judge_host:
            self._check_file(self.judge_model)
        check_requests(self.num_threads, self.request_timeout, self.max_retries)
        if not 0 <= self.max_outage < math.inf:
            raise OptionError(f"--max_outage must be 0 or more; it is {self.max_outage!r}")

    def _check_file(self, name: str) -> None:
        if is_gguf(name):
            try:
                gguf_path(name)
            except EmbeddedServerError as error:
                raise OptionError(f"--judge_model: {error}") from None
        elif re.match(r"[/.~]|\w:\\", name) and not is_transformers_model(name):
            raise OptionError(f"--judge_model: {name} is no folder of a transformers model (with a config.json)")

    @property
    def key_variable(self) -> str | None:
        """The environment variable with the judge's API key; None for a server other than OpenAI's, unless one is named."""
        return self.judge_api_key_env or (DEFAULT_KEY_ENV if is_openai(self.judge_host) else None)

    @property
    def key(self) -> str:
        """The API key in the environment, "" for none."""
        key = os.environ.get(self.key_variable or "", "").strip()
        register(key)
        return key

    def check_rule(self, data_set: DataSet) -> None:
        """Raise OptionError where --judge rule is asked for and cannot score the answers, or goes with a judge's name."""
        if self.judge != RULE or data_set.scoring in ("rule", "none"):
            return
        for option in ("judge_model", "judge_host", "judge_api_key_env"):
            if getattr(self, option):
                raise OptionError(f"--judge rule asks no model: leave out --{option}, or --judge")
        if data_set.reads is None and isinstance(data_set.scoring, tuple):
            raise OptionError(
                "--judge rule: these answers are rated by aspects from 1 to 5, which no rule can do; name a judge by --judge_model "
                "without it, or leave them unscored by --judge none"
            )
        if data_set.reads is None:
            raise OptionError(
                "--judge rule is of the data sets; answers to questions of one's own are read by --scoring choice, yes_no, date, "
                "word or rule"
            )

    def is_own(self, name: str) -> bool:
        """Whether a judge is a model of this process: without a host, a GGUF file, a bundled model's name, a folder or hub id.

        Hub ids are names of other servers' models too: where OPENAI_BASE_URL names one, which is meant has to be said.
        """
        if self.judge_host or self.judge == RULE:
            return False
        return is_gguf(name) or (is_transformers_model(name) and not (other_address() and not is_folder(name)))

    @property
    def runs_here(self) -> bool:
        """Whether the judge that is named is a transformers model of this process."""
        name = self.judge_model if self.judge == "auto" else None
        return bool(name) and self.is_own(name) and not is_gguf(name)

    def check_engine(self) -> None:
        """Raise OptionError where --engine is given to a command whose judge does not follow it."""
        if self.engine != JudgeSettings.engine and not self.runs_here:
            raise OptionError(
                f"--engine {self.engine} is of a judge that this process loads (a folder or hub id, without a host), "
                "and there is none: leave it out"
            )

    def check_connection(self, name: str) -> None:
        """Raise OptionError where a judge is behind a server, and the environment's proxy or certificates cannot be used."""
        if self.judge != RULE and not self.is_own(name) and not self.obstacle(name):
            check_certificates()
            proxy_for(self.judge_host or OPENAI_URL)

    def name_for(self, data_set: DataSet) -> str:
        """The judge model of a data set: the one that is named, or the data set's own."""
        if self.judge == RULE and data_set.reads:
            return name_of_rule(data_set.reads)
        return self.judge_model or data_set.judge_model

    def why_none(self, data_set: DataSet) -> str:
        """Why the answers to a data set are not judged: "" where they are, or where no judge is needed."""
        if not is_judged(data_set.scoring):
            return ""
        if self.judge == "none":
            return "--judge none: the answers stay unscored"
        obstacle = self.obstacle(self.name_for(data_set))
        return obstacle and f"no judge: {obstacle}"

    def obstacle(self, name: str) -> str:
        """Why a judge cannot be asked: its API key is not there, or it is not said whose key that is; "" where it can."""
        if self.judge == RULE or self.is_own(name):
            return ""
        if not self.judge_host and other_address():
            return (
                "OPENAI_BASE_URL names another address than OpenAI's, and no key is sent there unasked: name it by --judge_host "
                "(and its key by --judge_api_key_env), or unset the variable"
            )
        if self.key_variable is not None and not self.key:
            return f"the environment variable {self.key_variable} holds no API key"
        return ""
