"""Why nudging works, for a pair and answers of one's own: tables, plots and a page.

scripts/analyse.sh outputs/gsm8k/all_info/....json --base_model BASE --base_host URL --nudging_model CHAT --nudging_host URL
"""

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from analysis.analyses import ANALYSES, LARGE, NEEDS, NUDGES, PLACES
from analysis.answers import AnalysisError, Answers, prompts_of, read_answers
from analysis.nudges import units
from analysis.page import Findings, cells, published_rows, write_files
from analysis.places import LOGPROBS, compare, same_tokens
from analysis.scores import ScoreLog, score_all, wanted_scores
from analysis.settings import NAME, AnalysisSettings, build_parser, settings_of
from command.console import INCOMPLETE, Command, visible
from command.files import exclusively
from command.paths import user_path
from command.secrets import without_password
from experiment.connect import Lengths, connect
from experiment.names import last_part
from experiment.prompts import PromptBuilder, prompt_builders
from language_models.hosted.replicas import Replicas
from language_models.hosted.text_scores import ServerScorer
from language_models.interface import SharedModel
from language_models.scored_text import TextScorer
from utils import count_tokens

COMMAND = Command(NAME)
SHOWN_ERRORS = 5


def main(argv: list[str] | None = None) -> int:
    """Analyse answers.

    Returns the exit code: 0, 1 (some answers could not be scored), 2 (cannot start), 130 (interrupted), 143 (SIGTERM).
    """
    parser = build_parser()
    options = parser.parse_args(argv)

    def work() -> int:
        if not options.results and not options.texts:
            raise AnalysisError("name a result file of run_api.py, or --texts FILE with questions and answers")
        if options.num_samples is not None and options.num_samples < 1:
            raise AnalysisError(f"--num_samples must be at least 1; it is {options.num_samples}")
        settings = settings_of(options)
        answers = read_answers(options.results, options.texts, options.num_samples)
        builders = prompt_builders(settings, COMMAND.note) if settings.base_model else {}
        there = {PLACES: bool(builders), LARGE: bool(settings.aligned_model)}
        there[NUDGES] = any(answer.nudging_words is not None for answer in answers.answers)
        missing = [f"{name}: it needs {NEEDS[one.needs]}" for name, one in ANALYSES.items() if not there[one.needs]]
        if not any(there.values()):
            raise AnalysisError(
                f"nothing can be counted: these answers are of no nudging run, and there are no models ({NEEDS[PLACES]})"
            )
        if options.dry_run:
            return dry_run(answers, builders, settings, missing)
        return Work(settings, answers, builders, user_path(options.output_dir), missing).run()

    return COMMAND.run(work, interrupted="interrupted; the same command continues")


def dry_run(
    answers: Answers, builders: Mapping[str, PromptBuilder], settings: AnalysisSettings, missing: list[str]
) -> int:
    """Say what would be done."""
    lines = [
        *answers.told,
        *(f"left out: {line}" for line in answers.left_out),
        *(f"left out: {line}" for line in missing),
    ]
    first = answers.answers[0]
    for role, build in builders.items():
        model = settings.models[role]
        where = f"at {without_password(model.host)}" if model.host else "in this process"
        lines.append(f"\n--- {role}: {model.name} {where}, template {build.template}; the prompt of {first.name}:")
        lines.append(first.prompt(build) + f"<<<the {len(first.text)} characters of its answer are scored>>>")
    COMMAND.show(visible("\n".join([*lines, "", "dry run: nothing was sent"])))
    return 0


