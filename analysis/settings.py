"""The command line of analyse.sh, and the models that score answers."""

import argparse
from dataclasses import dataclass

from analysis.places import LOGPROBS
from command.paths import user_path
from experiment.model_options import Options, PlainParser
from experiment.model_settings import ModelSettings, PairSettings, SettingsError

NAME = "analyse.sh"
OUTPUT_DIR = "outputs/analysis"
# Options of models and requests that an analysis has.
_OPTIONS = (
    ("base_model", "the base model, which was not trained to follow instructions", "MODEL"),
    ("base_host", "base URL of its server, such as http://localhost:8000/v1; several: URL,URL", "URL"),
    ("nudging_model", "the aligned model, which was trained to; or the small one of two", "MODEL"),
    ("nudging_host", "its server", "URL"),
    ("aligned_model", "a large aligned model besides, whose agreement with the base model is looked at then", "MODEL"),
    ("aligned_host", "its server", "URL"),
    ("base_api_key_env", "environment variable that holds the base model's API key (default: no key)", "VAR"),
    ("nudging_api_key_env", "the same for the nudging model", "VAR"),
    ("aligned_api_key_env", "the same for the large aligned model", "VAR"),
    ("base_template", "prompt template, as for run_api.py (see its --help_all)", "TEMPLATE"),
    ("nudging_template", "the same for both aligned models", "TEMPLATE"),
    (
        "device",
        "where models without a host, which this process loads, compute: auto, cuda, cuda:1, mps or cpu",
        "DEVICE",
    ),
    ("dtype", "their number format: auto, float32, float16 or bfloat16", "DTYPE"),
    ("engine", "how they compute: auto, graphs or packed (see run_api.py --help_all)", "NAME"),
)


@dataclass(frozen=True)
class AnalysisSettings(PairSettings):
    """The models of an analysis; see PairSettings.

    Raises:
        SettingsError: at construction, if the settings cannot work.
    """

    aligned_model: str | None = None
    aligned_host: str | None = None
    aligned_api_key_env: str | None = None
    aligned_device: str | None = None

    def __post_init__(self):
        named = {role: getattr(self, f"{role}_model") for role in ("base", "nudging", "aligned")}
        for role in named:
            if getattr(self, f"{role}_host") and not named[role]:
                raise SettingsError(f"--{role}_host needs --{role}_model, the name of the model that is served there")
        if any(named.values()) and not (named["base"] and named["nudging"]):
            missing = " and ".join(f"--{role}_model" for role in ("base", "nudging") if not named[role])
            raise SettingsError(f"models are compared with one another: {missing} is missing (or leave out all models)")
        if self.base_model:
            super().__post_init__()

    @property
    def asked_for(self) -> str:
        """See PairSettings."""
        return "an analysis of models"

    @property
    def roles(self) -> tuple[str, ...]:
        """See PairSettings."""
        return ("base", "nudging", "aligned") if self.aligned_model else ("base", "nudging")

    @property
    def nudges(self) -> bool:
        """See PairSettings."""
        return False

    def logprobs_of(self, role: str) -> int:
        """See PairSettings."""
        return LOGPROBS

    @property
    def models(self) -> dict[str, ModelSettings]:
        """See PairSettings; at temperature 0."""
        templates = {"base": self.base_template}
        return {
            role: self.model_of(role, role, templates.get(role, self.nudging_template), 0.0, 1.0) for role in self.roles
        }

    def depends_on(self, role: str) -> dict[str, str]:
        """What the score of a text by the model of a role depends on, besides prompt and text."""
        model = self.models[role]
        return {"model": model.name, "host": model.host or "", "dtype": "" if model.host else self.dtype}


def build_parser() -> argparse.ArgumentParser:
    """The command line of analyse.sh."""
    parser = PlainParser(
        prog=NAME,
        description="Where a base model and an aligned one disagree, and what is nudged (docs/research.md, Why it works): tables, "
        "plots and a page. Without models: what can be counted in the answers of nudging runs.",
    )
    parser.add_argument(
        "results",
        nargs="*",
        type=user_path,
        metavar="RESULT",
        help="result files of run_api.py (.json, .jsonl or .txt)",
    )
    parser.add_argument(
        "--texts",
        nargs="+",
        default=[],
        type=user_path,
        metavar="FILE",
        help="files with questions and answers, in the forms of --questions of run_api.py",
    )
    parser.add_argument("--num_samples", type=int, metavar="N", help="the first N answers of each file (default: all)")
    parser.add_argument(
        "--output_dir", default=OUTPUT_DIR, metavar="DIR", help="of tables, plots, page and log (default: %(default)s)"
    )
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and send nothing")
    options = Options(parser, AnalysisSettings)
    options.group("models")
    for name, help_text, metavar in _OPTIONS:
        options.option(name, help_text, metavar=metavar, rare=not name.endswith(("_model", "_host")))
    options.option(
        "end_tokens",
        "further names under which servers print the token that ends an answer",
        nargs="*",
        metavar="NAME",
        rare=True,
    )
    options.group("requests")
    options.option("num_threads", "answers that are scored at the same time", type=int, metavar="N")
    options.option("request_timeout", "seconds that a server may stay silent", type=float, metavar="S", rare=True)
    options.option("max_retries", "how often a failed request is sent again", type=int, metavar="N", rare=True)
    options.option("max_outage", "seconds that a server may be unreachable", type=float, metavar="S", rare=True)
    return parser


def settings_of(options: argparse.Namespace) -> AnalysisSettings:
    """The models that the options name (SettingsError: they cannot work)."""
    told = {name: value for name, value in vars(options).items() if name in AnalysisSettings.__dataclass_fields__}
    return AnalysisSettings(**told | {"end_tokens": tuple(options.end_tokens or ())})
