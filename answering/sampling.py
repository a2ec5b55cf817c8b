"""How one answer is asked for."""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal, get_args

from answering.endings import StopIndex
from answering.settings import LoadSettings
from command.errors import OptionError, UserError
from decoding.criteria import CRITERIA, Criterion, number_of
from experiment.model_settings import DEFAULT_CRITERION, check_number

By = Literal["pair", "base", "nudging"]
HIGHEST_TEMPERATURE = 2.0
HIGHEST_THRESHOLD = 1e6  # each criterion has bounds of its own
MOST_TOKENS = 1_000_000
HIGHEST_SEED = 2**63 - 1


class AskedError(UserError):
    """Something that cannot be asked for; the message says what may be, `param` names it."""

    def __init__(self, message: str, param: str):
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Asked:
    """How one answer is asked for; what is None is as the pair was loaded.

    `criterion`: a key of CRITERIA, or one's own; `threshold`: its number, which for top_prob is called `top_prob_thres` as well.
    `max_tokens`: the answer is cut at that many tokens of the base model. `max_token_total`: it ends as an experiment's does, once
    it has that many cl100k_base tokens. `stop`: it ends before the first of these texts. `temperature`, `top_p`, `seed`: of both
    models' sampling. `by`: the pair, or one of its models alone.

    Raises:
        AskedError: at construction, if one of them cannot be.
    """

    top_prob_thres: float | None = None
    threshold: float | None = None
    criterion: str | Criterion | None = None
    max_tokens: int | None = None
    max_token_total: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    by: By = "pair"

    def __post_init__(self):
        self._check_number("top_prob_thres", 0, 1)
        self._check_number("threshold", -HIGHEST_THRESHOLD, HIGHEST_THRESHOLD)
        self._check_number("temperature", 0, HIGHEST_TEMPERATURE)
        self._check_number("top_p", 0, 1)
        if self.top_p == 0:
            raise AskedError("top_p must be above 0", "top_p")
        for name in ("max_tokens", "max_token_total"):
            check_whole(name, getattr(self, name), 1, MOST_TOKENS)
        check_whole("seed", self.seed, -HIGHEST_SEED - 1, HIGHEST_SEED)
        if isinstance(self.criterion, str) and self.criterion not in CRITERIA:
            raise AskedError(
                f"no criterion is called {self.criterion[:60]!r}; there are: {', '.join(CRITERIA)}", "criterion"
            )
        if not isinstance(self.criterion, str | Criterion | None):
            raise AskedError(
                f"criterion must be a name or a nudging.Criterion; it is {_shown(self.criterion)}", "criterion"
            )
        if self.by not in get_args(By):
            raise AskedError(f"by must be one of {', '.join(get_args(By))}; it is {_shown(self.by)}", "by")
        if self.stop is not None and not isinstance(self.stop, str | list | tuple | set | frozenset):
            raise AskedError(f"stop must be a text or a list of texts; it is {_shown(self.stop)}", "stop")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop or ()))
        if not all(isinstance(text, str) and text for text in self.stop):
            raise AskedError("stop must be a text or a list of texts, none of them empty", "stop")

    def _check_number(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not least <= value <= most:
            raise AskedError(f"{name} must be a number from {least:g} to {most:g}; it is {_shown(value)}", name)

    def choice(self, number: int) -> "Asked":
        """How one of several answers to the same is asked for: with a seed of its own, or all would be the same."""
        if not number or self.seed is None:
            return self
        is_there = self.seed + number <= HIGHEST_SEED
        return replace(self, seed=self.seed + number if is_there else self.seed - number)

    def criterion_of(self, settings: LoadSettings, own: str | Criterion) -> tuple[str | Criterion, float]:
        """The criterion of the answer, and its number.

        Args:
            settings: those of the pair.
            own: the pair's criterion.

        Raises:
            AskedError: the pair's models are not asked for what it needs, or the number is none of it.
        """
        criterion = own if self.criterion is None else self.criterion
        needed = CRITERIA[criterion] if isinstance(criterion, str) else criterion
        if isinstance(criterion, str) and criterion not in settings.usable_criteria:
            raise AskedError(
                f"the criterion {criterion} needs more log-probabilities than the models are asked for: load the pair with it "
                f"(criteria); it can be asked with {', '.join(settings.usable_criteria)}",
                "criterion",
            )
        by_top_prob = criterion == DEFAULT_CRITERION or not isinstance(criterion, str)
        if self.top_prob_thres is not None and not by_top_prob:
            raise AskedError(
                f"top_prob_thres is the number of {DEFAULT_CRITERION}; that of {criterion} is threshold",
                "top_prob_thres",
            )
        both = self.threshold, self.top_prob_thres
        if None not in both and both[0] != both[1]:
            raise AskedError(
                f"threshold is {both[0]:g} and top_prob_thres {both[1]:g}, which are the same number", "threshold"
            )
        number = self.threshold if self.threshold is not None else self.top_prob_thres
        if number is None:
            loaded = settings.threshold if criterion == settings.criterion else None
            return criterion, number_of(criterion, loaded, settings.top_prob_thres)
        if isinstance(criterion, str):
            try:
                check_number(criterion, number, "threshold")
            except OptionError as error:
                raise AskedError(str(error).replace("--", ""), "threshold") from None
        elif not needed.lowest <= number <= needed.highest:
            raise AskedError(f"threshold must be from {needed.lowest:g} to {needed.highest:g}", "threshold")
        return criterion, number

    @cached_property
    def stops(self) -> StopIndex:
        """`stop`, to be looked for in a text."""
        return StopIndex(self.stop)


def asked_by(arguments: dict[str, object]) -> Asked:
    """How an answer is asked for, by the fields of Asked.

    Raises:
        AskedError: there is none of a name, or one cannot be.
    """
    names = [field.name for field in fields(Asked)]
    if unknown := sorted(arguments.keys() - set(names)):
        raise AskedError(f"an answer cannot be asked for with {unknown[0]}; there are: {', '.join(names)}", unknown[0])
    return Asked(**arguments)


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Check a field that is a whole number, or None.

    Raises:
        AskedError: it is neither, or out of its bounds.
    """
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise AskedError(f"{name} must be a whole number from {least} to {most}; it is {_shown(value)}", name)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."
