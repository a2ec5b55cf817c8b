"""Log-probabilities that a reply lacks: what is believed of a token, and what is said where there is nothing to believe."""

import math
from collections.abc import Iterable

# By how much a log-probability may pass 0 where it is a rounding error.
ROUNDING = 1e-3
# No most probable token lies below it (that of e^30 equal ones); servers write -9999 or -3.4e38 where they have none.
LOWEST_TOP = -30.0
# No token is drawn below it.
LOWEST_DRAWN = -1000.0


class UnreadableReply(ValueError):
    """A reply that lacks what was asked for, or cannot be made sense of."""


class FaultyReply(UnreadableReply):
    """A reply that can be read and is not what was asked for, as this server will give it again."""


class FaultyLogprobs(FaultyReply):
    """Log-probabilities that are missing or are none, as this server will give them again."""


def numbers(top: Iterable[tuple[str, float | None]]) -> list[tuple[str, float]]:
    """The entries of a top list that have a log-probability."""
    return [(key, logprob) for key, logprob in top if logprob is not None]


def has_tokens(logprobs: dict | None) -> bool:
    """Whether the log-probabilities of a choice are of any token."""
    return isinstance(logprobs, dict) and bool(logprobs.get("content") or logprobs.get("tokens"))


def no_logprobs(text: str) -> FaultyLogprobs:
    """What is wrong with tokens of this text, of whose probabilities a server says nothing."""
    return FaultyLogprobs(
        f"it gives no log-probability for {text[:30]!r}, and each token's is needed. A server that drafts (speculative decoding) "
        "has none for what it drafted: start it without (llama.cpp: without --spec-type and --model-draft)"
    )


def require_probability(name: str, own: float | None, listed: list[tuple[str, float]], lists_top: bool) -> None:
    """See that there is a probability for a token that was written.

    llama.cpp gives drafted tokens the log-probability 0 and no top list. Without a list that is a certain token's only where the
    server lists none at all.

    Args:
        name: the token as the server prints it.
        own: its log-probability.
        listed: its position's most probable tokens.
        lists_top: whether the server lists them at all.

    Raises:
        FaultyLogprobs: there is none.
    """
    highest = max((logprob for _, logprob in listed), default=-math.inf)
    if (listed and highest < LOWEST_TOP) or (not listed and own is not None and own < LOWEST_DRAWN):
        raise FaultyLogprobs(
            f"it gives {highest if listed else own:.4g} as the highest log-probability at the token {name!r}, which is none: "
            "the most probable token's is needed"
        )
    if any(key == name for key, _ in listed):
        return
    if own is None or (own == 0 and lists_top and highest < -ROUNDING):
        raise no_logprobs(name)
