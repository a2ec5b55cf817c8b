"""Shared by the tests of scripts/install.py."""

from pathlib import Path

import pytest
from installs import write_checkout

from scripts import install


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout of requirements files alone, whose only package is a wheel in it; pip is told to stay offline."""
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    write_checkout(tmp_path)
    return tmp_path
