"""Servers of models that are still starting."""

import time
from collections.abc import Callable, Iterator

import httpx2

from answering.settings import LoadSettings
from command.options import split_hosts
from command.secrets import without_password
from language_models.hosted.http import make_http

PAUSE, SAY_EVERY = 0.5, 30.0  # seconds
CONNECT_SECONDS = 10.0


def wait_for_servers(settings: LoadSettings, say: Callable[[str], None]) -> None:
    """Wait until one server of each model takes connections, at most `startup_timeout` seconds.

    Only for servers that refuse them, as a machine does on whose port nothing listens yet: all else is for the first request,
    whose error says what it is.

    Args:
        say: told at once, and now and then, what is waited for.
    """
    until, say_at = time.monotonic() + settings.startup_timeout, 0.0
    for role, model in settings.models.items():
        hosts = split_hosts(model.host, f"--{role}_host") if model.host else []
        while hosts and all(map(refuses, hosts)) and time.monotonic() < until:
            if time.monotonic() >= say_at:
                say_at = time.monotonic() + SAY_EVERY
                shown = ", ".join(map(without_password, hosts))
                say(
                    f"waiting for {model.name}: nothing listens at {shown}; {max(0.0, until - time.monotonic()):.0f} s more "
                    "(--startup_timeout)"
                )
            time.sleep(PAUSE)


def refuses(host: str) -> bool:
    """Whether a server's machine, given its base URL, refuses connections.

    Raises:
        OptionError: the environment names a proxy or certificates that cannot be used.
    """
    with make_http(host, 1, CONNECT_SECONDS) as http:
        try:
            http.get(f"{host}/models")
        except httpx2.ConnectError as error:
            return any(isinstance(one, ConnectionRefusedError) for one in causes(error))
        except Exception:  # the first request will say what it is
            return False
    return False


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it comes from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
