"""Checks of options that several commands have."""

import os
import re

from command.errors import OptionError

LONGEST_TIMEOUT = 86_400
NEUTRAL_API_KEY = "EMPTY"  # what servers without keys are given


def check_url(url: str, option: str) -> None:
    """Raise OptionError unless a base URL is one."""
    if not re.fullmatch(r"https?://[^/\s,?#]+[^\s,?#]*", url):
        raise OptionError(f"{option} must be a URL such as http://localhost:8000/v1; it is {without_password(url)!r}")


def split_hosts(hosts: str, option: str) -> list[str]:
    """The base URLs of a comma-separated list.

    Raises:
        OptionError: one of them is no URL, or stands there twice.
    """
    urls = [url.strip().rstrip("/") for url in hosts.split(",")]
    for url in urls:
        check_url(url, option)
        if urls.count(url) > 1:
            raise OptionError(f"{option} names {without_password(url)} twice")
    return urls


def without_password(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    return re.sub(r"//[^/@]*@", "//***@", url)


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


def api_key(variable: str, option: str) -> str:
    """The API key that an environment variable holds.

    Raises:
        OptionError: it holds none, or one that no HTTP header can carry. The message shows no key.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise OptionError(f"{option} takes the name of an environment variable that holds the key, not the key itself")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise OptionError(f"{option}: the environment variable {variable} is not set")
    if not key.isascii() or not key.isprintable():
        raise OptionError(f"{option}: the key in {variable} has characters that no key can have; was it copied whole?")
    return key
