"""How fast a run answered: the latency of one answer and the answers per minute of all, which are two different things.

With four questions answered at a time, an answer that takes 8 seconds comes out every 2 seconds.
"""

import math
import statistics
from dataclasses import dataclass

_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass(frozen=True)
class Pace:
    """What a run's files tell of its pace; None for what they do not tell.

    `latency` is the mean number of seconds from asking a question to its whole answer, while `at_a_time` questions were
    answered side by side. `answers_per_minute` is over the run's wall time, all sessions together.
    """

    latency: float | None = None
    at_a_time: int | None = None
    answers_per_minute: float | None = None


def pace(metadata: dict, records: list[dict]) -> Pace:
    """The pace of a run.

    Args:
        metadata: what its run.json holds; empty where there is none.
        records: of all samples, the failed ones included.
    """
    answered = [record for record in records if "error" not in record]
    times = [record["seconds"] for record in answered if "seconds" in record]
    return Pace(
        latency=statistics.mean(times) if times else None,
        at_a_time=_at_a_time(metadata, len(records)),
        answers_per_minute=_answers_per_minute(metadata, answered),
    )


def _at_a_time(metadata: dict, samples: int) -> int | None:
    try:
        return max(1, min(int(metadata["all_settings"]["num_threads"]), samples))
    except _DAMAGE:
        return None


def _answers_per_minute(metadata: dict, answered: list[dict]) -> float | None:
    """None where wall time and answers do not belong together.

    That is: a session was killed before it wrote its time; the answers are of shards, which may have run side by side, or of
    unknown origin; or the time of a judge is in it.
    """
    if {"merged_from", "answers_of_unknown_settings"} & metadata.keys():
        return None
    try:
        if any("judge_replies" in record or "judge" in (record.get("scores") or {}) for record in answered):
            return None
        seconds = sum(float(session["seconds"]) for session in metadata["sessions"])
    except _DAMAGE:
        return None
    return 60 * len(answered) / seconds if answered and 0 < seconds < math.inf else None
