"""Checks of options that several commands have."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from command.errors import OptionError
from command.help import HelpfulParser
from command.secrets import (
    hide,
    is_name_of_a_variable,
    register,
    register_arguments,
    register_environment,
    register_url,
    without_password,
)

LONGEST_TIMEOUT = 86_400
OPENAI = "api.openai.com"
# What a client adds to a base URL by itself.
_ENDPOINT = re.compile(r"/(chat/)?completions/*$", re.IGNORECASE)


class Parser(HelpfulParser):
    """A parser of command lines that shows no key and no password in what it says of them; its help is command/help.py's."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """See argparse."""
        register_environment()
        register_arguments(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        """See argparse."""
        super().error(hide(message))


def check_url(url: str, option: str) -> str:
    """A base URL as it is used: scheme and host in small letters, no slash at its end; its password is masked from now on.

    Raises:
        OptionError: it is none.
    """
    register_url(url)
    example = "http://localhost:8000/v1"
    wrong, shown = f"{option} must be a URL such as {example}", f"it is {without_password(url)!r}"
    if re.search(r"[\s\x00-\x1f\x7f]", url) or not re.match(r"https?://", url, re.IGNORECASE):
        ours = not re.match(r"\s*[A-Za-z][\w+.-]*:/", url) and re.match(r"[^/\s]+$|[^/\s]+/", url)
        raise OptionError(f"{wrong}{', with http:// or https:// before the host' if ours else ''}; {shown}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = None
    if not host or port == 0 or "," in parts.netloc.rpartition("@")[2]:
        coded = ", and in a user name or password / ? # @ : are written %2F %3F %23 %40 %3A" if "@" in url else ""
        raise OptionError(f"{wrong}: host and port cannot be read{coded}; {shown}")
    if "@" in parts.path + parts.query + parts.fragment:
        raise OptionError(
            f"{wrong}: an @ behind the host's name is written %40, and in a user name or password / ? # @ : are written "
            f"%2F %3F %23 %40 %3A; {shown}"
        )
    if "?" in url or "#" in url:
        raise OptionError(
            f"{wrong}, without {'a query (?)' if '?' in url else 'a fragment (#)'}: a key is held by an environment variable, "
            f"which --..._api_key_env names; {shown}"
        )
    if "," in parts.path:
        raise OptionError(f"{wrong}, one alone and without commas; {shown}")
    if found := _ENDPOINT.search(parts.path):
        base = without_password(url.rstrip("/"))
        raise OptionError(
            f"{option} is the base URL alone, as {found[0].rstrip('/')} is added to it: give {_ENDPOINT.sub('', base)}"
        )
    userinfo, mark, address = parts.netloc.rpartition("@")
    return f"{parts.scheme.lower()}://{userinfo}{mark}{address.lower()}{parts.path}".rstrip("/")


def split_hosts(hosts: str, option: str) -> list[str]:
    """The base URLs of a comma-separated list.

    Raises:
        OptionError: one of them is no URL, or stands there twice.
    """
    register_url(hosts)
    urls = [url.strip() for url in hosts.split(",")]
    if any("@" in url and not re.match(r"https?://", url, re.IGNORECASE) for url in urls[1:]):
        raise OptionError(
            f"{option} must be a URL, or several with commas between them, and in a user name or password a comma is written %2C; "
            f"it is {without_password(hosts)!r}"
        )
    urls = [check_url(url, option) for url in urls]
    for url in urls:
        if urls.count(url) > 1:
            raise OptionError(f"{option} names {without_password(url)} twice")
    return urls


def split_credentials(url: str) -> tuple[str, str]:
    """A base URL without user and password, and these as they stand in it ("" for none)."""
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    userinfo, _, address = authority.rpartition("@")
    return f"{scheme}{mark}{address}{slash}{path}", userinfo


def check_one_credential(hosts: str | None, host_option: str, variable: str | None, key_option: str) -> None:
    """Raise OptionError where a request would have to carry a password and a key: it has room for one."""
    if variable and hosts and any(split_credentials(url)[1] for url in split_hosts(hosts, host_option)):
        raise OptionError(
            f"{host_option} has a user and password, and {key_option} names a key; a request carries one of the two: leave one out"
        )


def is_openai(host: str | None) -> bool:
    """Whether a base URL is OpenAI's, None standing for it; only such a one gets what the variables OPENAI_... hold."""
    name = urlsplit(host).hostname or "" if host else OPENAI
    return (not host or host.lower().startswith("https://")) and (name == OPENAI or name.endswith(f".{OPENAI}"))


def check_requests(num_threads: int, request_timeout: float, max_retries: int) -> None:
    """Raise OptionError unless the numbers of --num_threads, --request_timeout (seconds) and --max_retries can work."""
    if num_threads < 1:
        raise OptionError(f"--num_threads must be at least 1; it is {num_threads}")
    if not 0 < request_timeout <= LONGEST_TIMEOUT:
        raise OptionError(
            f"--request_timeout must be above 0 and at most {LONGEST_TIMEOUT} seconds; it is {request_timeout}"
        )
    if max_retries < 0:
        raise OptionError(f"--max_retries must be 0 or more; it is {max_retries}")


def check_key_name(variable: str, option: str) -> None:
    """Raise OptionError if what should be the name of an environment variable may be a key, which is masked from now on."""
    if not is_name_of_a_variable(variable):
        register(variable)
        raise OptionError(
            f"{option} takes the name of an environment variable that holds the key, not the key itself, "
            "and no variable of the name that was given is set"
        )


def api_key(variable: str, option: str) -> str:
    """The API key that an environment variable holds; it is masked from now on.

    Raises:
        OptionError: it holds none, or one that no HTTP header can carry. The message shows no key.
    """
    check_key_name(variable, option)
    key = os.environ.get(variable, "").strip()
    register(key)
    if not key:
        raise OptionError(f"{option}: the environment variable {variable} is not set")
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"{option}: the key in {variable} has characters that no key can have; was it copied whole?")
    return key
