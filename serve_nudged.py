"""A nudged pair as a model: an OpenAI-compatible server, and a chat page at its root. docs/serving.md.

    python serve_nudged.py --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --top_prob_thres 0.4
"""

from command.entry import begin, end

if __name__ == "__main__":
    begin("serve_nudged.py")  # the imports below take seconds

import dataclasses
import logging

from nudged_pair import NudgedPair
from serving.app import BACKLOG, bind, make_app, make_server
from serving.settings import COMMAND, ServeSettings, parse_settings


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code: 0, or 2 where it cannot start."""
    settings = parse_settings(argv)
    return COMMAND.run(lambda: serve(settings), interrupted="interrupted before it served")


def serve(settings: ServeSettings) -> int:
    """Serve a pair until a signal; returns the exit code.

    Raises:
        UserError: it cannot start.
    """
    logging.basicConfig(format="serve_nudged.py: %(message)s", level=logging.WARNING)
    with bind(settings) as listening:
        settings = dataclasses.replace(settings, port=listening.getsockname()[1])
        with open_pair(settings) as pair:
            app = make_app(pair, settings)
            server = make_server(app)
            listening.listen(BACKLOG)  # who connects once the line is said waits a moment, and is not refused
            COMMAND.note(f"serving {settings.served_model_name} at {settings.base_url}/v1 (page: {settings.base_url}/)")
            server.run(sockets=[listening])
            app.state.slots.close()
    COMMAND.note("stopped")
    return 0


def open_pair(settings: ServeSettings) -> NudgedPair:
    """The pair of some settings: hosts may take long to answer first, and no longer than clients wait from then on.

    Raises:
        UserError: a model cannot be had.
    """
    patient = dataclasses.replace(
        settings,
        max_outage=max(settings.startup_timeout, settings.max_outage),
        max_retries=max(8, settings.max_retries),
    )
    pair = NudgedPair.open(patient, patient.criterion, COMMAND.note)
    pair.set_patience(settings.max_retries, settings.max_outage)
    return pair


if __name__ == "__main__":
    end(main)
