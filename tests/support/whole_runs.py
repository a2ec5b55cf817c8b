"""What tests of whole runs look at: the fields that say what was answered, and errors as a user meets them."""

import subprocess

TEXT_FIELDS = ("index", "question", "raw_answer", "all_nudging_words", "all_completions", "stop_reason", "scores")


def texts(records: list[dict]) -> list[dict]:
    return [{field: record[field] for field in TEXT_FIELDS} for record in records]


def plain_error(finished: subprocess.CompletedProcess, code: int = 2) -> str:
    """The last lines of a run that could not start: one or two, and no traceback."""
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    message = [line for line in finished.stderr.splitlines() if "error: " in line]
    assert len(message) == 1 and len(finished.stderr.strip().splitlines()) <= 2, finished.stderr
    return message[0]
