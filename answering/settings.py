"""The settings of a pair that is loaded to answer anything."""

import math
from dataclasses import dataclass

from decoding.criteria import CRITERIA
from experiment.model_settings import PairSettings, check, check_choice, logprobs_needed


@dataclass(frozen=True)
class LoadSettings(PairSettings):
    """The settings of a pair that is loaded to answer anything.

    `context_length`: tokens of prompt and answer together for which a GGUF model of this process has room. `criteria`: with which
    an answer may be asked besides the pair's own. `logprobs` and `nudging_logprobs`: how many log-probabilities of the base and the
    nudging model one's own criterion needs at each position. `startup_timeout`: seconds that servers may refuse connections,
    until they have started.
    """

    context_length: int = 4096
    startup_timeout: float = 0.0
    criteria: tuple[str, ...] = ()
    logprobs: int = 1
    nudging_logprobs: int | None = None

    def __post_init__(self):
        for name in self.criteria:
            check_choice("criteria", name, CRITERIA)
        super().__post_init__()
        check(
            0 <= self.startup_timeout < math.inf, "startup_timeout", "must be 0 or more seconds", self.startup_timeout
        )
        check(self.context_length >= 1, "context_length", "must be at least 1", self.context_length)

    def logprobs_of(self, role: str) -> int | None:
        """See PairSettings."""
        own = self.logprobs if role == "base" else self.nudging_logprobs
        asked = [logprobs_needed(CRITERIA[name], False)[role] for name in self.criteria]
        return max((n for n in (own, super().logprobs_of(role), *asked) if n is not None), default=None)

    @property
    def usable_criteria(self) -> tuple[str, ...]:
        """The criteria with which an answer can be asked: they need no more log-probabilities than the models are asked for."""

        def fits(name: str) -> bool:
            needed = logprobs_needed(CRITERIA[name], False)
            return all((needed[role] or 0) <= (self.logprobs_of(role) or 0) for role in self.roles)

        return tuple(filter(fits, CRITERIA))
