"""The settings of a pair that is loaded to answer anything."""

import math
from dataclasses import dataclass

from experiment.model_settings import PairSettings, check
from nudging import CRITERIA


@dataclass(frozen=True)
class LoadSettings(PairSettings):
    """The settings of a pair that is loaded to answer anything.

    `context_length`: tokens of prompt and answer together for which a GGUF model of this process has room. `logprobs`: how many
    log-probabilities the criterion needs at each position. `startup_timeout`: seconds that servers may refuse connections, until
    they have started.
    """

    context_length: int = 4096
    startup_timeout: float = 0.0
    logprobs: int = max(criterion.logprobs for criterion in CRITERIA.values())

    def __post_init__(self):
        super().__post_init__()
        check(
            0 <= self.startup_timeout < math.inf, "startup_timeout", "must be 0 or more seconds", self.startup_timeout
        )
        check(self.context_length >= 1, "context_length", "must be at least 1", self.context_length)

    def logprobs_of(self, role: str) -> int | None:
        """See PairSettings."""
        return self.logprobs if role == "base" else None
