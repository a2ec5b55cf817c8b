"""What some tests need beyond requirements-dev.txt: why they are left out where it is missing, and how to get it.

scripts/test.sh prints this as a table; with --all, whatever is missing is an error.
"""

import importlib
import shutil
from types import ModuleType
from typing import NoReturn

import pytest

from scripts.run_tests import DATA, GET, GPU

TORCH = "./scripts/test.sh without --no_torch (PyTorch's CPU build, or its build with CUDA if the disk has 6 GB left)"
DEBIAN = "./scripts/test.sh --all as root on Debian or Ubuntu, or apt-get install {}"
NO_GPU = (
    f"{GPU}: CUDA graphs and compiled kernels are tested on one{GET}a machine with an NVIDIA GPU and PyTorch for CUDA"
)
ONE_GPU = f"{GPU}: models on several GPUs are tested on two{GET}a machine with two NVIDIA GPUs"


def module(name: str, why: str = "models in this process need {}", how: str = TORCH) -> ModuleType:
    """A module that is not always installed; without it the test, or the file that asks while it is imported, is left out."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, and broken
            raise
        leave_out(why.format(name), how)


def programs(*names: str, packages: str, why: str) -> None:
    """Leave the test out unless these programs, which are in Debian's packages, are installed."""
    if any(shutil.which(name) is None for name in names):
        leave_out(why, DEBIAN.format(packages))


def leave_out(why: str, how: str, *, an_error: bool = True) -> NoReturn:
    """Leave out the test, or the file that is being imported.

    Args:
        an_error: whether it is one with --all.
    """
    pytest.skip(reason(why, how, an_error=an_error), allow_module_level=True)


def reason(why: str, how: str, *, an_error: bool = True) -> str:
    """What stands in the reports."""
    return f"{'' if an_error else DATA + ': '}{why}{GET}{how}"
