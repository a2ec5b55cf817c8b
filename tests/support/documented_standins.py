"""The table of stand-ins: what the documentation's commands ask for that is not here, and what they get instead.

Options stay as they are written; hosts become those of scripted servers, models of a hub tiny ones with random weights, and data
sets a few rows of our own. What the table does not know ends with "no stand-in for ...".
"""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from documented_programs import PROGRAMS, NoStandIn, module

# The models that documented commands name without a host, by the folder of a tiny one; bundled ones are at a scripted server.
BUNDLED = ("demo-base", "demo-aligned", "demo-aligned-better")
MODELS = {
    "meta-llama/Llama-2-13b-hf": "base",
    "google/gemma-2-27b": "base",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "aligned",
    "google/gemma-2-2b-it": "aligned",
    "princeton-nlp/Llama-3-Base-8B-SFT": "lm",
    "RuizheChen/PAD": "rm",
    "models/llama-7b/": "lm",
    "models/llama-7b-rm/": "classifier",
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": "scorers/armorm",
    "Ray2333/gpt2-large-helpful-reward_model": "scorers/gpt2",
    "Ray2333/gpt2-large-harmless-reward_model": "scorers/long_gpt2",
    "mohameddhiab/humor-no-humor": "scorers/humor",
    **{name: "lm" for name in BUNDLED},
}
HOST = re.compile(r"http://(?:localhost|node\d+):80\d\d/v1")
ROLES = ("base", "nudging", "proxy_chat", "proxy_base", "judge")


def stand_in(program: str, words: list[str], plan: dict) -> list[str]:
    """The script and the words that are run instead of a command.

    Raises:
        SystemExit: all is done that stands for the command, or nothing stands for it (NoStandIn).
    """
    if program not in ("python", "python3"):
        if program not in PROGRAMS:
            raise NoStandIn(program)
        raise SystemExit(PROGRAMS[program](words))
    if words[:1] == ["-c"]:
        _pairs_at(plan["host"])
        exec(compile(words[1], "-c", "exec"), {"__name__": "__main__"})
        raise SystemExit(0)
    if words[:1] == ["-m"]:
        raise SystemExit(module(words[1:]))
    script = os.path.relpath(os.path.realpath(words[0]), os.path.realpath(os.environ["DOCUMENTED_FOLDER"]))
    if not Path(words[0]).exists():
        return words  # it says so itself
    script = script if not script.startswith("..") else os.path.relpath(os.path.realpath(words[0]), plan["repository"])
    if script.startswith("tests/support/"):  # which stands in already
        os.execv(plan["real_python"], [plan["real_python"], *words])
    if script not in PYTHON:
        raise NoStandIn(f"python {script}")
    if os.environ.get("DOCUMENTED_PARSE_ONLY") and PYTHON[script] is not install:
        if len(words) == 1:  # its name alone
            raise SystemExit(0)
        parse_only(script, lenient=True)
        return words
    return [words[0], *PYTHON[script](list(words[1:]), plan)]


def parse_only(script: str, lenient: bool = False) -> None:
    """From now on a command line is read and checked by the command's own parser, and that is all.

    Args:
        lenient: what has to be given may be missing, as in running text.
    """
    parser = argparse.ArgumentParser
    parse_args, parse_known_args, error = parser.parse_args, parser.parse_known_args, parser.error

    def read(self, *given, **more):
        self.allow_abbrev = False
        parse_args(self, *given, **more)
        raise SystemExit(0)

    def say(self, message):
        if lenient and "are required" in message:
            raise SystemExit(0)
        error(self, message)

    def read_known(self, *given, **more):  # of scripts/run_tests.py, whose further options are pytest's
        parse_known_args(self, *given, **more)
        raise SystemExit(0)

    parser.parse_args, parser.error = read, say
    if script == "scripts/run_tests.py":
        parser.parse_known_args = read_known


def given(words: list[str], option: str) -> str | None:
    """The value of an option, or None."""
    for place, word in enumerate(words):
        if word == f"--{option}" and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"--{option}="):
            return word.partition("=")[2]
    return None


