"""Options of the command line that run_api.py and serve_nudged.py have in common: models, and how they are asked."""

import argparse

from command.options import Parser
from command.secrets import hide
from decoding.criteria import CRITERIA
from experiment.model_settings import CALLS
from language_models.local.devices import DEVICE_MAPS, ENGINE_CHOICES
from language_models.local.loading import DTYPES
from utils import INSTRUCT_TEMPLATES

# For the top of a help: what its words mean.
TERMS = """\
A base model has read much text, but was not trained to follow instructions;
an aligned model (a chat model) was. In nudging a large base model writes the
answer, token by token (a token is a word or a piece of one). Wherever the
probability of its most probable next token is below the threshold, a small
aligned model, the nudging model, writes the next words."""


class PlainParser(Parser):
    """A parser that tells what is wrong in one line, without its whole usage."""

    def error(self, message: str):
        """See argparse."""
        self.exit(2, f"{self.prog}: error: {hide(message)} (--help_all lists the options)\n")


class Options:
    """Adds options to a parser, group by group; their defaults are those of a dataclass's fields."""

    def __init__(self, parser: argparse.ArgumentParser, settings: type):
        self._parser, self._fields = parser, settings.__dataclass_fields__
        self._group: argparse._ArgumentGroup | None = None

    def group(self, title: str) -> None:
        """Begin a group."""
        self._group = self._parser.add_argument_group(title)

    def option(self, name: str, help: str, *more_names: str, **how) -> None:
        """Add an option; `how` and further names are argparse's, and rare=True is command/help.py's."""
        field = self._fields[name]
        unsaid = field.default is None or field.default is False or field.default in ("", ())
        shown = "" if unsaid else " (default: %(default)s)"
        self._group.add_argument(f"--{name}", *more_names, dest=name, default=field.default, help=help + shown, **how)

    def flag(self, name: str, help: str, rare: bool = False) -> None:
        """Add an option without a value."""
        self._group.add_argument(f"--{name}", action="store_true", help=help, rare=rare)

    def models(self) -> None:
        """The options of models, with those of the baselines' proxies where the settings have them."""
        proxies = "proxy_chat_model" in self._fields
        templates = ", ".join(("auto", *INSTRUCT_TEMPLATES, "tokenizer"))
        self.group("models")
        self.option(
            "base_model",
            "the large base model: its name as its server has it, or without a host what this process loads: a bundled model "
            "(demo-base), a GGUF file, or a folder or hub id of a transformers model",
            metavar="MODEL",
        )
        self.option(
            "base_host",
            "base URL of its server, such as http://localhost:8000/v1; several of them: URL,URL",
            metavar="URL",
        )
        self.option("nudging_model", "the small aligned model", metavar="MODEL")
        self.option("nudging_host", "its server", metavar="URL")
        if proxies:
            self.option("proxy_chat_model", "baselines: the small aligned model", metavar="MODEL", rare=True)
            self.option("proxy_chat_host", "its server", "--proxy_nudging_host", metavar="URL", rare=True)
            self.option(
                "proxy_base_model", "proxy tuning: the small model before it was aligned", metavar="MODEL", rare=True
            )
            self.option("proxy_base_host", "its server", metavar="URL", rare=True)
        self.option(
            "device",
            "where models of this process compute: auto (a GPU if there is one), cuda, cuda:1, mps or cpu",
            metavar="DEVICE",
            rare=True,
        )
        for role in ("base", "nudging", *(("proxy_chat", "proxy_base") if proxies else ())):
            self.option(
                f"{role}_device",
                f"where the {role.replace('_', ' ')} model computes, if elsewhere (default: --device)",
                metavar="DEVICE",
                rare=True,
            )
        self.option(
            "device_map",
            "auto spreads a base model of this process over all GPUs of the machine (with packed passes; the others stay on their "
            "device)",
            metavar="|".join(DEVICE_MAPS),
            rare=True,
        )
        self.option(
            "engine",
            "how models of this process compute: packed (the tokens of many answers in one pass), graphs (passes of fixed sizes, "
            "recorded once and replayed as CUDA graphs), or auto: graphs on an NVIDIA GPU where they work, packed elsewhere; "
            "the answers are the same up to rounding",
            metavar="|".join(ENGINE_CHOICES),
            rare=True,
        )
        self.option(
            "dtype",
            f"number format of models of this process: {', '.join(DTYPES)}; auto is bfloat16 on a GPU, float32 on a CPU",
            metavar="DTYPE",
            rare=True,
        )
        owners = {"base": "the base model's", "nudging": "the nudging model's"}
        for owner, models in (owners | ({"proxy": "the proxy models'"} if proxies else {})).items():
            self.option(
                f"{owner}_api_key_env",
                f"environment variable that holds {models} API key (default: no key)",
                metavar="VAR",
                rare=True,
            )
        self.option(
            "base_template",
            f"prompt template: {templates}[:NAME]. auto goes by the model's name; tokenizer is the chat template of its tokenizer, "
            "or of the folder, hub id or GGUF file NAME",
            metavar="TEMPLATE",
            rare=True,
        )
        self.option(
            "nudging_template",
            f"the same for the nudging model{' and the proxy chat model' if proxies else ''}; auto takes the template that a model "
            "without a host carries",
            metavar="TEMPLATE",
            rare=True,
        )
        self.option(
            "end_tokens",
            "further names under which servers print the token that ends an answer",
            nargs="*",
            metavar="NAME",
            rare=True,
        )

    def decoding(self) -> None:
        """The options of the nudging loop."""
        self.group("decoding")
        self.option(
            "top_prob_thres",
            "the threshold: the nudging model writes where the base model's most probable token is less probable than this, 0 to 1",
            metavar="P",
            type=float,
        )
        self.option(
            "criterion",
            f"another measure of the base model's uncertainty: {', '.join(CRITERIA)} (docs/research.md)",
            metavar="NAME",
            rare=True,
        )
        self.option(
            "threshold",
            "the criterion's number (default: the criterion's own; of top_prob it is --top_prob_thres)",
            type=float,
            metavar="X",
            rare=True,
        )
        self.option(
            "blend",
            "BlendIn: where the base model is uncertain the next token is chosen from a mixture of both models' distributions; how "
            "much the nudging model counts in it, 0 to 1, or auto (default: no mixture)",
            metavar="auto|X",
            rare=True,
        )
        self.option("max_token_total", "an answer has at most N tokens, counted by cl100k_base", type=int, metavar="N")
        for name, model in (("completion_token_num", "base"), ("completion_token_num_nudging", "nudging")):
            self.option(name, f"tokens asked of the {model} model per call", type=int, metavar="N", rare=True)
        for model in ("base", "nudging"):
            self.option(
                f"{model}_temperature",
                f"temperature of the {model} model's tokens: 0 takes the most probable one, above 0 they are drawn at random",
                type=float,
                metavar="X",
                rare=True,
            )
            if f"{model}_top_p" in self._fields:
                self.option(
                    f"{model}_top_p",
                    "drawn among the most probable tokens that have this probability together",
                    type=float,
                    metavar="X",
                    rare=True,
                )

    def requests(self) -> None:
        """The options of requests to the models, all of them rare."""
        self.group("requests")
        self.option(
            "calls",
            "how the models are asked: streamed (fast), published (the requests of the published program), or auto: streamed where "
            "the servers can (a model by itself: published); the answers are the same",
            metavar="|".join(CALLS),
            rare=True,
        )
        self.option("request_timeout", "seconds that a server may stay silent", type=float, metavar="S", rare=True)
        self.option(
            "max_retries",
            "how often a failed request is sent again, after 0.5 s doubling to 8 s",
            type=int,
            metavar="N",
            rare=True,
        )
        self.option(
            "max_outage",
            "seconds that a server may be unreachable (restarting) or limit the rate of requests meanwhile, and that its first "
            "answers may take in all",
            type=float,
            metavar="S",
            rare=True,
        )
