"""The process in which llama.cpp serves a GGUF model for as long as whoever has started it lives; see llama_cpp.py.

A process of its own, since xllamacpp keeps Python from running while it loads a model, and while it waits for a server's last
answer at its end: nobody could be told to stop then.
"""

import json
import os
import signal
import sys


def main(options: dict) -> None:
    """Serve a model until standard input ends; writes one line of JSON to standard output: its "host", or the "error".

    Args:
        options: `path`, `name`, and the server's `slots`, `context_length` of each, `threads` and `threads_http`.
    """
    told = os.dup(1)
    os.dup2(2, 1)  # what llama.cpp prints is for people
    # Schedulers tell all processes of a job that its end is near: the answers in flight still need the model.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options["path"]
    params.model_alias = {options["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = options["slots"]
    params.n_ctx = options["slots"] * options["context_length"]
    params.kv_unified = False  # every slot has its own share of the context
    params.fit_params = False  # the context length is what was asked for, or an error
    params.cpuparams.n_threads = options["threads"]
    params.n_threads_http = options["threads_http"]
    params.verbosity = -1
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        os.write(told, (json.dumps({"error": str(error)}) + "\n").encode())
        os._exit(1)
    os.write(told, (json.dumps({"host": f"{server.listening_address}/v1"}) + "\n").encode())
    while os.read(0, 1024):
        pass
    os._exit(0)  # without the server's destructor, which waits for answers in flight


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