def with_hosts(words: list[str], plan: dict) -> list[str]:
    """Hosts of the documentation are a scripted server, and so are those of bundled models."""
    words = [plan["host"] if word == "URL" else HOST.sub(plan["host"], word) for word in words]
    words = [",".join(dict.fromkeys(word.split(","))) if "http://" in word else word for word in words]
    for role in ROLES:
        model = given(words, f"{role}_model")
        if given(words, f"{role}_host") is None and model in BUNDLED:
            words += [f"--{role}_host", plan["host"]]
    return words


def with_models(words: list[str], plan: dict, *names: str) -> list[str]:
    """Models of a hub, where they are loaded into this process, are tiny ones."""
    for name in names:
        model = given(words, name)
        role = name.removesuffix("_model")
        is_no_model = model is None or (name == "ref" and model in ("llm", "self", "none"))
        if is_no_model or given(words, f"{role}_host") is not None or Path(model).is_dir():
            continue
        if model not in MODELS:
            raise NoStandIn(f"the model {model}")
        tiny = str(Path(plan["models"]) / MODELS[model])
        words = [
            tiny
            if word == model and words[i - 1] == f"--{name}"
            else word.replace(f"--{name}={model}", f"--{name}={tiny}")
            for i, word in enumerate(words)
        ]
    return words


def experiment(words: list[str], plan: dict) -> list[str]:
    """run_api.py, and commands that take its options: short answers to a few questions."""
    if "..." in words:  # "and what stands before"
        at = words.index("...")
        words[at : at + 1] = [
            "--exp",
            "nudging_only",
            "--nudging_model",
            "llama-2-chat",
            "--nudging_host",
            plan["host"],
        ]
    words = with_models(with_hosts(words, plan), plan, *(f"{role}_model" for role in ROLES))
    if not any(word in ("--help", "--help_all", "--version") for word in words) and words:
        if not any(given(words, name) for name in ("data_dir", "questions")):
            words += ["--data_dir", plan["data"]]
        if given(words, "max_token_total") is None:
            words += ["--max_token_total", "24"]
    return words


def threshold(words: list[str], plan: dict) -> list[str]:
    """The search for a threshold passes the options of run_api.py on; where none are named, it tries two thresholds."""
    return experiment(words, plan) + ["--thresholds", "0.3", "0.5"] * (given(words, "thresholds") is None)


def models_alone(words: list[str], plan: dict) -> list[str]:
    """Commands that only read results, with models at hosts."""
    return with_models(with_hosts(words, plan), plan, *(f"{role}_model" for role in ROLES))


def server(words: list[str], plan: dict) -> list[str]:
    """serve_nudged.py on a free port; it is stopped once it serves."""
    from doubles import free_port

    words = models_alone(words, plan)
    port = free_port()
    _stop_once_healthy(f"http://127.0.0.1:{port}/health")
    at = words.index("--port") if "--port" in words else len(words)
    words[at : at + 2] = ["--port", str(port)]
    return words


def hosting(words: list[str], plan: dict) -> list[str]:
    """serve_models.sh with scripted servers in the place of vLLM where it is waited for, else what it would start."""
    from doubles import free_port

    if given(words, "ready_file") is None:
        return [*words, "--dry_run"]
    ports = [str(free_port()) for _ in range(2)]
    fake = str(Path(plan["repository"]) / "tests/support/fake_vllm.py")
    os.environ["FAKE_WRITES"] = plan["real_python"]
    return [*words, "--device", "gpu", "--vllm_python", fake, "--base_port", ports[0], "--nudging_port", ports[1]]


def sweep(words: list[str], plan: dict) -> list[str]:
    """A sweep of the example, with short answers to a few questions of our own, judged by rule."""
    config = next((word for word in words if word.endswith(".toml")), None)
    if config and Path(config).exists() and "data_dir" not in (text := Path(config).read_text()):
        text = text.replace("max_token_total = 512", "max_token_total = 24").replace("[0.2, 0.3, 0.4]", "[0.3]")
        text = text.replace("[options]", '[options]\njudge = "rule"', 1)  # the default one needs a key
        Path(config).write_text(f'data_dir = "{plan["data"]}"\n{text}')
    return words


