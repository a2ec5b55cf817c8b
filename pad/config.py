"""Decoding configurations: one JSON object per line of a --config file."""

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from command.errors import OptionError
from command.json_text import each_key_once
from command.paths import read_text
from command.schema import Count, Finite, Number, Rule, TextOrNull, WholeOrNull, closed_table, read_as, shown

# ARGS' README names its chunked greedy search both ways; here it is greedy, whose result it equals.
MODES = {"greedy": "greedy", "topk": "topk", "greedy_large": "greedy", "greedy-large": "greedy"}
DEFAULT_TEMPERATURE = 0.7
_NUMBERS = ("rm_weight", "topk", "sample_temp", "chunk_size", "seed")
_HALF_QUOTED_KEY = re.compile(r"""([{,]\s*)(?!"\w+"\s*:)["']?(\w+)["']?(\s*:)""")
_BETWEEN_VALUES = re.compile(r"(?:\s|,|#[^\n]*)*")


@closed_table
class DecodingConfig:
    """How tokens are chosen: among the base LM's `topk` by logit + rm_weight x reward.

    `mode` is "greedy" (the best) or "topk" (sampled at temperature `sample_temp`). `perspective` replaces the principles of the
    --sys_prompt. `chunk_size` bounds how many candidates a scalar reward model reads at once.

    Raises:
        ValueError: at construction, if a value cannot work.
    """

    rm_weight: Number
    topk: Count
    mode: Annotated[Literal[tuple(MODES)], Rule(f"must be one of {', '.join(MODES)}")] = "greedy"
    sample_temp: Annotated[Finite | None, Field(gt=0), Rule("must be a number above 0, or null")] = None
    perspective: TextOrNull = None
    chunk_size: Annotated[Count | Literal["auto"] | None, Rule('must be a whole number from 1, "auto" or null')] = None
    seed: WholeOrNull = None
    name: TextOrNull = None

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, not taken by rank."""
        return MODES[self.mode] == "topk"

    @property
    def temperature(self) -> float:
        """The temperature of sampling; 0.7 where none is named, as the published programs always have it."""
        return DEFAULT_TEMPERATURE if self.sample_temp is None else self.sample_temp

    @property
    def chunk(self) -> int:
        """The most candidates that a scalar reward model reads at once."""
        return self.topk if self.chunk_size in (None, "auto") else min(self.chunk_size, self.topk)

    def written(self) -> dict:
        """The configuration as the output rows hold it: the four published keys, and others that are set."""
        always = ("rm_weight", "topk", "mode", "sample_temp")
        return {name: value for name, value in asdict(self).items() if name in always or value is not None}


def read_configs(path: Path, say: Callable[[str], None]) -> list[DecodingConfig]:
    """The configurations of a file, in order; see `read_config_groups`."""
    return [config for group in read_config_groups(path, say) for config in group]


def read_config_groups(path: Path, say: Callable[[str], None]) -> list[list[DecodingConfig]]:
    """What a file's entries stand for, in order: JSON lines, one object over several lines, or an array; `#` begins a comment.

    An entry whose `rm_weight` is a list of numbers stands for a configuration with each of them, others for one. Keys that lack
    quotes, as in the echo of the published README, are mended; `say` gets a line about each.

    Raises:
        OptionError: the file cannot be read, or a configuration in it is none; the line is named.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path} cannot be read ({error})") from None
    # Comment lines inside an object would stop the JSON reader; their line numbers are kept.
    text = re.sub(r"^[ \t]*#[^\n]*", "", text, flags=re.MULTILINE)
    groups, at = [], _BETWEEN_VALUES.match(text).end()
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        try:
            value, end = json.JSONDecoder(object_pairs_hook=each_key_once).raw_decode(text, at)
        except json.JSONDecodeError as error:
            text = _mended(text, error, path, say)
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            raise OptionError(f"{path}, line {line}: cannot be read ({error})") from None
        for entry in value if isinstance(value, list) else [value]:
            groups.append([_config(one, f"{path}, line {line}") for one in _each_weight(entry, f"{path}, line {line}")])
        at = _BETWEEN_VALUES.match(text, end).end()
    if not groups:
        raise OptionError(f'{path} holds no configuration; one is {{"rm_weight": 1.0, "topk": 10, "mode": "greedy"}}')
    return groups


def _mended(text: str, error: json.JSONDecodeError, path: Path, say: Callable[[str], None]) -> str:
    start = text.rfind("\n", 0, error.pos) + 1
    end = text.find("\n", error.pos)
    end = len(text) if end < 0 else end
    line = text[start:end]
    mended = _HALF_QUOTED_KEY.sub(r'\1"\2"\3', line)
    if mended == line:
        raise OptionError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno}): {line.strip()[:120]}"
        )
    say(f"warning: {path}, line {error.lineno}: keys need quotes; read as {mended.strip()}")
    return text[:start] + mended + text[end:]


def _each_weight(entry: object, where: str) -> list:
    """A configuration for each of a list of weights, and its numbers that are written as texts as numbers."""
    if not isinstance(entry, dict):
        return [entry]
    weights = entry.get("rm_weight")
    if weights == []:
        raise OptionError(f"{where}: rm_weight is an empty list; name a number, or several")
    entry = {key: as_number(value) if key in _NUMBERS else value for key, value in entry.items()}
    if not isinstance(weights, list):
        return [entry]
    return [entry | {"rm_weight": as_number(weight)} for weight in weights]


def as_number(value: object) -> object:
    """The number that a text writes, such as "0.5"; anything else as it is."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def _config(entry: object, where: str) -> DecodingConfig:
    if not isinstance(entry, dict):
        raise OptionError(f"{where}: a configuration is a JSON object, not {shown(entry)}")
    unknown = ": {key} is no key of a configuration; there are: {known}{hint}"
    return read_as(DecodingConfig, entry, where, OptionError, unknown=unknown)
