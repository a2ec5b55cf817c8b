"""Which judge scores answers, if any: the options of run_api.py and eval_utils.py that concern it."""

import os
import re
from dataclasses import dataclass

from command.errors import OptionError
from command.options import api_key, check_requests, check_url
from command.paths import is_folder
from datasets_loader import DataSet
from experiment.judgements import PUBLISHED, UNSCORED
from language_models.hosted.llama_cpp import EmbeddedServerError, gguf_path, is_gguf
from language_models.local.loading import DTYPES, is_transformers_model

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
JUDGES = ("auto", "none")
UNREADABLE_JUDGEMENTS = (UNSCORED, PUBLISHED)

# For the command lines of run_api.py and eval_utils.py.
JUDGE_OPTIONS = {
    "judge_model": {
        "help": "the judge: a model of --judge_host, or without a host a GGUF file, a bundled model's name, or a folder or hub id "
        "of a transformers model, which this process runs (default: gpt-4o-mini; gpt-4o for coin_flip and just-eval)",
        "metavar": "MODEL",
    },
    "judge_host": {"help": "base URL of an OpenAI-compatible server (default: OpenAI)", "metavar": "URL"},
    "judge_api_key_env": {"help": "environment variable that holds its API key", "metavar": "VAR"},
    "unreadable_judgements": {
        "help": "what an answer counts as whose judgement cannot be read: unscored (and asked for again), or as in the published "
        "program wrong, or 1 in every aspect",
        "metavar": "|".join(UNREADABLE_JUDGEMENTS),
    },
}


def needs_no_key(host: str | None, variable: str) -> bool:
    """Whether a judge is asked without an API key: one of one's own, unless a variable is named for it or holds one."""
    return bool(host) and variable == DEFAULT_KEY_ENV and not os.environ.get(variable, "").strip()


@dataclass(frozen=True)
class JudgeSettings:
    """The options of run_api.py and eval_utils.py that concern the judge, with their defaults; see RunSettings.

    `device` and `dtype` are those of a transformers model that this process loads.

    Raises:
        OptionError: at construction, if one of them cannot work.
    """

    judge: str = "auto"
    judge_model: str | None = None
    judge_host: str | None = None
    judge_api_key_env: str = DEFAULT_KEY_ENV
    unreadable_judgements: str = UNSCORED
    device: str = "auto"
    dtype: str = "auto"
    num_threads: int = 20
    request_timeout: float = 600.0
    max_retries: int = 8

    def __post_init__(self):
        choices = {"judge": JUDGES, "unreadable_judgements": UNREADABLE_JUDGEMENTS, "dtype": DTYPES}
        for option, allowed in choices.items():
            if getattr(self, option) not in allowed:
                raise OptionError(
                    f"--{option} has no choice {getattr(self, option)!r}; choose one of: {', '.join(allowed)}"
                )
        if self.judge_host:
            check_url(self.judge_host, "--judge_host")
        if self.key:  # without a key there is no judge, which is no error
            api_key(self.judge_api_key_env, "--judge_api_key_env")
        if self.judge == "auto" and self.judge_model and not self.judge_host:
            self._check_file(self.judge_model)
        check_requests(self.num_threads, self.request_timeout, self.max_retries)

    def _check_file(self, name: str) -> None:
        if is_gguf(name):
            try:
                gguf_path(name)
            except EmbeddedServerError as error:
                raise OptionError(f"--judge_model: {error}") from None
        elif re.match(r"[/.~]|\w:\\", name) and not is_transformers_model(name):
            raise OptionError(f"--judge_model: {name} is no folder of a transformers model (with a config.json)")

    @property
    def key(self) -> str:
        """The API key in the environment, "" for none."""
        return os.environ.get(self.judge_api_key_env, "").strip()

    def is_own(self, name: str) -> bool:
        """Whether a judge is a model of this process: without a host, a GGUF file, a bundled model's name, a folder or hub id.

        Hub ids are names of other servers' models too, where OpenAI's client is told of one by its own variable.
        """
        if self.judge_host:
            return False
        elsewhere = os.environ.get("OPENAI_BASE_URL") and not is_folder(name)
        return is_gguf(name) or (is_transformers_model(name) and not elsewhere)

    def name_for(self, data_set: DataSet) -> str:
        """The judge model of a data set: the one that is named, or the data set's own."""
        return self.judge_model or data_set.judge_model

    def why_none(self, data_set: DataSet) -> str:
        """Why the answers to a data set are not judged: "" where they are, or where a rule scores them."""
        if data_set.scoring == "rule":
            return ""
        if self.judge == "none":
            return "--judge none: the answers stay unscored"
        if not self.lacks_key(self.name_for(data_set)):
            return ""
        return f"no judge: the environment variable {self.judge_api_key_env} holds no API key"

    def lacks_key(self, name: str) -> bool:
        """Whether a judge needs an API key that is not there."""
        needs_none = self.is_own(name) or needs_no_key(self.judge_host, self.judge_api_key_env)
        return not self.key and not needs_none
