"""The answers that are looked at: records of runs, or texts of one's own, and the prompt that each model scores them behind."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from command.errors import UserError
from command.files import ResultsError
from command.schema import read_as
from experiment.prompts import PromptBuilder
from experiment.record_tables import RunMetadata
from experiment.result_files import ResultFiles, read_records
from experiment.summary import is_nudged
from language_models.chat_templates import Turn
from questions.files import rows_of
from questions.rows import examples_of
from utils import without_surrogates

SYSTEM_PROMPT = "You are a helpful assistant."


class AnalysisError(UserError):
    """An analysis that cannot be made; the message says of what, why, and what to do."""


@dataclass(frozen=True)
class Answer:
    """An answer: `name` says which for people, `turns` what was asked; `nudging_words` and `pieces` are those of a nudging run."""

    name: str
    text: str
    turns: tuple[tuple[str, str], ...]
    nudging_words: tuple[str, ...] | None = None
    pieces: tuple[str, ...] = ()

    def prompt(self, build: PromptBuilder) -> str:
        """A model's prompt, as run_api.py writes it (PromptError: it cannot be written)."""
        if [role for role, _ in self.turns] == ["system", "user"]:
            return build(self.turns[0][1], self.turns[1][1])
        return build.conversation([Turn(role, text) for role, text in self.turns])


@dataclass(frozen=True)
class Answers:
    """All answers; `left_out` says of which there is none and why, `told` what made them: a line for each file."""

    answers: list[Answer]
    left_out: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def read_answers(results: Sequence[Path], texts: Sequence[Path], most: int | None) -> Answers:
    """The answers of result files of run_api.py and of files with questions and answers.

    Args:
        most: the first so many of each file; None for all.

    Raises:
        ResultsError, DataError, AnalysisError: a file cannot be read, or holds no answer.
    """
    found = Answers([])
    several = len(results) + len(texts) > 1
    for path, read in [(path, _of_run) for path in results] + [(path, _of_texts) for path in texts]:
        before = len(found.answers)
        read(path, most, f"{path.name}, " if several else "", found)
        if len(found.answers) == before:
            raise AnalysisError(f"{path} holds no answer that could be looked at")
    return found


def _of_run(path: Path, most: int | None, before: str, found: Answers) -> None:
    files = ResultFiles.of(path)
    if path.suffix == ".txt":
        path = files.json if files.json.exists() else files.jsonl
    elif path.name.endswith((".run.json", ".summary.json")):
        raise ResultsError(f"{path} holds no answers; name the .json or .jsonl of the run")
    records, run = read_records(path), read_as_run(files)
    settings = run.settings
    if settings.get("few_shot"):
        raise AnalysisError(
            f"{path} was made with --few_shot {settings['few_shot']}, and its records do not hold those questions: the prompts "
            "cannot be written again"
        )
    number = 0
    for record in records[:most]:
        name = f"{before}sample {record['index']}"
        if "error" in record:
            found.left_out.append(f"{name}: it has no answer ({record['error']})")
        elif not record["raw_answer"]:
            found.left_out.append(f"{name}: its answer is empty")
        else:
            found.answers.append(_of_record(name, record))
            number += 1
    found.told.append(f"{number} answers of {path.name}{_told_of(settings)}")


def read_as_run(files: ResultFiles) -> RunMetadata:
    """A run's metadata, without any where no run.json is there (ResultsError: it is damaged)."""
    return read_as(RunMetadata, files.read_run(), files.run, ResultsError, remedy="mend it")


def _told_of(settings: dict) -> str:
    names = [settings[role] for role in ("base_model", "nudging_model", "proxy_chat_model") if settings.get(role)]
    names = [re.split(r"[/\\]", str(name).rstrip("/\\"))[-1] for name in names]
    parts = [str(settings.get("exp", "")), str(settings.get("dataset_name") or ""), " + ".join(names)]
    if settings.get("exp") == "nudging":
        criterion = settings.get("criterion", "top_prob")
        number = settings.get("top_prob_thres" if criterion == "top_prob" else "threshold")
        parts.append(f"criterion {criterion}, threshold {'none' if number is None else f'{number:g}'}")
        if settings.get("blend") is not None:
            parts.append(f"blend {settings['blend']}")
    told = ", ".join(part for part in parts if part)
    return f" ({told})" if told else ""


def _of_record(name: str, record: dict) -> Answer:
    def text(key: str) -> str:
        return record[key] if isinstance(record.get(key), str) else ""

    user = text("context") + text("q_prefix") + record["question"]
    history = [(turn["role"], turn["content"]) for turn in record.get("history") or []]
    systems = [record[key] for key in record if key.startswith("system_prompt_") and isinstance(record[key], str)]
    system = systems[0] if systems else SYSTEM_PROMPT
    own = any(role == "system" for role, _ in history)
    turns = ([] if own or not system else [("system", system)]) + history + [("user", user)]
    nudged = is_nudged(record)
    return Answer(
        name,
        without_surrogates(record["raw_answer"]),
        tuple(turns),
        tuple(record["all_nudging_words"]) if nudged else None,
        tuple(record["all_completions"]) if nudged else (),
    )


def _of_texts(path: Path, most: int | None, before: str, found: Answers) -> None:
    rows, _ = rows_of(path)
    number = 0
    for example in examples_of(rows)[:most]:
        name = f"{before}row {example.id}"
        if not example.gold:
            found.left_out.append(f"{name}: it has no answer")
            continue
        history = list(example.history)
        own = any(role == "system" for role, _ in history)
        turns = ([] if own else [("system", SYSTEM_PROMPT)]) + history + [("user", example.context + example.question)]
        found.answers.append(Answer(name, without_surrogates(example.gold), tuple(turns)))
        number += 1
    found.told.append(f"{number} texts of {path.name}")


def prompts_of(
    answers: Sequence[Answer], builders: dict[str, PromptBuilder], failed: Callable[[Answer, UserError], None]
) -> dict[int, dict[str, str]]:
    """Each answer's prompts by role, by the answer's place; `failed` is told of those that cannot be written."""
    found = {}
    for number, answer in enumerate(answers):
        try:
            found[number] = {role: answer.prompt(build) for role, build in builders.items()}
        except UserError as error:
            failed(answer, error)
    return found
