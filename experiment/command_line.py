"""The command line of run_api.py: its options, grouped, with an example per experiment, as RunSettings."""

import argparse

from command.console import Command
from command.errors import OptionError
from command.options import Parser
from command.secrets import hide
from datasets_loader import DATA_SETS
from experiment.judge_settings import JUDGE_OPTIONS
from experiment.settings import BASELINE_METHODS, CALLS, EXPERIMENTS, RunSettings
from language_models.local.devices import DEVICE_MAPS, ENGINE_CHOICES
from language_models.local.loading import DTYPES
from utils import INSTRUCT_TEMPLATES


class _Parser(Parser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {hide(message)} (--help lists the options)\n")


_EXAMPLES = """\
examples (a model served by vLLM on port 8000, the small one on 8001):
  the base model alone:
    python run_api.py --exp base_only --base_model BASE --base_host http://localhost:8000/v1 --num_samples 100
  the nudging model alone:
    python run_api.py --exp nudging_only --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100
  nudging:
    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --top_prob_thres 0.4 --num_samples 100
  average ensemble:
    python run_api.py --exp baseline --baseline_method ensemble --base_model BASE --base_host http://localhost:8000/v1 \\
        --proxy_chat_model CHAT --proxy_chat_host http://localhost:8001/v1 --num_samples 100
  proxy tuning:
    python run_api.py --exp baseline --baseline_method proxy_tuning --base_model BASE --base_host http://localhost:8000/v1 \\
        --proxy_chat_model CHAT --proxy_chat_host http://localhost:8001/v1 \\
        --proxy_base_model SMALL --proxy_base_host http://localhost:8002/v1 --num_samples 100
"""

COMMAND = Command("run_api.py")


def build_parser() -> argparse.ArgumentParser:
    """The command line of run_api.py; the defaults are RunSettings' own."""
    parser = _Parser(
        prog=COMMAND.name,
        description="Nudging experiments: a base model, a small aligned model, or both together answer a data set.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = None

    def option(name: str, help: str, *more_names: str, **how) -> None:
        field = RunSettings.__dataclass_fields__[name]
        shown = "" if field.default in (None, False, "", ()) else " (default: %(default)s)"
        group.add_argument(f"--{name}", *more_names, dest=name, default=field.default, help=help + shown, **how)

    def flag(name: str, help: str) -> None:
        group.add_argument(f"--{name}", action="store_true", help=help)

    templates = ", ".join(("auto", *INSTRUCT_TEMPLATES, "tokenizer"))
    group = parser.add_argument_group("experiment")
    option("exp", ", ".join(EXPERIMENTS), metavar="EXP")
    option("baseline_method", "the baseline: " + " or ".join(BASELINE_METHODS), metavar="METHOD")
    group = parser.add_argument_group("data")
    option("dataset_name", ", ".join(DATA_SETS), metavar="NAME")
    option("num_samples", "how many questions (default: all)", "--num_sample", type=int, metavar="N")
    option(
        "shard",
        "answer the i-th of n parts of the samples alone (samples i, i+n, i+2n, ...), for array jobs; "
        "scripts/merge_shards.py joins the parts",
        metavar="i/n",
    )
    option("split", "the data set's split (default: the one of the paper's experiments, mostly test)")
    option("data_dir", "read DIR/NAME/SPLIT.jsonl[.gz] in the hub's schema instead of the hub", metavar="DIR")
    group = parser.add_argument_group(
        "models (names as served; hosts are base URLs such as http://localhost:8000/v1, several servers: URL,URL)"
    )
    option("base_model", "the large base model", metavar="MODEL")
    option("base_host", "its host", metavar="URL[,URL]")
    option("nudging_model", "the small aligned model", metavar="MODEL")
    option("nudging_host", "its host", metavar="URL[,URL]")
    option("proxy_chat_model", "baselines: the small aligned model", metavar="MODEL")
    option("proxy_chat_host", "its host", "--proxy_nudging_host", metavar="URL[,URL]")
    option("proxy_base_model", "proxy tuning: the small model before it was aligned", metavar="MODEL")
    option("proxy_base_host", "its host", metavar="URL[,URL]")
    option(
        "device",
        "of models without a host, which are loaded into this process (folders and hub ids of transformers models): "
        "auto, cuda, cuda:1, mps or cpu",
        metavar="DEVICE",
    )
    for role in ("base", "nudging", "proxy_chat", "proxy_base"):
        option(f"{role}_device", "its own device, where it is another one (default: --device)", metavar="DEVICE")
    option(
        "device_map",
        "auto spreads a base model of this process over all GPUs of the machine (with packed passes; the others stay on their "
        "device)",
        metavar="|".join(DEVICE_MAPS),
    )
    option(
        "engine",
        "how models of this process compute: graphs (passes of fixed sizes, replayed from CUDA graphs), packed, or auto: graphs on "
        "CUDA, packed elsewhere and where graphs cannot be had; the answers are the same up to rounding",
        metavar="|".join(ENGINE_CHOICES),
    )
    option("dtype", f"their number format: {', '.join(DTYPES)} (bfloat16 on a GPU, float32 on a CPU)", metavar="DTYPE")
    for owner, models in (
        ("base", "the base model's"),
        ("nudging", "the nudging model's"),
        ("proxy", "the proxy models'"),
    ):
        option(
            f"{owner}_api_key_env", f"environment variable that holds {models} API key (default: no key)", metavar="VAR"
        )
    option(
        "base_template",
        f"prompt template: {templates}[:NAME]. auto goes by the model's name; tokenizer is the chat template of its tokenizer, or "
        "of the folder, hub id or GGUF file NAME",
        metavar="TEMPLATE",
    )
    option(
        "nudging_template",
        "the same for the nudging model and the proxy chat model; auto takes the template that a model without a host carries",
        metavar="TEMPLATE",
    )
    option("end_tokens", "further names under which servers print the end of sequence", nargs="*", metavar="NAME")
    group = parser.add_argument_group("decoding")
    option("top_prob_thres", "the base model is uncertain below this top-1 probability", type=float, metavar="P")
    option("max_token_total", "length of an answer, in cl100k_base tokens", type=int, metavar="N")
    option("completion_token_num", "tokens asked of the base model per call", type=int, metavar="N")
    option("completion_token_num_nudging", "tokens asked of the nudging model per call", type=int, metavar="N")
    for name in ("base_temperature", "base_top_p", "nudging_temperature", "nudging_top_p"):
        option(name, "sampling", type=float, metavar="X")
    group = parser.add_argument_group("requests")
    option("num_threads", "questions answered side by side", type=int, metavar="N")
    option(
        "calls",
        "how the models are asked: streamed (fast), published (the requests of the published program), or auto: streamed where the "
        "servers can (a model by itself: published); the answers are the same",
        metavar="|".join(CALLS),
    )
    option("request_timeout", "seconds that a server may stay silent", type=float, metavar="S")
    option(
        "max_retries", "how often a failed request is sent again, after 0.5 s doubling to 8 s", type=int, metavar="N"
    )
    option(
        "max_outage",
        "seconds that a server may be unreachable (restarting) or limit the rate of requests meanwhile, and that its first answers "
        "may take in all",
        type=float,
        metavar="S",
    )
    group = parser.add_argument_group("scoring of the judged data sets")
    option("judge", "auto, or none to leave them unscored", metavar="auto|none")
    for name, how in JUDGE_OPTIONS.items():
        option(name, **how)
    group = parser.add_argument_group("results")
    option("output_dir", "where results go: DIR/NAME/...", metavar="DIR")
    option("exp_prefix", "put into the names of the result files", metavar="PREFIX")
    flag("rerun", "start afresh; existing results are moved aside")
    flag("dry_run", "print the first prompts and what would run; send nothing")
    flag("print_intermediate_output", "print every round of nudging, on standard error")
    return parser


def parse_settings(argv: list[str] | None = None) -> RunSettings:
    """Settings from a command line (None: this process's); bad ones end the process with exit code 2 and a plain line."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    try:
        return RunSettings(**options | {"end_tokens": tuple(options["end_tokens"])})
    except OptionError as error:
        COMMAND.note(f"error: {error}")
        raise SystemExit(2) from None