def pad(words: list[str], plan: dict) -> list[str]:
    """Reward-guided decoding by tiny models, of a few tokens."""
    words = with_models(words, plan, "llm", "rm", "ref", "tokenizer", "draft", "embedder")
    if any(word in ("--help", "--help_all", "--version") for word in words):
        return words
    if given(words, "dataset") and "/" in given(words, "dataset") and not Path(given(words, "dataset")).exists():
        words += ["--data_dir", plan["data"]]
    if given(words, "dataset") is None and given(words, "prompt") is None:
        words += ["--data_dir", plan["data"]]
    words = [word for word in words if not re.fullmatch(r"--max_new_token=\d+", word)]
    return [*words, "--limit", "3", "--max_new_token", "6"]


def scores(words: list[str], plan: dict) -> list[str]:
    """Scores by tiny models."""
    return with_hosts(with_models(words, plan, "rm", "tokenizer", "embedder"), plan)


def fit(words: list[str], plan: dict) -> list[str]:
    """A scorer over a tiny model, which stands for the bundled one."""
    return [str(Path(plan["models"]) / MODELS[word]) if word in BUNDLED else word for word in words]


def read_alone(words: list[str], plan: dict) -> list[str]:
    """What takes long, or is of another machine: the command's parser reads the options."""
    parse_only("", lenient="DOCUMENTED_PARSE_ONLY" in os.environ)
    return words


def install(words: list[str], plan: dict) -> list[str]:
    """An environment with nothing in it but the stand-in for Python."""
    python = Path(given(words, "venv") or ".venv") / "bin/python"
    if not python.exists():
        python.parent.mkdir(parents=True)
        python.symlink_to(plan["python"])
    return read_alone(words, plan)


def tests_alone(words: list[str], plan: dict) -> list[str]:
    """The tests do not run the tests."""
    parse_only("scripts/run_tests.py")
    return words


def as_it_is(words: list[str], plan: dict) -> list[str]:
    """What needs nothing."""
    return words


BENCHMARKS = (
    "attacks client_throughput cpu_passes gpu_checks gpu_nudging guided_decoding half_precision identity_check local_nudging "
    "nudging_speed serving"
).split()
PYTHON: dict[str, Callable[[list[str], dict], list[str]]] = {
    "run_api.py": experiment,
    "eval_utils.py": models_alone,
    "serve_nudged.py": server,
    "collect_model_outs.py": pad,
    "measure_reward.py": scores,
    "scripts/analyse.py": models_alone,
    "scripts/demo_screen.py": as_it_is,
    "scripts/find_threshold.py": threshold,
    "scripts/fit_scorer.py": fit,
    "scripts/get_demo_models.py": read_alone,
    "scripts/install.py": install,
    "scripts/merge_shards.py": as_it_is,
    "scripts/paper_table.py": read_alone,
    "scripts/report.py": as_it_is,
    "scripts/results_table.py": as_it_is,
    "scripts/run_tests.py": tests_alone,
    "scripts/serve_models.py": hosting,
    "scripts/sweep.py": sweep,
    **{f"benchmarks/{name}.py": read_alone for name in BENCHMARKS},
}


def _pairs_at(host: str) -> None:
    """NudgedPair.load loads bundled models from a scripted server."""
    from nudged_pair import NudgedPair

    load = NudgedPair.load.__func__

    def instead(cls, base: str, nudging: str, **more) -> NudgedPair:
        if not {base, nudging} <= set(BUNDLED):
            raise NoStandIn(f"the models {base} and {nudging}")
        return load(cls, base, nudging, base_host=host, nudging_host=host, **more)

    NudgedPair.load = classmethod(instead)


def _stop_once_healthy(url: str) -> None:
    """End this process as a scheduler would, once a server of it answers."""
    import signal
    import threading
    import time

    from doubles import answers

    def watch() -> None:
        while not answers(url):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
