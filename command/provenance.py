"""What a run was made with, for the files beside its results: time, this program's version and commit, packages."""

import contextlib
import platform
import subprocess
import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def now() -> str:
    """The time in ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of the packages that had a part in what was computed, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in sorted(packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def version() -> str | None:
    """This program's version, as pyproject.toml has it; None where that file was left behind."""
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
        return tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return None


def git_commit() -> str | None:
    """The commit of this program, with "+changes" if files differ from it; None outside a repository."""
    try:
        git = ["git", "-C", str(_ROOT)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def version_and_commit() -> str:
    """Both as a person reads them, such as "1.0.0 (commit 99cee10...)"."""
    commit = git_commit()
    return (version() or "unknown version") + (f" (commit {commit})" if commit else "")
