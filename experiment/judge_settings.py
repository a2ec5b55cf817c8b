"""Which judge scores answers, if any: the options of run_api.py and eval_utils.py that concern it."""

import os
from dataclasses import dataclass

from command.errors import OptionError
from command.options import api_key, check_requests, check_url
from datasets_loader import DataSet

DEFAULT_KEY_ENV = "OPENAI_API_KEY"


def needs_no_key(host: str | None, variable: str) -> bool:
    """Whether a judge is asked without an API key: one of one's own, unless a variable is named for it or holds one."""
    return bool(host) and variable == DEFAULT_KEY_ENV and not os.environ.get(variable, "").strip()


@dataclass(frozen=True)
class JudgeSettings:
    """The options of run_api.py and eval_utils.py that concern the judge, with their defaults; see RunSettings.

    Raises:
        OptionError: at construction, if one of them cannot work.
    """

    judge: str = "auto"
    judge_model: str | None = None
    judge_host: str | None = None
    judge_api_key_env: str = DEFAULT_KEY_ENV
    num_threads: int = 20
    request_timeout: float = 600.0
    max_retries: int = 8

    def __post_init__(self):
        if self.judge not in ("auto", "none"):
            raise OptionError(f"--judge has no choice {self.judge!r}; choose one of: auto, none")
        if self.judge_host:
            check_url(self.judge_host, "--judge_host")
        if self.key:  # without a key there is no judge, which is no error
            api_key(self.judge_api_key_env, "--judge_api_key_env")
        check_requests(self.num_threads, self.request_timeout, self.max_retries)

    @property
    def key(self) -> str:
        """The API key in the environment, "" for none."""
        return os.environ.get(self.judge_api_key_env, "").strip()

    def why_none(self, data_set: DataSet) -> str:
        """Why the answers to a data set are not judged: "" where they are, or where a rule scores them."""
        if data_set.scoring == "rule":
            return ""
        if self.judge == "none":
            return "--judge none: the answers stay unscored"
        if not self.key and not needs_no_key(self.judge_host, self.judge_api_key_env):
            return f"no judge: the environment variable {self.judge_api_key_env} holds no API key"
        return ""
