"""Options of the command line that run_api.py and serve_nudged.py have in common: models, and how they are asked."""

import argparse

from command.options import Parser
from command.secrets import hide
from decoding.criteria import CRITERIA
from experiment.model_settings import CALLS
from language_models.local.devices import DEVICE_MAPS, ENGINE_CHOICES
from language_models.local.loading import DTYPES
from utils import INSTRUCT_TEMPLATES


class PlainParser(Parser):
    """A parser that tells what is wrong in one line, without its whole usage."""

    def error(self, message: str):
        """See argparse."""
        self.exit(2, f"{self.prog}: error: {hide(message)} (--help lists the options)\n")


class Options:
    """Adds options to a parser, group by group; their defaults are those of a dataclass's fields."""

    def __init__(self, parser: argparse.ArgumentParser, settings: type):
        self._parser, self._fields = parser, settings.__dataclass_fields__
        self._group: argparse._ArgumentGroup | None = None

    def group(self, title: str) -> None:
        """Begin a group."""
        self._group = self._parser.add_argument_group(title)

    def option(self, name: str, help: str, *more_names: str, **how) -> None:
        """Add an option; `how` and further names are argparse's."""
        field = self._fields[name]
        unsaid = field.default is None or field.default is False or field.default in ("", ())
        shown = "" if unsaid else " (default: %(default)s)"
        self._group.add_argument(f"--{name}", *more_names, dest=name, default=field.default, help=help + shown, **how)

    def flag(self, name: str, help: str) -> None:
        """Add an option without a value."""
        self._group.add_argument(f"--{name}", action="store_true", help=help)

    def models(self) -> None:
        """The options of models, with those of the baselines' proxies where the settings have them."""
        proxies = "proxy_chat_model" in self._fields
        templates = ", ".join(("auto", *INSTRUCT_TEMPLATES, "tokenizer"))
        self.group(
            "models (names as served; hosts are base URLs such as http://localhost:8000/v1, several servers: URL,URL)"
        )
        self.option("base_model", "the large base model", metavar="MODEL")
        self.option("base_host", "its host", metavar="URL[,URL]")
        self.option("nudging_model", "the small aligned model", metavar="MODEL")
        self.option("nudging_host", "its host", metavar="URL[,URL]")
        if proxies:
            self.option("proxy_chat_model", "baselines: the small aligned model", metavar="MODEL")
            self.option("proxy_chat_host", "its host", "--proxy_nudging_host", metavar="URL[,URL]")
            self.option("proxy_base_model", "proxy tuning: the small model before it was aligned", metavar="MODEL")
            self.option("proxy_base_host", "its host", metavar="URL[,URL]")
        self.option(
            "device",
            "of models without a host, which are loaded into this process (folders and hub ids of transformers models): "
            "auto, cuda, cuda:1, mps or cpu",
            metavar="DEVICE",
        )
        for role in ("base", "nudging", *(("proxy_chat", "proxy_base") if proxies else ())):
            self.option(
                f"{role}_device", "its own device, where it is another one (default: --device)", metavar="DEVICE"
            )
        self.option(
            "device_map",
            "auto spreads a base model of this process over all GPUs of the machine (with packed passes; the others stay on their "
            "device)",
            metavar="|".join(DEVICE_MAPS),
        )
        self.option(
            "engine",
            "how models of this process compute: graphs (passes of fixed sizes, replayed from CUDA graphs), packed, or auto: "
            "graphs on CUDA, packed elsewhere and where graphs cannot be had; the answers are the same up to rounding",
            metavar="|".join(ENGINE_CHOICES),
        )
        self.option(
            "dtype", f"their number format: {', '.join(DTYPES)} (bfloat16 on a GPU, float32 on a CPU)", metavar="DTYPE"
        )
        owners = {"base": "the base model's", "nudging": "the nudging model's"}
        for owner, models in (owners | ({"proxy": "the proxy models'"} if proxies else {})).items():
            self.option(
                f"{owner}_api_key_env",
                f"environment variable that holds {models} API key (default: no key)",
                metavar="VAR",
            )
        self.option(
            "base_template",
            f"prompt template: {templates}[:NAME]. auto goes by the model's name; tokenizer is the chat template of its tokenizer, "
            "or of the folder, hub id or GGUF file NAME",
            metavar="TEMPLATE",
        )
        self.option(
            "nudging_template",
            f"the same for the nudging model{' and the proxy chat model' if proxies else ''}; auto takes the template that a model "
            "without a host carries",
            metavar="TEMPLATE",
        )
        self.option(
            "end_tokens", "further names under which servers print the end of sequence", nargs="*", metavar="NAME"
        )

    def decoding(self) -> None:
        """The options of the nudging loop."""
        self.group("decoding")
        self.option(
            "criterion",
            f"when the base model's token is rejected: {', '.join(CRITERIA)} (docs/research.md)",
            metavar="NAME",
        )
        self.option(
            "threshold",
            "the criterion's number (default: the criterion's own; of top_prob it is --top_prob_thres)",
            type=float,
            metavar="X",
        )
        self.option(
            "top_prob_thres", "the base model is uncertain below this top-1 probability", type=float, metavar="P"
        )
        self.option(
            "blend",
            "BlendIn: where the base model is uncertain the next token is chosen from a mixture of both models' distributions; how "
            "much the nudging model counts in it, 0 to 1, or auto",
            metavar="auto|X",
        )
        self.option("max_token_total", "length of an answer, in cl100k_base tokens", type=int, metavar="N")
        self.option("completion_token_num", "tokens asked of the base model per call", type=int, metavar="N")
        self.option("completion_token_num_nudging", "tokens asked of the nudging model per call", type=int, metavar="N")
        for name in ("base_temperature", "base_top_p", "nudging_temperature", "nudging_top_p"):
            if name in self._fields:
                self.option(name, "sampling; temperature 0 is greedy", type=float, metavar="X")

    def requests(self) -> None:
        """The options of requests to the models."""
        self.group("requests")
        self.option(
            "calls",
            "how the models are asked: streamed (fast), published (the requests of the published program), or auto: streamed where "
            "the servers can (a model by itself: published); the answers are the same",
            metavar="|".join(CALLS),
        )
        self.option("request_timeout", "seconds that a server may stay silent", type=float, metavar="S")
        self.option(
            "max_retries",
            "how often a failed request is sent again, after 0.5 s doubling to 8 s",
            type=int,
            metavar="N",
        )
        self.option(
            "max_outage",
            "seconds that a server may be unreachable (restarting) or limit the rate of requests meanwhile, and that its first "
            "answers may take in all",
            type=float,
            metavar="S",
        )
