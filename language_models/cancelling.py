"""Answers that nobody waits for any more."""

from language_models.interface import LanguageModel


class Cancelled(Exception):
    """What was being read is not wanted any more."""


class Cancellation:
    """Ends what models do for one answer, from any thread."""

    def __init__(self):
        self.cancelled = False

    def cancel(self) -> None:
        """End it."""
        self.cancelled = True

    def wrap(self, model: LanguageModel) -> LanguageModel:
        """The model, until it is cancelled."""
        return model
