"""Scores of answers by models, in a log that an interrupted analysis goes on from."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from analysis.answers import Answer
from command.errors import UserError
from command.files import ResultsError
from command.json_log import JsonLog, not_an_object, whole_lines
from command.paths import read_text
from command.pool import as_finished
from command.stopping import StopSignals
from language_models.interface import DeviceLostError
from language_models.scored_text import ScoredToken, TextScorer

Tokens = tuple[ScoredToken, ...]
ONE = "score"  # what the progress bar counts


def key_of(how: Mapping[str, object], prompt: str, text: str, logprobs: int) -> str:
    """By what a score is known again: the model and how it computes, its prompt, the text, and how much is asked of each place."""
    content = json.dumps([dict(how), prompt, text, logprobs], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass
class ScoreLog:
    """The log of scores; `known` has them by key, `engines` what computed each. Lines of other programs are refused."""

    path: Path
    known: dict[str, Tokens] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self._log = JsonLog(self.path, "--output_dir")

    def read(self) -> None:
        """Take over what an earlier command has left.

        Raises:
            ResultsError: the log cannot be read.
        """
        if not self.path.exists():
            return
        try:
            text = read_text(self.path)
        except (OSError, ValueError) as error:
            raise ResultsError(f"{self.path} cannot be read ({error})") from None
        for number, entry in whole_lines(text):
            try:
                if not isinstance(entry, dict):
                    raise ValueError(not_an_object(entry))
                key, engine = _text(entry["key"]), _text(entry["engine"])
                self.known[key], self.engines[key] = tuple(_token(*token) for token in entry["tokens"]), engine
            except (KeyError, TypeError, ValueError) as error:
                raise ResultsError(
                    f"{self.path}, line {number}: no scores of this program ({error}); delete it, or take another --output_dir"
                ) from None

    def open(self, say: Callable[[str], None]) -> None:
        """Open it for appending (ResultsError: it cannot be written)."""
        self._log.open(lambda: (self._entry(key, tokens) for key, tokens in self.known.items()), say)

    def add(self, key: str, tokens: Tokens, engine: str) -> None:
        """Keep a score; it is on the disk when this returns (ResultsError: it cannot be written)."""
        self.engines[key] = engine
        self._log.append(self._entry(key, tokens))
        self.known[key] = tokens

    def close(self) -> None:
        """Close it."""
        self._log.close()

    def _entry(self, key: str, tokens: Tokens) -> dict:
        told = [[t.start, t.text, t.logprob, [list(pair) for pair in t.top]] for t in tokens]
        return {"key": key, "engine": self.engines[key], "tokens": told}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is none")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise TypeError("a number is none")
    return value


def _token(start: int, text: str, logprob: float | None, top: list) -> ScoredToken:
    if type(start) is not int or start < 0:
        raise TypeError("an offset is none")
    own = None if logprob is None else _number(logprob)
    return ScoredToken(start, _text(text), own, tuple((_text(t), _number(p)) for t, p in top))


@dataclass(frozen=True)
class Wanted:
    """One score that is wanted: of an answer (its number) by the model of a role."""

    number: int
    role: str
    key: str
    prompt: str
    text: str


def wanted_scores(
    answers: list[Answer],
    prompts: Mapping[int, Mapping[str, str]],
    models: Mapping[str, Mapping[str, object]],
    logprobs: int,
) -> list[Wanted]:
    """All scores that are wanted; `models` says for each role what a score of it depends on."""
    return [
        Wanted(number, role, key_of(models[role], prompt, answers[number].text, logprobs), prompt, answers[number].text)
        for number, by_role in prompts.items()
        for role, prompt in by_role.items()
    ]


def score_all(
    wanted: list[Wanted],
    scorers: Mapping[str, TextScorer],
    engines: Mapping[str, str],
    log: ScoreLog,
    *,
    logprobs: int,
    num_threads: int,
    say: Callable[[str], None],
    failed: Callable[[Wanted, UserError], None],
) -> int:
    """Have the models score what is not known yet; the exit code of the signal that stopped it, or 0.

    Args:
        scorers, engines: by role, what scores and what computes there.
        failed: told of scores that there are none of, and why.

    Raises:
        DeviceLostError, ResultsError: nothing more can be computed, or written.
    """
    todo = list({one.key: one for one in wanted if one.key not in log.known}.values())
    if not todo:
        return 0
    stop, live = StopSignals(say), sys.stderr.isatty()
    bar = tqdm(total=len(todo), desc="scores", unit=ONE, mininterval=0.5 if live else 30)
    work = as_finished(
        lambda one: scorers[one.role].score(one.prompt, one.text, logprobs), todo, num_threads, stop=stop
    )
    done = 0
    log.open(say)
    try:
        with stop, bar, contextlib.closing(work):
            for one, found in work:
                done += 1
                bar.update()
                if isinstance(found, DeviceLostError) or (
                    isinstance(found, BaseException) and not isinstance(found, UserError)
                ):
                    raise found
                if isinstance(found, UserError):
                    failed(one, found)
                else:
                    log.add(one.key, found, engines[one.role])
    finally:
        log.close()
    return stop.exit_code if done < len(todo) else 0
