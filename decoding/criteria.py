"""When the base model's token is rejected and the nudging model writes instead: the criteria, as one table.

A criterion is a function of a place of the answer (the base model's token there with its most probable ones, and the nudging
model's where it is asked for) and of one number. Everything else about it is data: how many log-probabilities it needs of which
model, its bounds, its source, what it costs. Probabilities are those of the models' distributions at temperature 1, whatever is
sampled at.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from language_models.interface import ProbabilityError, Token

ENTROPY_LOGPROBS = 20  # vLLM gives no more unless it is told to


@dataclass(frozen=True, slots=True)
class Place:
    """A place of an answer at which the base model has written a token.

    `before` is the base model's prompt and the answer before the token. `ask_nudging` asks the nudging model for its token at the
    same place; `seed` is the answer's, None for none.
    """

    token: Token
    before: str = ""
    ask_nudging: Callable[[], Token] | None = None
    seed: int | None = None

    @property
    def text(self) -> str:
        """The text of the base model's token, "" for the end of sequence."""
        return self.token.text

    @property
    def top(self) -> tuple[tuple[str, float], ...]:
        """The base model's most probable tokens there as (text, natural log-probability), most probable first."""
        return self.token.top

    @property
    def top_prob(self) -> float:
        """Probability of the base model's most probable token, 0 to 1."""
        return self.token.top_prob

    @property
    def prob(self) -> float:
        """Probability of the base model's own token, 0 to 1 (ProbabilityError: it is not told)."""
        logprob = next((logprob for text, logprob in self.top if text == self.text), None)
        if logprob is None:
            raise ProbabilityError(f"the base model's server gives no log-probability for its own token {self.text!r}")
        return min(1.0, math.exp(logprob))

    @property
    def nudging(self) -> Token:
        """The nudging model's token at the same place, with its most probable ones; it is asked for them here."""
        return self.ask_nudging()


@dataclass(frozen=True)
class Criterion:
    """When the base model is certain: where `certain(place, number)` holds.

    `logprobs` is how many of the position's most probable tokens it has to see of the base model, `nudging_logprobs` of the
    nudging model at the same place (None: it is not asked). `paper` is where it comes from, `rejects` says in words where a
    token is rejected. The number is `threshold` unless another one is given (None: it has none), and lies between `lowest` and
    `highest`; `grid` are numbers to try, and `quantity` says what it is a bound of. `cost` is what it takes besides what the loop
    asks anyway. `agreement`: a token with which the nudging model's next word begins is accepted all the same, as in the paper.
    `alone`: one of the models writes everything.
    """

    certain: Callable[[Place, float], bool]
    logprobs: int
    paper: str
    nudging_logprobs: int | None = None
    threshold: float | None = None
    lowest: float = 0.0
    highest: float = 1.0
    grid: tuple[float, ...] = ()
    rejects: str = ""
    quantity: str = ""
    cost: str = "nothing"
    agreement: bool = True
    alone: Literal["base", "nudging"] | None = None


def entropy(top: tuple[tuple[str, float], ...]) -> float:
    """The entropy in nats of the most probable ENTROPY_LOGPROBS tokens, everything else counted as one token.

    Args:
        top: (text, natural log-probability), most probable first; what a server lists beyond is passed over.
    """
    probs = [min(1.0, math.exp(logprob)) for _, logprob in top[:ENTROPY_LOGPROBS]]
    probs.append(max(0.0, 1.0 - math.fsum(probs)))
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def margin(top: tuple[tuple[str, float], ...]) -> float:
    """By how much the most probable token's probability is above the second's, 0 to 1; a token alone in its list has all."""
    first, second = (min(1.0, math.exp(logprob)) for _, logprob in (*top, ("", -math.inf))[:2])
    return first - second


def drawn(seed: int | None, before: str, what: str) -> float:
    """A number from 0 to 1, evenly distributed, that depends on the seed, the text before a place and what it is for alone."""
    told = f"{what}\n{seed}\n{before}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=7).digest()) / 2**56


