"""The options of serve_nudged.py."""

import argparse
import ipaddress
import re
import socket
from dataclasses import dataclass

from answering.settings import LoadSettings
from command.console import Command
from command.errors import OptionError
from command.options import api_key
from experiment.model_options import TERMS, Options, PlainParser
from experiment.model_settings import SettingsError, check

COMMAND = Command("serve_nudged.py")
DEFAULT_PORT = 8010
_ORIGIN = re.compile(r"https?://[^\s/?#@,]+", re.IGNORECASE)
_DESCRIPTION = f"""\
A base model, nudged by a small aligned one, as a model behind an
OpenAI-compatible server, with a chat page.

{TERMS}"""
_WITHOUT_OPTIONS = """\
serve_nudged.py serves a base model, nudged by a small aligned one, as one model, and a chat page. For example:
  without another server, the bundled pair (fetched once by: python scripts/get_demo_models.py):
    python serve_nudged.py --base_model demo-base --nudging_model demo-aligned --top_prob_thres 0.4
  over two servers:
    python serve_nudged.py --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --top_prob_thres 0.4
  the options:
    python serve_nudged.py --help
"""
_EXAMPLES = """\
examples:
  two models behind vLLM:
    python serve_nudged.py --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --top_prob_thres 0.4
  the bundled small models, which this process serves itself:
    python serve_nudged.py --base_model demo-base --nudging_model demo-aligned --top_prob_thres 0.4
then open http://127.0.0.1:8010, or give http://127.0.0.1:8010/v1 to any OpenAI client; docs/serving.md.
"""


@dataclass(frozen=True)
class ServeSettings(LoadSettings):
    """Everything that serve_nudged.py is told; the fields are the command-line options.

    Raises:
        SettingsError: at construction, if the settings cannot work.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    served_model_name: str = "pair"
    api_key_env: str | None = None
    no_key: bool = False
    max_concurrent: int = 32
    cors_origin: tuple[str, ...] = ()
    ignore_tools: bool = False
    startup_timeout: float = 600.0
    max_retries: int = 2
    max_outage: float = 10.0

    def __post_init__(self):
        check(self.max_concurrent >= 1, "max_concurrent", "must be at least 1", self.max_concurrent)
        object.__setattr__(self, "num_threads", self.max_concurrent)
        super().__post_init__()
        check(0 <= self.port <= 65535, "port", "is a number from 0 (any free one) to 65535", self.port)
        named = re.fullmatch(r"[^\s@\x00-\x1f\x7f]{1,200}", self.served_model_name)
        check(bool(named), "served_model_name", "is a word without @ and spaces", self.served_model_name)
        check(bool(self.host.strip()), "host", "is the address to listen on, such as 127.0.0.1", self.host)
        for origin in self.cors_origin:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    "--cors_origin is what browsers send as Origin, scheme, host and port such as http://localhost:3000, without a "
                    f"path or a slash at its end; or * for all. It is {origin!r}"
                )
        self.key  # noqa: B018  raises that it is not there
        if not (self.api_key_env or self.no_key or is_loopback(self.host.strip("[]"))):
            raise SettingsError(
                f"--host {self.host} can be reached from other machines: name a variable with a key that clients must send by "
                "--api_key_env, or say --no_key"
            )

    @property
    def key(self) -> str:
        """The key that clients must send; "" for none."""
        return api_key(self.api_key_env, "--api_key_env") if self.api_key_env else ""

    @property
    def base_url(self) -> str:
        """The base URL of a host that people can open."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host.strip("[]"), self.host.strip("[]"))
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether an address or a name is one that only this machine can reach."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def build_parser() -> argparse.ArgumentParser:
    """The command line of serve_nudged.py; the defaults are ServeSettings' own."""
    parser = PlainParser(
        prog=COMMAND.name,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        without_options=_WITHOUT_OPTIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = Options(parser, ServeSettings)
    options.models()
    options.option(
        "context_length",
        "tokens of prompt and answer for which GGUF models of this process have room",
        type=int,
        metavar="N",
        rare=True,
    )
    options.decoding()
    options.group("server")
    options.option(
        "host", "address to listen on; one that other machines reach needs a key, or --no_key", metavar="ADDRESS"
    )
    options.option("port", "0 takes a free one, which is said", type=int, metavar="PORT")
    options.option("served_model_name", "the pair's name for clients", metavar="NAME")
    options.option(
        "api_key_env",
        "environment variable that holds the key which clients must send (default: no key)",
        metavar="VAR",
    )
    options.flag("no_key", "serve other machines without a key")
    options.option("max_concurrent", "answers written at a time; more requests get status 429", type=int, metavar="N")
    options.option(
        "cors_origin",
        "origins whose pages may read answers, such as http://localhost:3000, or *",
        nargs="*",
        metavar="ORIGIN",
        rare=True,
    )
    options.option(
        "criteria",
        "criteria that requests may ask for besides --criterion (default: those that need no more log-probabilities than it)",
        nargs="*",
        metavar="NAME",
        rare=True,
    )
    options.flag(
        "ignore_tools",
        "leave tools unused that clients such as Open WebUI send always, instead of refusing them",
        rare=True,
    )
    options.option(
        "startup_timeout",
        "seconds that hosts may take until they listen and answer first",
        type=float,
        metavar="S",
        rare=True,
    )
    options.requests()
    return parser


def parse_settings(argv: list[str] | None = None) -> ServeSettings:
    """Settings from a command line (None: this process's); bad ones end the process with exit code 2 and a plain line."""
    options = vars(build_parser().parse_args(argv))
    try:
        return ServeSettings(
            **options | {name: tuple(options[name]) for name in ("end_tokens", "cors_origin", "criteria")}
        )
    except OptionError as error:
        hint = "" if options["base_model"] or options["nudging_model"] else " (--help has two examples)"
        COMMAND.note(f"error: {error}{hint}")
        raise SystemExit(2) from None