class Work:
    """One analysis: scores, places, tables."""

    def __init__(
        self,
        settings: AnalysisSettings,
        answers: Answers,
        builders: dict[str, PromptBuilder],
        folder: Path,
        missing: list[str],
    ):
        self.settings, self.answers, self.builders, self.folder = settings, answers, builders, folder
        self.left_out = [*answers.left_out, *missing]
        self.failed: list[str] = []
        self.engines: dict[str, dict[str, None]] = {}  # by role, each once

    def run(self) -> int:
        """Do it; the exit code."""
        with exclusively(self.folder / ".analysis.lock", self.folder / "scores.jsonl", "--output_dir"):
            places, told = [], list(self.answers.told)
            if self.builders:
                log = ScoreLog(self.folder / "scores.jsonl")
                log.read()
                if code := self._score(log):
                    COMMAND.note("interrupted; what is scored is kept, and the same command continues")
                    return code
                places, lines = self._places(log)
                told += lines
            of_nudging, odd = units(self.answers.answers)
            self.left_out += [
                f"{name}: its parts in the record are not its text, so that nudges cannot be placed" for name in odd
            ]
            rows = {PLACES: places, LARGE: places if self.settings.aligned_model else [], NUDGES: of_nudging}
            tables = {name: one.rows(rows[one.needs]) for name, one in ANALYSES.items() if rows[one.needs]}
            if not tables:
                raise AnalysisError(f"nothing could be counted: {'; '.join(self.failed[:1] + self.left_out[:1])}")
            names = [answer.name for answer in self.answers.answers]
            caption = self._caption(len(places), len(of_nudging))
            left_out = [*self.failed, *self.left_out]
            found = Findings("Why nudging works: " + self._pair(), caption, told, tables, names, places, left_out)
            written = write_files(self.folder, found)
        self._show(found)
        COMMAND.show(f"\n{len(written)} files in {self.folder}; the page: {written[-1]}")
        return INCOMPLETE if self.failed else 0

    def _fail(self, name: str, error: object) -> None:
        self.failed.append(f"{name}: {error}")

    def _score(self, log: ScoreLog) -> int:
        """Have what is not known scored; the exit code of what stopped it, or 0."""
        answers, settings = self.answers.answers, self.settings
        prompts = prompts_of(answers, self.builders, lambda answer, error: self._fail(answer.name, error))
        models = {role: settings.depends_on(role) for role in settings.roles}
        self.wanted = wanted_scores(answers, prompts, models, LOGPROBS)
        todo = [one for one in self.wanted if one.key not in log.known]
        if len(todo) < len(self.wanted):
            COMMAND.note(f"{len(self.wanted) - len(todo)} of {len(self.wanted)} scores are known from earlier")
        if not todo:
            return 0
        with contextlib.ExitStack() as servers:
            connected = connect(settings, self._lengths(todo), servers, COMMAND.note)
            scorers = {role: scorer_of(model) for role, model in connected.items()}
            engines = {role: engine_of(model) for role, model in connected.items()}
            for role, scorer in scorers.items():
                self._tell_how(role, scorer, [one for one in todo if one.role == role])
            return score_all(
                todo,
                scorers,
                engines,
                log,
                logprobs=LOGPROBS,
                num_threads=settings.num_threads,
                say=COMMAND.note,
                failed=lambda one, error: self._fail(f"{answers[one.number].name}, {one.role}", error),
            )

    def _lengths(self, todo: list) -> Lengths:
        texts = sorted((one.prompt + one.text for one in todo), key=len)[-64:]
        return Lengths(texts, lambda: max(map(count_tokens, texts)))

    def _tell_how(self, role: str, scorer: TextScorer, todo: list) -> None:
        line = f"{scorer.name} ({role}): {scorer.how}"
        if isinstance(scorer, ServerScorer) and not scorer.echoes:
            line += f", for about {sum(count_tokens(one.text) for one in todo):,} places"
        COMMAND.note(line)

    def _places(self, log: ScoreLog) -> tuple[list, list[str]]:
        """The places of all answers that every model has scored, and lines on those that cannot be compared."""
        scores: dict[int, dict] = {}
        for one in self.wanted:
            if one.key in log.known:
                scores.setdefault(one.number, {})[one.role] = log.known[one.key]
                self.engines.setdefault(one.role, {})[log.engines[one.key]] = None
        whole = {number: by_role for number, by_role in scores.items() if len(by_role) == len(self.settings.roles)}
        exact = same_tokens(whole.values())
        places, reasons = [], Counter()
        for number, by_role in sorted(whole.items()):
            found, left_out = compare(number, self.answers.answers[number].text, by_role, exact)
            places += found
            reasons += left_out
        total = len(places) + sum(reasons.values())
        lines = [f"{len(places):,} of {total:,} places of {len(whole)} answers are compared"]
        if reasons:
            told = "; ".join(f"{reason} ({count:,})" for reason, count in reasons.most_common())
            lines[0] += f"; not compared: {told}"
        if places:
            off = sum(not place.own for place in places)
            lines.append(
                f"the aligned model's most probable token is the text's own at {len(places) - off:,} of {len(places):,} places"
            )
            how = "by their whole text" if exact else "by their beginnings, as the models' tokenizers differ"
            lines.append(f"tokens are compared {how}")
        return places, lines

    def _pair(self) -> str:
        models = [last_part(model.name) for model in self.settings.models.values()] if self.builders else []
        return " + ".join(models) or "answers of nudging runs"

    def _caption(self, places: int, of_nudging: int) -> str:
        parts = [f"{places:,} places"] * bool(places) + [f"{of_nudging:,} words and signs of nudging runs"] * bool(
            of_nudging
        )
        lines = [f"n: {' and '.join(parts)} of {len(self.answers.answers)} answers; 95 % intervals over answers"]
        for role, model in self.settings.models.items() if self.builders else ():
            lines.append(f"{role}: {last_part(model.name)} ({', '.join(self.engines.get(role, ())) or 'no scores'})")
        return "\n".join([*lines, *self.answers.told])

    def _show(self, found: Findings) -> None:
        lines = list(found.told)
        for name, rows in found.tables.items():
            lines += ["", f"{ANALYSES[name].what} ({name}; the paper: {ANALYSES[name].paper})"]
            lines += ["  " + "  ".join(cells(row)[:4]) + f"  n {row.n:,}" for row in rows if row.n]
        if published := published_rows(found.tables):
            lines += ["", "Beside the paper's figures, which are of other models:"]
            lines += [
                f"  {what}: {figure} ({models}, {source}); here {ours} ({interval}), n {n}"
                for what, figure, models, source, ours, interval, n in published
            ]
        COMMAND.show(visible("\n".join(lines)))
        for line in self.failed[:SHOWN_ERRORS]:
            COMMAND.note(f"not scored: {line}")
        if len(self.failed) > SHOWN_ERRORS:
            COMMAND.note(f"not scored: {len(self.failed) - SHOWN_ERRORS} more; all are on the page")
        for line in self.left_out:
            COMMAND.note(f"left out: {line}")


def engine_of(model: SharedModel) -> str:
    """What computes a model, in a few words; of several servers the first one's."""
    report = model.report[0] if isinstance(model.report, list) else model.report
    return report.get("engine") or "a server that does not name its engine"


def scorer_of(model: SharedModel) -> TextScorer:
    """What scores texts by a model."""
    if isinstance(model, Replicas):
        return ServerScorer(model)
    from language_models.local.text_scores import LocalScorer

    return LocalScorer(model)
