"""What the tests of the server share."""

import pytest
from served_pair import Served, in_this_process, settings_over


@pytest.fixture(scope="session")
def served(server) -> Served:
    """A pair on the scripted server, behind the application."""
    with in_this_process(settings_over(server.host)) as served:
        yield served
