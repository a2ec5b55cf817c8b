"""The output of one configuration: PREFIX_i.jsonl, one row per prompt as it is finished, and PREFIX_i.meta.json beside it."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path

from command.files import ResultsError, exclusively, saved_elsewhere
from command.json_log import JsonLog, json_lines, not_an_object, read_json, whole_lines, write_json
from command.paths import read_text
from command.schema import TextOrNull, open_table, read_as
from pad.config import DecodingConfig
from pad.prompts import Prompt

OPTION = "--out_file"
Key = tuple[int, int]  # number of a prompt, number of the answer to it


@open_table
class _Meta:
    settings: dict = field(default_factory=dict)
    sessions: list[dict] = field(default_factory=list)


@open_table
class _Row:
    """What makes a row an answer; null where its prompt was skipped."""

    result: TextOrNull
    response: TextOrNull


def left_by_others(prefix: str, numbers: Collection[int | str]) -> list[Path]:
    """Files of answers of a prefix that are none of these: other commands' with more preferences, weights or configurations."""
    folder, name = os.path.split(prefix)
    mine = re.compile(rf"{re.escape(name)}_(\d+|baseline(?:_\d+)?)\.jsonl")
    try:
        found = {path: mine.fullmatch(path.name) for path in sorted(Path(folder).iterdir())}
    except OSError:  # that is said where they are written
        return []
    return [path for path, match in found.items() if match and match[1] not in {str(number) for number in numbers}]


