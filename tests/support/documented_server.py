"""Commands of the documentation, in processes forked from one that has imported what they need.

In a folder that comes first on the PATH lie `python`, `pip`, `vllm` and others, all one small program: it hands its arguments, its
working folder, its environment and its three streams to this server, whose fork does the work, and ends as that does. What is
asked is changed before by the table of stand-ins (documented_standins.py); Python itself starts anew for no command.

    python documented_server.py SOCKET PLAN.json
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests/support")]

PRELOADED = (
    *(
        "torch",
        "transformers",
        "run_api",
        "eval_utils",
        "serve_nudged",
        "collect_model_outs",
        "measure_reward",
        "pad.fit_scorer",
    ),
    *("cluster.find_threshold", "cluster.serve_models", "cluster.sweep", "reporting.html_report", "reporting.table"),
    *("analysis.command", "experiment.merge", "language_models.local.model", "matplotlib.pyplot", "openai", "numpy"),
)
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
if sys.argv[1:2] == ["-c"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
line = socket.socket(socket.AF_UNIX)
line.connect({socket!r})
socket.send_fds(line, [b"\\n"], [0, 1, 2])
asked = os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)
line.sendall(json.dumps(asked).encode() + b"\\n")
told = line.makefile()
worker = int(told.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(worker, number))
os._exit(int(told.readline() or 70))
"""


def write_client(path: Path, address: Path) -> None:
    """Write the program that asks the server at an address."""
    path.write_text(CLIENT.format(python=sys.executable, socket=str(address)))
    path.chmod(0o755)


def serve(address: str, plan: dict) -> None:
    """Answer until the process is ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    while True:
        line, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(line, plan)
        line.close()


def _answer(line: socket.socket, plan: dict) -> None:
    """Have a fork do what is asked, say how it ends, and note it in the file that the environment names."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(line, 1, 3)
    program, words, folder, environment = json.loads(line.makefile().readline())
    worker = os.fork()
    if worker == 0:
        line.close()
        _work(streams, program, words, folder, environment, plan)
    for stream in streams:
        os.close(stream)
    line.sendall(b"%d\n" % worker)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    code = code if code >= 0 else 128 - code
    with open(environment["DOCUMENTED_LOG"], "a") as log:
        log.write(json.dumps([program, words, code]) + "\n")
    line.sendall(b"%d\n" % code)
    os._exit(0)


def _work(streams: list[int], program: str, words: list[str], folder: str, environment: dict, plan: dict) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = 70
    try:
        from documented_standins import stand_in

        sys.executable = plan["python"]  # so that what a command starts comes here too
        words = stand_in(program, words, plan)
        sys.argv = words
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def preload(folder: Path) -> None:
    """Import what commands need, and write the tiny models that stand for those of the hub."""
    for name in PRELOADED:
        importlib.import_module(name)
    from utils import count_tokens

    count_tokens("The vocabulary is read once.")
    from tiny_models import make_model, make_tokenizer, save, save_all, save_scorers

    save_all(folder)
    save_scorers(folder / "scorers")
    for name, seed in (("base", 1), ("aligned", 3)):
        save(folder / name, make_model("llama", seed, context=2048), make_tokenizer())


if __name__ == "__main__":
    the_plan = json.loads(Path(sys.argv[2]).read_text())
    preload(Path(the_plan["models"]))
    serve(sys.argv[1], the_plan)
