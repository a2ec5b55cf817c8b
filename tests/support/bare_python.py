"""Runs a script as if only PyTorch, transformers, Triton and what these require were installed: python bare_python.py SCRIPT ..."""

import importlib.metadata
import importlib.util
import re
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOTS = ("torch", "transformers", "triton")
# Some versions of Typer, which transformers' command line needs, require it, and others do not.
NOT_THERE = {"pydantic"}
REPOSITORY = Path(__file__).resolve().parents[2]


def required(roots: tuple[str, ...] = ROOTS) -> set[str]:
    """The distributions that these require, without extras, and themselves; normalised names."""
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found | NOT_THERE:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        todo += [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    return found


class BareFinder(PathFinder):
    """Finds what is in no package, and what is in one of those that are there."""

    packages = importlib.metadata.packages_distributions()
    there = required()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        """As PathFinder's; None for what shall not be there."""
        owners = cls.packages.get(name.partition(".")[0])
        if owners and not cls.there & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}:
            return None
        return super().find_spec(name, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = [BareFinder if finder is PathFinder else finder for finder in sys.meta_path]
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