class OutputFile:
    """The rows of one configuration. A row is in the file when `append` returns; `finish` puts them in the prompts' order."""

    def __init__(self, prefix: str, number: int | str, config: DecodingConfig):
        self.method = f"{prefix}_{number}"
        self.number, self.config = number, config
        self.path = Path(f"{self.method}.jsonl")
        self.meta_path = Path(f"{self.method}.meta.json")
        self._log = JsonLog(self.path, OPTION)
        self._take_lock: Callable[[], None] = lambda: None
        self._meta: dict = {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from this output while the context lasts (ResultsError: another one has it); makes its folder."""
        with exclusively(self.path.parent / f".{self.path.name}.lock", self.path, OPTION) as self._take_lock:
            yield

    def earlier_rows(
        self, prompts: Mapping[Key, Prompt], seed: int, decisive: dict, say: Callable[[str], None]
    ) -> dict[Key, dict]:
        """The finished rows of an earlier run of the same settings, by prompt and sample.

        Args:
            prompts: as they are now; of an answered one also the tokens must be as many as then.
            decisive: the settings that have to be the earlier run's.

        Raises:
            ResultsError: the file is another run's, or damaged.
        """
        if not self.path.exists():
            return {}
        then = self.read_meta().get("settings", {})
        if then and decisive.get("dimension") is not None:
            then = {"dimension": 0} | then  # earlier versions were guided by the first of several outputs
        if then:
            then = {"preference_as": "prompt", "stop": None} | then  # of versions that had no such options
        if differing := [name for name in decisive if name in then and then[name] != decisive[name]]:
            name = differing[0]
            raise self._other_run(f"--{name} was {then[name]!r}, is {decisive[name]!r}")
        rows, count = {}, 1 + max((index for index, _ in prompts), default=-1)
        for line, row in self._read_lines(say):
            index, sample = row.get("index"), row.get("sample", 0)
            if isinstance(index, int) and index >= count:
                raise self._other_run(f"line {line} answers prompt {index}, and there are {count} now")
            key = (index, sample) if isinstance(index, int) and isinstance(sample, int) else None
            if key and (index, 0) in prompts and sample > 0 and key not in prompts:
                raise self._other_run(f"line {line} is answer {sample + 1} to a prompt, more than --answers has now")
            if key not in prompts or row.get("prompt") != prompts[key].text:
                raise self._other_run(f"line {line} answers another prompt")
            then_read, now_read = row.get("n_prompt_tokens"), len(prompts[key].ids)
            if isinstance(then_read, int) and now_read and not row.get("skipped") and then_read != now_read:
                raise self._other_run(
                    f"line {line} answers a prompt of {then_read} tokens, which are {now_read} now (another chat template, or a "
                    "preference or turns put in another way)"
                )
            if row.get("config") != self.config.written():
                raise self._other_run(f"line {line} has the configuration {json.dumps(row.get('config'))}")
            if row.get("seed") != seed:
                raise self._other_run(f"line {line} has the seed {row.get('seed')}")
            where, remedy = f"{self.path}, line {line}", f"delete the line, choose another {OPTION}, or --overwrite"
            read_as(_Row, row, where, ResultsError, remedy=remedy)
            rows[key] = row
        return rows

    def _read_lines(self, say: Callable[[str], None]) -> Iterator[tuple[int, dict]]:
        try:
            text = read_text(self.path)
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"{self.path} cannot be read ({error}); choose another {OPTION}, or --overwrite"
            ) from None
        if text and not text.endswith("\n"):
            say(f"{self.path}: its last line is torn and is answered again")
        for number, row in whole_lines(text):
            if not isinstance(row, dict):
                raise ResultsError(
                    f"{self.path}, line {number}: not a row of this program ({not_an_object(row)}); choose another {OPTION}, "
                    "or --overwrite"
                )
            yield number, row

    def _other_run(self, why: str) -> ResultsError:
        return ResultsError(f"{self.path} is of another run: {why}; choose another {OPTION}, or --overwrite")

    def set_aside(self) -> list[Path]:
        """Rename files of earlier runs, and return their new names (ResultsError: they cannot be renamed)."""
        stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        try:
            there = [path for path in (self.path, self.meta_path) if path.exists()]
            return [path.rename(path.with_name(f"{path.name}.replaced-{stamp}")) for path in there]
        except OSError as error:
            raise ResultsError(f"the old results cannot be moved aside ({error}); choose another {OPTION}") from None

    def open(self, kept: Callable[[], Iterable[dict]], say: Callable[[str], None]) -> None:
        """Open for appending; a torn last line is cut off.

        Args:
            kept: the rows that are in it, from memory: others may delete it while it is written.
            say: told in a line that they have.

        Raises:
            ResultsError: it cannot be opened.
        """
        self._log.open(kept, say, self._restore)

    def _restore(self) -> None:
        self._take_lock()
        if self._meta and not self.meta_path.exists():
            self.write_meta(self._meta)

    def append(self, *rows: dict) -> None:
        """Add rows; they are on the disk when this returns.

        Raises:
            ResultsError: the disk is full or gone, or another file lies in the place of this one; the message says where they are.
        """
        self._log.append(*rows)

    def finish(self, rows: dict[Key, dict]) -> None:
        """Write all rows in the order of the prompts (ResultsError: they cannot be written; the file stays as it was)."""
        ordered = [rows[key] for key in sorted(rows)]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._log.rewrite(ordered)
            if self._meta and not self.meta_path.exists():
                self.write_meta(self._meta)
        except OSError as error:
            kept = "the rows in it are whole"
            if not self.path.exists():
                kept = saved_elsewhere(self.path, json_lines(ordered), f"all that is in memory ({len(ordered)} rows)")
            raise ResultsError(f"{self.path} cannot be written ({error}); {kept}") from None

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def read_meta(self) -> dict:
        """What `write_meta` wrote; empty if there is nothing."""
        return read_json(self.meta_path, "delete it, or --overwrite", _Meta)

    def write_meta(self, meta: dict) -> None:
        """Write settings, versions, devices and speed (ResultsError: they cannot be written)."""
        self._meta = meta
        write_json(self.meta_path, meta)


def answered_row(prompt: Prompt, answer: str, **more) -> dict:
    """A row: `result` is the answer alone, `response` prompt and answer."""
    return {
        "index": prompt.index,
        "prompt": prompt.text,
        "result": answer,
        "response": prompt.text + answer,
        "instruction": prompt.instruction,
        "sys_prompt": prompt.sys_prompt,
    } | more


def skipped_row(prompt: Prompt, reason: str, **more) -> dict:
    """The row of a prompt that has no answer."""
    row = answered_row(prompt, "", **more)
    return row | {"result": None, "response": None, "skipped": reason}
