"""What the tests of the server share."""

import subprocess
import sys

import pytest
from runs import REPOSITORY
from served_pair import Served, in_this_process, settings_over


@pytest.fixture(scope="session")
def served(server) -> Served:
    """A pair on the scripted server, behind the application."""
    with in_this_process(settings_over(server.host)) as served:
        yield served


@pytest.fixture(scope="session")
def demo_models() -> None:
    """The bundled models, fetched once into the user's cache."""
    subprocess.run(
        [sys.executable, "scripts/get_demo_models.py", "demo-base", "demo-aligned"], cwd=REPOSITORY, check=True
    )


@pytest.fixture(scope="module")
def one_stub():
    from chat_stub import ChatStub

    started = ChatStub()
    yield started
    started.stop()


@pytest.fixture
def stub(one_stub):
    one_stub.forget()
    return one_stub
