"""Fields of requests that a server refuses, and what can be left out of a request without changing the answers."""

import contextlib
import re
from collections.abc import Iterator

from language_models.interface import ContextLengthError, ModelError, SamplingParams, SeedError

# Everything that would otherwise be the server's own choice (vLLM takes its defaults from the model's generation_config.json).
NEUTRAL_FIELDS = {
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "top_k": -1,
    "min_p": 0.0,
}
NEUTRAL_SAMPLING = (
    NEUTRAL_FIELDS,
    {"presence_penalty": 0.0, "frequency_penalty": 0.0},
    {},
)
REFUSALS = (400, 422)
NOT_IMPLEMENTED = 501
_BEYOND_OPENAI = frozenset(NEUTRAL_SAMPLING[0].keys() - NEUTRAL_SAMPLING[1].keys())
_NEUTRAL = frozenset(NEUTRAL_FIELDS)
# From little to much. What changes the answers comes last: that such a request is taken tells what is refused.
_STEPS = (
    frozenset(),
    _BEYOND_OPENAI,
    _NEUTRAL,
    *(step | {"top_p"} for step in (frozenset(), _BEYOND_OPENAI, _NEUTRAL)),
    frozenset({"temperature"}),
    _NEUTRAL | {"temperature"},
    _NEUTRAL | {"top_p", "temperature"},
)
_OPTIONAL = _NEUTRAL | {"top_p", "temperature"}
_LENGTH = re.compile(r"max_\w*tokens|max_length|output tokens", re.IGNORECASE)


class Refused:
    """What a server has said to requests without some of their fields; iterating brings what to leave out next."""

    def __init__(self, where: str):
        self._where = where
        self._said: dict[frozenset[str], ModelError] = {}
        self._named: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[frozenset[str]]:
        for step in _STEPS:
            while (left_out := step | self._named) not in self._said:
                yield left_out

    def add(self, left_out: frozenset[str], error: ModelError) -> None:
        """Have a refusal count: what it names is left out from now on, unless it names all (or temperature beside others)."""
        self._said[left_out] = error
        sent = _OPTIONAL - left_out
        told = str(error).removeprefix(f"{self._where}: ")
        named = {name for name in sent if re.search(rf"\b{name}\b", told)}
        if len(named) > 1:
            named.discard("temperature")
        if named < sent - {"temperature"} or named == {"temperature"}:
            self._named |= named

    def words(self, without: str) -> ModelError:
        """What the server says to a request with a field that is left out of the one that it takes.

        Args:
            without: the field.
        """
        said = [error for left_out, error in self._said.items() if without not in left_out]
        return said[-1]

    @property
    def of_the_plain_request(self) -> ModelError:
        """What the server says to a request of nothing but what a run cannot do without."""
        return self._said.get(_NEUTRAL, next(reversed(self._said.values())))


@contextlib.contextmanager
def seed_refusals(seed: int | None, where: str) -> Iterator[None]:
    """Have the refusal of a request that has a seed say so.

    Raises:
        SeedError: instead of a refusal that names the seed; one that does not may have another cause, and says that it may be that.
    """
    try:
        yield
    except ModelError as error:
        if seed is None or error.status not in (*REFUSALS, NOT_IMPLEMENTED) or isinstance(error, ContextLengthError):
            raise
        told = str(error).removeprefix(f"{where}: ")
        if re.search(r"\bseeds?\b", told, re.IGNORECASE):
            raise SeedError(
                f"{where}: the server refuses seed {seed} ({told}); ask without a seed", error.status
            ) from None
        if error.status != NOT_IMPLEMENTED:
            error.args = (f"{error}; the request has seed {seed}: perhaps the server takes none",)
        raise


def asks_for_more_tokens(error: ModelError) -> bool:
    """Whether a refusal is of the length of the answer that was asked for."""
    return bool(_LENGTH.search(str(error)))


def changes_answers(field: str, asked: SamplingParams) -> bool:
    """Whether a request without a field is answered in another way, where the server's defaults are neutral."""
    if field == "top_p":
        return asked.top_p != 1 and asked.temperature != 0
    return field == "temperature" and asked.temperature != 1
