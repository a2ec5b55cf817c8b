"""Commands of the documentation, in processes forked from one that has imported what they need.

In a folder that comes first on the PATH lie `python`, `pip`, `vllm` and others, all one small program: it hands its arguments, its
working folder, its environment and its three streams to this server, whose fork does the work, and ends as that does. What is
asked is changed before by the table of stand-ins (documented_standins.py); Python itself starts anew for no command.

    python documented_server.py SOCKET PLAN.json
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
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
if sys.argv[1:2] == ["-c"] and "nudged_pair" not in sys.argv[2]:
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
    """Answer until the process is ended: a fork does each command; how it ends is noted in the file that its environment names."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, tuple[socket.socket, list]] = {}
    while True:
        ready, _, _ = select.select([listener, ended], [], [], 5)
        if os.getppid() == 1:  # the tests were killed
            return
        if listener in ready:
            line, _ = listener.accept()
            _, streams, _, _ = socket.recv_fds(line, 1, 3)
            asked = json.loads(line.makefile().readline())
            worker = os.fork()
            if worker == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                line.close()
                _work(streams, *asked, plan)
            for stream in streams:
                os.close(stream)
            running[worker] = line, asked
            _tell(line, worker)
        if ended in ready:
            os.read(ended, 4096)
        while running and (found := os.waitpid(-1, os.WNOHANG))[0]:
            line, (program, words, _, environment) = running.pop(found[0])
            code = os.waitstatus_to_exitcode(found[1])
            code = code if code >= 0 else 128 - code
            with open(environment["DOCUMENTED_LOG"], "a") as log:
                log.write(json.dumps([program, words, code]) + "\n")
            _tell(line, code)
            line.close()


def _tell(line: socket.socket, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # whoever asked may have been killed
        line.sendall(b"%d\n" % number)


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
    gc.freeze()
    serve(sys.argv[1], the_plan)
