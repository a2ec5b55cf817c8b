"""Whether both models of a pair answer."""

import math
import threading
import time
from collections.abc import Callable

from command.errors import UserError
from language_models.interface import ModelError
from nudged_pair import NudgedPair

SECONDS = 5.0  # that an answer may take
BUSY_SECONDS = 5.0  # in which an answer has gone on, which takes both models
KEPT_SECONDS = 1.0  # asked more often, a server gets the last outcome


class Health:
    """Asks both models, at most once in KEPT_SECONDS; safe to use from many threads."""

    def __init__(self, pair: NudgedPair, answered_at: Callable[[], float]):
        """
        Args:
            answered_at: when an answer went on the last time, on the monotonic clock.
        """
        self._pair, self._answered_at = pair, answered_at
        self._lock = threading.Lock()
        self._checked = -math.inf
        self._failure = ""

    def check(self) -> None:
        """Raise ModelError if one of the models does not answer."""
        # While one asks, which may take seconds, the others are told the last outcome.
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._checked >= KEPT_SECONDS:
                    self._failure = self._ask()
                    self._checked = time.monotonic()
            finally:
                self._lock.release()
        if self._failure:
            raise ModelError(self._failure)

    def _ask(self) -> str:
        for role, model in self._pair.models.items():
            try:
                model.check_alive(SECONDS)
            except UserError as error:
                # A server that is busy with answers may let others wait.
                if time.monotonic() - self._answered_at() > BUSY_SECONDS:
                    return f"the {role} model does not answer: {error}"
        return ""
