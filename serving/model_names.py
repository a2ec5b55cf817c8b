"""The names under which a pair is served: PAIR, PAIR@0.3, PAIR@CRITERION, PAIR@CRITERION:0.3, and PAIR@base, PAIR@nudging.

The last two are its models alone, for comparison.
"""

import re
from dataclasses import dataclass

from answering.sampling import By
from decoding.criteria import CRITERIA
from serving.errors import ApiError

ALONE = ("base", "nudging")
LONGEST_SHOWN = 80
_THRESHOLD = re.compile(r"\d{0,3}(\d|\.\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Served:
    """What a model's name asks for; None: as the pair was loaded."""

    by: By = "pair"
    criterion: str | None = None
    threshold: float | None = None


def listed_names(served_name: str, own: str, usable: tuple[str, ...]) -> list[str]:
    """The names that are listed; other thresholds have names of the same form.

    Args:
        own: the pair's criterion, whose thresholds are listed.
        usable: the criteria with which an answer can be asked.
    """
    thresholds = [f"{threshold:g}" for threshold in CRITERIA[own].grid]
    return [served_name, *(f"{served_name}@{how}" for how in (*thresholds, *usable, *ALONE))]


def read_name(name: object, served_name: str, param: str | None = "model") -> Served:
    """What a model's name asks for.

    Raises:
        ApiError: it is no name (400), or none that is served here (404).
    """
    if name is None or name == "":
        raise ApiError(
            400, f"model must be given; there is {served_name}", param=param, code="missing_required_parameter"
        )
    if not isinstance(name, str):
        raise ApiError(400, "model must be a text", param=param, code="invalid_type")
    if name == served_name:
        return Served()
    if name.startswith(f"{served_name}@"):
        how = name[len(served_name) + 1 :]
        if how in ALONE:
            return Served(by=how)
        if how in CRITERIA:
            return Served(criterion=how)
        criterion, mark, threshold = how.rpartition(":")
        if _THRESHOLD.fullmatch(threshold) and (criterion in CRITERIA or not mark):
            return Served(criterion=criterion or None, threshold=float(threshold))
    shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
    raise ApiError(
        404,
        f"there is no model {shown!r} here, but {served_name}, {served_name}@THRESHOLD, {served_name}@base and "
        f"{served_name}@nudging",
        param=param,
        code="model_not_found",
    )
