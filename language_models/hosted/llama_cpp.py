"""A GGUF model served by this process: llama.cpp, by the xllamacpp package, on a free loopback port; for people without a server.

It is spoken to through endpoint.py like any other server, so that all experiments work with it.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from command.errors import UserError
from command.paths import is_file, user_path
from demo.catalogue import DEMO_MODELS, demo_model_path

INSTALL = "pip install -r requirements-local.txt"
# Requests that wait in line cost nothing, parallel ones share the cores: more slots than this per core only take memory.
SLOTS_PER_CORE = 4
# Small models' tokenizers cut texts finer than cl100k_base (digits one by one): room for the worst of them.
TOKENS_PER_CL100K_TOKEN = 2


class EmbeddedServerError(UserError):
    """A model cannot be served by this process; the message says why and what to do."""


def is_gguf(name: str) -> bool:
    """Whether a model name stands for a GGUF file: a path of one, or a bundled demo model's name."""
    return (DEMO_MODELS[name].file if name in DEMO_MODELS else name).lower().endswith(".gguf")


def gguf_path(name: str) -> Path:
    """The file that a GGUF model's name stands for.

    Raises:
        EmbeddedServerError: there is no such file.
    """
    if name in DEMO_MODELS:
        try:
            return demo_model_path(name)
        except FileNotFoundError as error:
            raise EmbeddedServerError(str(error)) from None
    path = user_path(name)
    if not is_file(path):
        raise EmbeddedServerError(f"there is no file {name}; a model behind a server needs its host")
    return path


def require_xllamacpp(name: str) -> None:
    """Raise EmbeddedServerError, saying what to install, where what serves a GGUF model is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EmbeddedServerError(f"serving {name} in this process needs the package xllamacpp: {INSTALL}")


def threads_per_model(models: int) -> int:
    """Processor threads for each of several models that this process serves side by side."""
    return max(1, (os.cpu_count() or 1) // max(1, models))


def engine_in_words() -> tuple[str, str]:
    """The engine of models that this process serves, with its version, and the devices that it finds."""
    import xllamacpp

    devices = [f"{device['name']} ({device['description']})" for device in xllamacpp.get_device_info()]
    return f"xllamacpp {xllamacpp.__version__}", ", ".join(devices)


@contextlib.contextmanager
def serve(name: str, *, num_threads: int, context_length: int, model_threads: int) -> Iterator[str]:
    """Serve a GGUF model for the length of the context; gives its base URL (http://127.0.0.1:PORT/v1).

    Args:
        name: a path of a GGUF file or a bundled demo model's name; the model is served under this name.
        num_threads: how many requests come at once.
        context_length: tokens of prompt and answer that a request may have.
        model_threads: processor threads that compute.

    Raises:
        EmbeddedServerError: the package or the file is missing, or the model cannot be loaded.
    """
    path = gguf_path(name)
    require_xllamacpp(name)
    import xllamacpp

    slots = min(num_threads, SLOTS_PER_CORE * (os.cpu_count() or 1))
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = slots
    params.n_ctx = slots * context_length
    params.kv_unified = False  # every slot has its own share of the context
    params.fit_params = False  # the context length is what was asked for, or an error
    params.cpuparams.n_threads = model_threads
    # A kept-alive connection holds one of the server's threads.
    params.n_threads_http = num_threads + 2
    params.verbosity = -1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EmbeddedServerError(
            f"{path} cannot be served ({error}); is it a GGUF file, and is there memory for "
            f"{slots} answers at once (--num_threads)?"
        ) from None
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server
