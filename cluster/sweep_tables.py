"""What may stand in the config file of a sweep (see scripts/sweep_example.toml): its tables, with the default of each key."""

import math
import re
import shlex
from dataclasses import field, make_dataclass
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from command.schema import Count, Finite, Rule, Text, Whole, closed_table
from experiment.settings import RunSettings

T = TypeVar("T")
ROLES = ("base", "nudging", "aligned", "proxy_base")
# --shard takes no longer numbers.
_MOST_SHARDS = 999_999


_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


def _with_closed_quotes(text: str) -> str:
    shlex.split(text)
    return text


def _of_one_line(value: T) -> T:
    """A value that can stand in a line of a job's script or of a task list, and end nowhere but at the end of it."""
    if (isinstance(value, str) and _CONTROL.search(value)) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError
    return value


def _of_lines(text: str) -> str:
    if "\0" in text or "\r" in text:
        raise ValueError
    return text


_Line = Annotated[Text, AfterValidator(_of_one_line), Rule("must be a text of one line")]
_Lines = Annotated[
    Text, AfterValidator(_of_lines), Rule("must be a text of lines of bash, without NUL and carriage returns")
]
_Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
_Option = Annotated[_Scalar | list[_Scalar], Rule("must be a text, a number, true, false, or a list of them")]
_Directive = Annotated[
    _Scalar, AfterValidator(_of_one_line), Rule("must be a text of one line, a finite number, true or false")
]
_ListOrOne = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
_Names = Annotated[list[StrictStr], Field(min_length=1), _ListOrOne, Rule("must be a list of names")]
_Numbers = Annotated[list[Finite], Field(min_length=1), _ListOrOne, Rule("must be a list of numbers")]
# Of one criterion, or of each by its name.
_Thresholds = Annotated[
    list[Finite] | dict[StrictStr, _Numbers],
    BeforeValidator(lambda value: value if isinstance(value, list | dict) else [value]),
    Rule("must be a list of numbers, or a table of them by criterion such as {top_prob = [0.3, 0.4], entropy = [1.5]}"),
]
_Words = Annotated[
    StrictStr,
    AfterValidator(_of_one_line),
    AfterValidator(_with_closed_quotes),
    Rule("must be a text of options in one line, its quotes closed"),
]
_Shards = Annotated[
    StrictInt, Field(ge=1, le=_MOST_SHARDS), Rule(f"must be a number, at least 1 and at most {_MOST_SHARDS}")
]

# Without a host a model's is taken from the environment; an empty one means that the model needs none.
_ModelKeys = make_dataclass(
    "_ModelKeys",
    [
        (f"{role}_{what}", kind, default)
        for role in ROLES
        for what, kind, default in (
            ("model", _Line, ""),
            ("host", _Line | None, None),
            ("template", _Line, ""),
            ("api_key_env", _Line, ""),
        )
    ],
    frozen=True,
)


@closed_table
class PairTable(_ModelKeys):
    """A table [[pairs]]: its lists stand before the file's, its options are added to the file's."""

    name: _Line = ""
    data_sets: _Names | None = None
    experiments: _Names | None = None
    questions: _Names | None = None
    criteria: _Names | None = None
    thresholds: _Thresholds | None = None
    options: dict[str, _Option] = field(default_factory=dict)
    serve: _Words | None = None


@closed_table
class SlurmTable:
    """The table [slurm]."""

    sbatch: dict[str, _Directive] = field(default_factory=dict)
    max_at_once: Whole = 0
    setup: _Lines = ""
    serve: _Words | None = None


@closed_table
class ConfigTable:
    """The file; `pairs` and `slurm` are still to be read."""

    output_dir: _Line = RunSettings.output_dir
    data_sets: _Names | None = None
    questions: _Names | None = None
    experiments: _Names = field(default_factory=lambda: ["nudging"])
    criteria: _Names = field(default_factory=lambda: [RunSettings.criterion])
    thresholds: _Thresholds | None = None
    num_samples: Count | None = None
    data_dir: _Line | None = None
    shards: _Shards = 1
    options: dict[str, _Option] = field(default_factory=dict)
    pairs: list[dict] = field(default_factory=list)
    slurm: dict = field(default_factory=dict)