def begins_word(place: Place) -> bool:
    """Whether a token begins a word: words are parted by white space, and the end of sequence is none."""
    return bool(place.text) and (place.text[0].isspace() or not place.before or place.before[-1].isspace())


def _bets(place: Place, number: float) -> bool:
    """Whether p(v) is at least max q - number; where it is whatever q is, nobody is asked."""
    prob = place.prob
    return prob >= 1 - number or prob >= place.nudging.top_prob - number


TENTHS = tuple(n / 10 for n in range(1, 10))
REJECTION = "Hammal, Zweigenbaum, Corro, arXiv 2604.16146"

# To add a criterion: one entry here.
CRITERIA = {
    "top_prob": Criterion(
        lambda place, number: place.top_prob >= number,
        1,
        "arXiv 2410.09300, section 3",
        threshold=0.3,
        grid=TENTHS,
        rejects="the base model's top-1 probability is below the number",
        quantity="the base model's top-1 probability",
    ),
    "token_prob": Criterion(
        lambda place, number: place.prob >= number,
        1,
        f"{REJECTION} (dual KAD); arXiv 2510.27017 (KAD)",
        threshold=0.3,
        grid=TENTHS,
        rejects="the probability of the base model's own token is below the number",
        quantity="the probability of the base model's token",
    ),
    "confidence_bet": Criterion(
        _bets,
        1,
        REJECTION,
        nudging_logprobs=1,
        threshold=0.3,
        grid=TENTHS,
        rejects="the probability of the base model's own token is below the nudging model's top-1 probability less the number",
        quantity="how far the base model's token may lie below the nudging model's top-1 probability",
        cost="the nudging model is asked at each token of the base model whose probability is below 1 less the number",
    ),
    "entropy": Criterion(
        lambda place, number: entropy(place.top) <= number,
        ENTROPY_LOGPROBS,
        "a usual measure of uncertainty (Shannon 1948)",
        threshold=2.0,
        highest=math.log(ENTROPY_LOGPROBS + 1),
        grid=(0.5, 1.0, 1.5, 2.0, 2.5),
        rejects=f"the entropy of the base model's {ENTROPY_LOGPROBS} most probable tokens, the rest as one, is above the number",
        quantity="the entropy of the base model's distribution, in nats",
        cost=f"{ENTROPY_LOGPROBS} log-probabilities in each reply",
    ),
    "margin": Criterion(
        lambda place, number: margin(place.top) >= number,
        2,
        "a usual measure of uncertainty (margin sampling: Scheffer, Decomain, Wrobel 2001)",
        threshold=0.2,
        grid=TENTHS,
        rejects="the base model's first probability is less than the number above its second",
        quantity="the base model's first probability less its second",
        cost="2 log-probabilities in each reply",
    ),
    "always": Criterion(
        lambda place, number: False,
        1,
        "control",
        rejects="everywhere: the nudging model alone, through the loop",
        cost="the base model is not asked",
        agreement=False,
        alone="nudging",
    ),
    "never": Criterion(
        lambda place, number: True,
        1,
        "control",
        rejects="nowhere: the base model alone",
        cost="the nudging model is not asked",
        alone="base",
    ),
    "random": Criterion(
        lambda place, number: not begins_word(place) or drawn(place.seed, place.before, "random") >= number,
        1,
        "control",
        threshold=0.1,
        grid=(0.05, 0.1, 0.2, 0.3, 0.5),
        rejects="a token begins a word, at so large a share of them, drawn by the seed and the text before",
        quantity="the share of words",
        agreement=False,
    ),
}


def number_of(criterion: str | Criterion, threshold: float | None, top_prob_thres: float) -> float:
    """The number that a criterion is asked with: the one given, or its own; of top_prob and one's own it is top_prob_thres."""
    if threshold is not None:
        return threshold
    default = CRITERIA[criterion].threshold if isinstance(criterion, str) else criterion.threshold
    return top_prob_thres if default is None or criterion == "top_prob" else default
