"""The files of one run: records appended as they are finished, results written at the end, and the run's metadata.

While a run goes on, `all_info/{name}.jsonl` is a log: a line is a record, or what has become known of one since (its scores, or a
second try); lines of one `index` are merged, the later over the earlier. At the end it is rewritten with one line per record.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from command.console import visible
from command.files import ResultsError, exclusively, not_writable, saved_elsewhere, write_atomically
from command.json_log import JsonLog, json_lines, not_an_object, read_json, whole_lines, write_json
from command.json_text import parsed
from command.paths import read_text
from command.schema import read_as
from command.secrets import hide_in, without_password
from experiment.asked_text import asked_text
from experiment.record_tables import AnswerRecord, FailedRecord, LogLine, RunMetadata


def read_records(path: Path) -> list[dict]:
    """The records of a result file: the list in a .json, or the merged lines of a .jsonl, in the order of the samples.

    Raises:
        ResultsError: the file cannot be read, or is no result file.
    """
    try:
        text = read_text(path)
        content = parsed(text) if path.suffix != ".jsonl" else None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read ({error})") from None
    if path.suffix == ".jsonl":
        return _merged(path, text)
    if not isinstance(content, list):
        raise ResultsError(f"{path} is no result file: not a list of records with questions and answers")
    for i, record in enumerate(content):
        _check(record, f"{path}, record {i}")
    return [{"index": i} | record for i, record in enumerate(content)]


def _merged(path: Path, text: str) -> list[dict]:
    merged: dict[int, dict] = {}
    for number, entry in whole_lines(text):
        where, remedy = f"{path}, line {number}", "mend or delete the line, or start afresh with --rerun"
        if not isinstance(entry, dict):
            raise ResultsError(f"{where}: not a record ({not_an_object(entry)}); {remedy}")
        index = read_as(LogLine, entry, where, ResultsError, remedy=remedy).index
        # A second try replaces a failed first one; anything else adds to what is there.
        merged[index] = entry if "error" in merged.get(index, {}) else merged.get(index, {}) | entry
    for index, record in merged.items():
        _check(record, f"{path}, sample {index}")
    return [merged[index] for index in sorted(merged)]


def _check(record: object, where: str) -> None:
    kind = FailedRecord if isinstance(record, dict) and "error" in record else AnswerRecord
    read_as(kind, record, where, ResultsError, remedy="no record of this program; mend it in the file")


class ResultFiles:
    """The files of one run: `name.txt`, and under all_info/ the .jsonl, .json, .run.json and .summary.json."""

    def __init__(self, folder: Path, name: str, records_folder: Path | None = None):
        records_folder = records_folder or folder / "all_info"
        self.txt = folder / f"{name}.txt"
        self.jsonl, self.json, self.run, self.summary = (
            records_folder / f"{name}{suffix}" for suffix in (".jsonl", ".json", ".run.json", ".summary.json")
        )
        self.has_layout = records_folder.name == "all_info"
        self._lock_file = records_folder / f".{name}.lock"
        self._log = JsonLog(self.jsonl, "--output_dir")
        self._take_lock: Callable[[], None] = lambda: None
        self._metadata: dict = {}

    @classmethod
    def of(cls, path: Path) -> "ResultFiles":
        """The files that a result file belongs to: a .json or .jsonl in an all_info folder, the .txt above it, or a lone .json."""
        name = path.name.removesuffix(path.suffix)
        if path.parent.name == "all_info":
            return cls(path.parent.parent, name)
        return cls(path.parent, name) if path.suffix == ".txt" else cls(path.parent, name, path.parent)

    def records(self) -> list[dict]:
        """What earlier runs have left, in the order of the samples; empty if there is nothing.

        Raises:
            ResultsError: a file is damaged.
        """
        for path in (self.jsonl, self.json):
            if path.exists():
                return read_records(path)
        return []

    def read_run(self) -> dict:
        """The run's metadata (see `write_run`), empty if there is none (ResultsError: it is damaged)."""
        self._metadata = read_json(self.run, "mend it, or start afresh with --rerun", RunMetadata)
        return self._metadata

    def set_aside(self, *, copy: bool = False) -> list[Path]:
        """Move the files of earlier runs, or copies of them, into a folder replaced-{date}-{time} beside them; where they are now.

        Raises:
            ResultsError: they cannot be moved.
        """
        moved = []
        stamp = f"replaced-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        try:
            for path in (self.txt, self.jsonl, self.json, self.run, self.summary):
                if path.exists():
                    (path.parent / stamp).mkdir(exist_ok=True)
                    place = path.parent / stamp / path.name
                    moved.append(shutil.copy2(path, place) if copy else path.rename(place))
        except OSError as error:
            raise ResultsError(
                f"the old results cannot be moved aside ({error}); choose another --output_dir"
            ) from None
        return moved

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from these files while the context lasts; the lock goes with the process, however that ends.

        Raises:
            ResultsError: another run is writing them, or the folder cannot be made.
        """
        with exclusively(self._lock_file, self.jsonl, "--output_dir") as self._take_lock:
            try:
                yield
            finally:
                self.close_log()

    def open_log(self, kept: Callable[[], Iterable[dict]], say: Callable[[str], None]) -> None:
        """Open the log for appending; a line that a kill has torn is cut off.

        Args:
            kept: the records that are in it, from memory: others may delete it while it is written.
            say: told in a line that they have.

        Raises:
            ResultsError: the folder cannot be written to.
        """
        try:
            if not self.jsonl.exists() and self.json.exists():
                write_atomically(self.jsonl, json_lines(read_records(self.json)))
        except OSError as error:
            raise not_writable(self.jsonl, error, "--output_dir") from None
        self._log.open(kept, say, self._restore)

    def _restore(self) -> None:
        """What has to be there before the log is written anew: the lock, and run.json, by which the records are known."""
        self._take_lock()
        self._restore_run()

    def _restore_run(self) -> None:
        if self._metadata and not self.run.exists():
            self.write_run(self._metadata)

    def append(self, entry: dict) -> None:
        """Add a record, or more of one, to the log; it is in the file when this returns.

        Raises:
            ResultsError: the disk is full or gone, or another file lies in the log's place; the message says where the records are.
        """
        self._log.append(entry)

    def close_log(self) -> None:
        """Close the log."""
        self._log.close()

    def write_final(self, records: list[dict], readable: str | None) -> None:
        """Write the published result files, and the log with one line per record, in the order of the samples.

        Args:
            records: all records, in order.
            readable: the text of `name.txt`; None leaves it alone.

        Raises:
            ResultsError: a file cannot be written; the ones that were there stay.
        """
        try:
            for path in (self.json, self.txt):  # others may have deleted them while the run went on
                path.parent.mkdir(parents=True, exist_ok=True)
            self._restore_run()
            if self.has_layout or self.jsonl.exists():
                self._log.rewrite(records)
            write_atomically(self.json, json.dumps(records, indent=2))
            if readable is not None:
                write_atomically(self.txt, readable)
        except OSError as error:
            kept = f"what {self.jsonl} holds is kept"
            if not self.jsonl.exists():
                kept = saved_elsewhere(
                    self.jsonl, json_lines(records), f"all that is in memory ({len(records)} records)"
                )
            raise ResultsError(f"the results cannot be written ({error}); {kept}") from None
        finally:
            self.close_log()

    def write_run(self, metadata: dict) -> None:
        """Write run.json: settings, versions, server reports, sessions with start, end and usage."""
        self._metadata = metadata
        write_json(self.run, _without_secrets(metadata))

    def write_summary(self, summary: dict) -> None:
        """Write summary.json."""
        write_json(self.summary, summary)


def _without_secrets(metadata: dict) -> dict:
    """A run's metadata with what can hold a key or a password masked: hosts, commands, and what servers say of themselves.

    The rest is read back, and has to stay as it is even where it has a word in common with a password.
    """
    told, sessions = metadata.get("all_settings"), metadata.get("sessions")
    masked = dict(metadata)
    if isinstance(told, dict):
        hosts = {name: value for name, value in told.items() if name.endswith("_host") and isinstance(value, str)}
        masked["all_settings"] = told | {name: without_password(value) for name, value in hosts.items()}
    if isinstance(sessions, list):
        masked["sessions"] = [
            session | {name: hide_in(session[name]) for name in ("command", "servers") if name in session}
            if isinstance(session, dict)
            else session
            for session in sessions
        ]
    return masked


def readable_text(records: Iterable[dict]) -> str:
    """The text of `name.txt`: question, nudging words, answer, score and gold answer; control characters as escapes."""
    blocks = []
    for record in records:
        number = f", answer {record.get('answer_number', 1)}" if "answers" in record else ""
        parts = [f"[{record['index']}{number}] {asked_text(record)}"]
        if "error" in record:
            parts.append(f"FAILED: {record['error']}")
        else:
            if "all_nudging_words" in record:
                parts.append(f"Nudging words: {record['all_nudging_words']}")
            parts.append(f"Answer ({record.get('stop_reason') or 'no stop reason'}): {record['raw_answer']}")
            parts.append(f"Scores: {json.dumps(record['scores']) if record.get('scores') else 'none'}")
        parts.append(f"Gold answer: {record.get('gold_answer', '')}")
        blocks.append("\n".join(parts))
    return visible(("\n" + "-" * 80 + "\n").join(blocks) + "\n")
