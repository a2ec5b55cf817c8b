"""A GGUF model served by this command: llama.cpp, by the xllamacpp package, on a free loopback port; for people without a server.

It runs in a process of its own (llama_cpp_process.py), which ends with this one, and is spoken to through endpoint.py like any
other server, so that all experiments work with it.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
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
END_SECONDS = 10.0  # for a process that has closed its output to be gone


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
    if sys.modules.get("xllamacpp") is None and importlib.util.find_spec("xllamacpp") is None:
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
    slots = min(num_threads, SLOTS_PER_CORE * (os.cpu_count() or 1))
    options = {
        "path": str(path),
        "name": name,
        "slots": slots,
        "context_length": context_length,
        "threads": model_threads,
        "threads_http": num_threads + 2,  # a kept-alive connection holds one of them
    }
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "language_models.hosted.llama_cpp_process", json.dumps(options)],
        stdin=subprocess.PIPE,  # its end tells the process that this one is gone, however that came
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        start_new_session=True,  # Ctrl-C is for this process: the samples in flight are finished
    )
    with process:
        try:
            told = json.loads(process.stdout.readline() or b"{}")
            if "host" not in told:
                why = (
                    told.get("error")
                    or f"llama.cpp ended with exit code {process.wait(END_SECONDS)} while it was loading"
                )
                raise EmbeddedServerError(
                    f"{path} cannot be served ({why}); is it a GGUF file, and is there memory for "
                    f"{slots} answers at once (--num_threads)?"
                )
            yield told["host"]
        finally:
            process.kill()  # answers that are still being written are wanted by nobody
