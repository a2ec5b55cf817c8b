"""Decoding configurations: one JSON object per line of a --config file."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from command.errors import OptionError

# ARGS' README names its chunked greedy search both ways; here it is greedy, whose result it equals.
MODES = {"greedy": "greedy", "topk": "topk", "greedy_large": "greedy", "greedy-large": "greedy"}
DEFAULT_TEMPERATURE = 0.7
_HALF_QUOTED_KEY = re.compile(r"""([{,]\s*)(?!"\w+"\s*:)["']?(\w+)["']?(\s*:)""")
_BETWEEN_VALUES = re.compile(r"(?:\s|,|#[^\n]*)*")


@dataclass(frozen=True)
class DecodingConfig:
    """How tokens are chosen: among the base LM's `topk` by logit + rm_weight x reward.

    `mode` is "greedy" (the best) or "topk" (sampled at temperature `sample_temp`). `perspective` replaces the principles of the
    --sys_prompt. `chunk_size` bounds how many candidates a scalar reward model reads at once.

    Raises:
        ValueError: at construction, if a value cannot work.
    """

    rm_weight: float
    topk: int
    mode: str = "greedy"
    sample_temp: float | None = None
    perspective: str | None = None
    chunk_size: int | str | None = None
    seed: int | None = None
    name: str | None = None

    def __post_init__(self):
        _check(_is_number(self.rm_weight), "rm_weight is a finite number", self.rm_weight)
        _check(_is_count(self.topk), "topk is a whole number from 1", self.topk)
        _check(
            self.mode in MODES if isinstance(self.mode, str) else False, f"mode is one of {', '.join(MODES)}", self.mode
        )
        positive = self.sample_temp is None or (_is_number(self.sample_temp) and self.sample_temp > 0)
        _check(positive, "sample_temp is a number above 0, or null", self.sample_temp)
        for field in ("perspective", "name"):
            value = getattr(self, field)
            _check(value is None or isinstance(value, str), f"{field} is a text or null", value)
        _check(
            self.chunk_size in (None, "auto") or _is_count(self.chunk_size),
            'chunk_size is a whole number from 1, "auto" or null',
            self.chunk_size,
        )
        whole = isinstance(self.seed, int) and not isinstance(self.seed, bool) and self.seed >= 0
        _check(self.seed is None or whole, "seed is a whole number from 0, or null", self.seed)

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
    """The configurations of a file, in order: JSON lines, one object over several lines, or an array; `#` begins a comment.

    Keys that lack quotes, as in the echo of the published README, are mended; `say` gets a line about each.

    Raises:
        OptionError: the file cannot be read, or a configuration in it is none; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--config {path} cannot be read ({error})") from None
    # Comment lines inside an object would stop the JSON reader; their line numbers are kept.
    text = re.sub(r"^[ \t]*#[^\n]*", "", text, flags=re.MULTILINE)
    configs, at = [], _BETWEEN_VALUES.match(text).end()
    while at < len(text):
        line = text.count("\n", 0, at) + 1
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except json.JSONDecodeError as error:
            text = _mended(text, error, path, say)
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
            raise OptionError(f"{path}, line {line}: cannot be read ({error})") from None
        for entry in value if isinstance(value, list) else [value]:
            configs.append(_config(entry, f"{path}, line {line}"))
        at = _BETWEEN_VALUES.match(text, end).end()
    if not configs:
        raise OptionError(f'{path} holds no configuration; one is {{"rm_weight": 1.0, "topk": 10, "mode": "greedy"}}')
    return configs


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


def _config(entry, where: str) -> DecodingConfig:
    known = [field.name for field in fields(DecodingConfig)]
    if not isinstance(entry, dict):
        raise OptionError(f"{where}: a configuration is a JSON object, not {json.dumps(entry)[:60]}")
    if unknown := [name for name in entry if name not in known]:
        raise OptionError(f"{where}: {unknown[0]!r} is no key of a configuration; there are: {', '.join(known)}")
    if missing := [name for name in ("rm_weight", "topk") if name not in entry]:
        raise OptionError(f"{where}: {missing[0]!r} is missing")
    try:
        return DecodingConfig(**({"mode": "greedy"} | entry))
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from None


def _check(holds: bool, rule: str, value) -> None:
    if not holds:
        raise ValueError(f"{rule}; it is {json.dumps(value)}")


def _is_number(value) -> bool:
    # Compared before it is converted: a whole number can be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
