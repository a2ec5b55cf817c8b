"""One run: what earlier sessions have left, the answers of this one, their scores, and the files of results."""

import contextlib
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field, replace

from tqdm import tqdm

from command.console import visible
from command.errors import UserError
from command.files import ResultsError
from command.pool import as_finished
from command.provenance import git_commit, now, version, versions
from command.schema import shown
from command.secrets import without_password
from command.stopping import StopSignals
from command.unexpected import Unexpected, traceback_of
from datasets_loader import DataSet, Example, fingerprint
from experiment.command_line import COMMAND
from experiment.conversations import asked_prompt, system_of
from experiment.judge import judge_missing, refuse_other_judges
from experiment.judgements import Judged, is_judged
from experiment.prompts import PromptBuilder, PromptError
from experiment.result_files import ResultFiles, readable_text
from experiment.rules import is_scored, score_by_rule
from experiment.sample import answer_one
from experiment.scoring import drop_other_scores, lacks_scores, score_all, used_scoring
from experiment.settings import ONLY_WHERE_GIVEN, RunSettings
from experiment.summary import Summary, summarise
from language_models.interface import SharedModel
from utils import INSTRUCT_TEMPLATES, apply_instruct_template, without_surrogates

KEPT_OF_EARLIER_SESSIONS = ("sessions", "answers_of_unknown_settings", "merged_from", "merged_at")


@dataclass
class Run:
    """One run of an experiment, whose files are locked by the caller.

    `examples` are the questions of all shards, `records` the finished records of this run by index, `metadata` what run.json holds;
    `unscorable`: answers for which a scorer has failed.
    """

    settings: RunSettings
    files: ResultFiles
    examples: list[Example]
    prompt_builders: dict[str, PromptBuilder]
    records: dict[int, dict] = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    unscorable: int = 0
    unexpected: Unexpected = field(default_factory=lambda: Unexpected(COMMAND.note))

    @property
    def why_no_judge(self) -> str:
        """Why a judge's scores are left out; "" where there is a judge, or none is needed."""
        return self.settings.judge_settings.why_none(self.data_set)

    @property
    def data_set(self) -> DataSet:
        """What is asked; questions of one's own are scored as before, unless another --scoring is named."""
        data_set = self.settings.data_set
        return (
            replace(data_set, scoring=self.metadata.get("scoring", data_set.scoring)) if data_set.is_own else data_set
        )

    @property
    def wanted(self) -> list[int]:
        """The indices of the samples that this run is about: with several answers to a question each is one."""
        n, questions = self.settings.answers, self.settings.shard_indices(len(self.examples))
        return [question * n + number for question in questions for number in range(n)]

    def example_of(self, index: int) -> Example:
        """The question of a sample."""
        return self.examples[index // self.settings.answers]

    @property
    def todo(self) -> list[int]:
        """The indices of the samples that have no answer yet."""
        return [index for index in self.wanted if index not in self.records]

    @property
    def ordered(self) -> list[dict]:
        """The records in the order of the samples."""
        return [self.records[index] for index in sorted(self.records)]

    @property
    def is_scored(self) -> bool:
        """Whether every answer has scores."""
        scoring = self.data_set.scoring
        return not is_judged(scoring) or all(is_scored(record, scoring) for record in self.records.values())

    @property
    def scoring_command(self) -> str:
        """The command that scores the results later."""
        settings = self.settings
        words = ["python", "eval_utils.py", str(self.files.json)]
        own = self.data_set.is_own
        words += ["--scoring", self.data_set.scoring] if own else ["--dataset_name", settings.dataset_name]
        in_process = settings.judge_settings.is_own(settings.judge_settings.name_for(self.data_set))
        options = ("judge_model", "judge_host", "judge_api_key_env", "unreadable_judgements")
        for option in (*options, *(("device", "dtype", "engine") if in_process else ())):
            if (value := getattr(settings, option)) != getattr(RunSettings, option):
                words += [f"--{option}", without_password(value) if option == "judge_host" else value]
        return shlex.join(words)

    def read_earlier(self) -> None:
        """Take over what earlier sessions have left: their metadata and finished records; nothing of them with --rerun.

        Raises:
            ResultsError: the files are another run's, or cannot be read.
        """
        settings, files = self.settings, self.files
        self.metadata = {
            "settings": settings.decisive,
            "all_settings": asdict(settings),
            "samples": len(self.wanted),
            "samples_of_all_shards": len(self.examples) * settings.answers,
            "questions_sha256": fingerprint(self.examples),
            "sessions": [],
        }
        if self.data_set.is_own:
            self.metadata["scoring"] = settings.scoring
        if settings.rerun:
            return
        records = {record["index"]: record for record in files.records() if "error" not in record}
        before = files.read_run()
        then = before.get("settings", {})
        # Templates are compared by the prompts that they made, where the records have them.
        told = all(f"full_prefix_{role}" in record for role in settings.models for record in records.values())
        known = {"base_template", "nudging_template"} & set(then) & set(settings.decisive) if told else set()
        differing = [name for name in settings.differing(then) if name not in known]
        if records and before and differing:
            changes = ", ".join(
                f"--{name} was {_told(then, name)}, is {_told(settings.decisive, name)}" for name in differing
            )
            raise ResultsError(
                f"{files.jsonl} was started with other settings: {changes}. "
                "Use the same ones, another --exp_prefix or --output_dir, or start afresh with --rerun"
            )
        if others := [index for index, record in records.items() if not self._is_asked(index, record["question"])]:
            which = f"sample {others[0]}" + f" and {len(others) - 1} more" * (len(others) > 1)
            blanks = all(self._is_asked(index, records[index]["question"], blanks=False) for index in others)
            raise ResultsError(
                f"{files.jsonl}: asked another question than the {'file' if settings.questions else 'data set'} has now in {which}"
                + (" (blanks at its ends alone differ: earlier versions cut them off)" if blanks else "")
                + f"; use {'the earlier version' if blanks else 'the same data'}, another --output_dir, "
                "or start afresh with --rerun"
            )
        if records and before:  # another name for what makes the same prompts; shards are compared by name
            for record in records.values():
                self._check_prompts(record)
            self.metadata["settings"] = settings.decisive | {name: then[name] for name in known}
        if self.data_set.is_own:
            self.metadata["scoring"] = used_scoring(settings.scoring, before.get("scoring"))
            self._take_over_answers(records)
        if is_judged(self.data_set.scoring) and not self.why_no_judge:
            judge, scoring = settings.judge_settings, self.data_set.scoring
            refuse_other_judges(list(records.values()), scoring, judge, self.data_set, files.json)
        if records and not before:
            self.metadata["answers_of_unknown_settings"] = len(records)
        self.metadata |= {name: before[name] for name in KEPT_OF_EARLIER_SESSIONS if name in before}
        self.records = records

    def _take_over_answers(self, records: dict[int, dict]) -> None:
        """Let records have what the file says now of their answers and columns, and no scores that another way of scoring gave."""
        changed = 0
        for index, record in records.items():
            example = self.example_of(index)
            if record.get("gold_answer") != example.gold:
                changed += 1
                record["scores"] = None
                record.pop("judge_replies", None)
            record |= {"gold_answer": example.gold, "columns": example.columns, "id": example.id}
        if changed:
            COMMAND.note(f"{changed} answers to compare with have changed in the file since; these are scored anew")
        drop_other_scores(records.values(), self.data_set.scoring, self.files.jsonl)

    def _is_asked(self, index: int, question: str, *, blanks: bool = True) -> bool:
        """Whether this run asks a question as its sample of that index; with or without the blanks at its ends."""
        if index // self.settings.answers not in self.settings.shard_indices(len(self.examples)):
            return False
        now = self.example_of(index).question
        return question == now if blanks else question.strip() == now.strip()

    def _check_prompts(self, record: dict) -> None:
        """Raise ResultsError if a finished record was asked in other prompts than the others would be."""
        example = self.example_of(record["index"])
        user = example.context + self.data_set.question_prefix + example.question
        system_now = system_of(self.data_set, example)
        for role, builder in self.prompt_builders.items():
            for name in (f"full_prefix_{role}", f"system_prompt_{role}"):
                if not isinstance(record.get(name), str | None):
                    raise ResultsError(
                        f"{self.files.jsonl}, sample {record['index']}: {name} must be a text or null; it is "
                        f"{shown(record[name])}; mend it in the file, or start afresh with --rerun"
                    )
            then = record.get(f"full_prefix_{role}")
            try:
                same = then is None or without_surrogates(then) == asked_prompt(self.data_set, example, builder)
            except PromptError:
                same = False
            if same:
                continue
            system = record.get(f"system_prompt_{role}")
            system = system_now if system is None else system
            families = [f for f in INSTRUCT_TEMPLATES if apply_instruct_template("", system, user, family=f) == then]
            option = "--base_template" if role.endswith("base") else "--nudging_template"
            remedy = f"go on with {option} {families[0]}" if families else f"use the {option} and the data of then"
            if system != system_now:
                remedy = f"its system prompt was {shown(system)}, and is {shown(system_now)}: go on with that one"
            raise ResultsError(
                f"{self.files.jsonl}: its sample {record['index']} was asked of the {role} model in another prompt than "
                f"this command would ask; {remedy}, or take another --exp_prefix or --output_dir, or start afresh with --rerun"
            )

    def answer_and_score(self, models: dict[str, SharedModel], request_mode: str) -> int:
        """Answer what is to do, score, write and summarise.

        Args:
            models: by role; none where all is answered.
            request_mode: see READERS.

        Returns:
            The exit code: 0, 1 (samples failed or could not be scored), or that of the signal that stopped it.

        Raises:
            ResultsError: the results cannot be written.
        """
        files, todo = self.files, self.todo
        session = {
            "start": now(),
            "versions": versions(self._packages(models)),
            "version": version(),
            "git_commit": git_commit(),
            "command": sys.argv,
            "calls": request_mode,
            "templates": {role: builder.template for role, builder in self.prompt_builders.items()},
            "servers": {role: model.report for role, model in models.items()},
        }
        if todo:
            self.metadata["sessions"].append(session)
            files.write_run(self.metadata)
        started, stopped, judged, total = time.monotonic(), 0, Judged(), len(self.records) + len(todo)
        try:
            if todo:
                stopped = self._answer(todo, models, request_mode)
            if self.data_set.scoring == "rule" and not self.data_set.is_own:
                score_by_rule(self.ordered)
            elif not is_judged(self.data_set.scoring):
                self.unscorable = score_all(self.ordered, self.data_set.scoring, COMMAND.note)
            elif not stopped and not self.why_no_judge:
                settings = self.settings.judge_settings
                name, scoring = settings.name_for(self.data_set), self.data_set.scoring
                judged = judge_missing(
                    self.ordered, scoring, settings, name, files.append, COMMAND.note, self.unexpected
                )
                stopped = judged.exit_code
        except Exception as error:
            self._keep_faults(session, error)
            raise
        finally:
            session |= {"end": now(), "seconds": round(time.monotonic() - started, 3) if todo else 0}
            session["usage"] = {role: asdict(model.usage) for role, model in models.items()}
            session["usage_by_host"] = {role: model.usage_by_host for role, model in models.items()}
            self._keep_faults(session)
            with contextlib.suppress(ResultsError):  # where the disk is full, the error under way says more
                if session in self.metadata["sessions"]:
                    files.write_run(self.metadata)
        if stopped:
            files.close_log()
            COMMAND.note(
                f"interrupted: {len(self.records)} of {total} answers are saved; {self.settings.same_command} continues"
            )
            return stopped
        try:
            return self._finish(judged)
        except Exception as error:
            self._keep_faults(session, error)
            with contextlib.suppress(ResultsError):
                if "ended_by" in session:
                    files.write_run(self.metadata)
            raise

    def _keep_faults(self, session: dict, error: Exception | None = None) -> None:
        """Put what nobody expected into a session, and that one into run.json; the command tells it."""
        trace = getattr(error, "traceback", "")
        if error is not None and not isinstance(error, UserError):
            trace = traceback_of(error)
        if trace:
            session["ended_by"] = trace
        if self.unexpected.found:
            session["unexpected_errors"] = self.unexpected.found
        if {"ended_by", "unexpected_errors"} & session.keys() and session not in self.metadata["sessions"]:
            self.metadata["sessions"].append(session)

    def _packages(self, models: dict[str, SharedModel]) -> set[str]:
        """The packages that have a part in the answers."""
        settings = self.settings
        sampled = {"numpy"} if settings.num_samples is not None else set()
        read = set() if settings.data_dir or settings.questions else {"datasets"}
        prompts = {package for builder in self.prompt_builders.values() for package in builder.packages}
        return {"tiktoken", *sampled, *read, *prompts, *(name for model in models.values() for name in model.packages)}

    def _answer(self, todo: list[int], models: dict[str, SharedModel], request_mode: str) -> int:
        """Answer samples over a thread pool, adding to the records and the log; the exit code of what stopped it, or 0."""
        settings, judged = self.settings, is_judged(self.data_set.scoring)
        stop = StopSignals(COMMAND.note)
        started, done, failed = time.monotonic(), 0, 0
        scores: list[float] = []
        # A log file of a batch job gets a line now and then; a terminal is kept up to date.
        live = sys.stderr.isatty()
        label = f"{settings.exp} {settings.dataset_name}"
        bar = tqdm(total=len(todo), desc=label, unit="answer", mininterval=0.5 if live else 30)
        answers = as_finished(
            lambda i: answer_one(
                settings, self.data_set, i, self.example_of(i), self.prompt_builders, models, request_mode
            ),
            todo,
            settings.num_threads,
            stop=stop,
            idle=bar.refresh if live else lambda: None,
        )
        with stop, bar, contextlib.closing(answers):
            for _, record in answers:
                if isinstance(record, BaseException):
                    raise record
                if trace := record.pop("traceback", ""):
                    self.unexpected.add(trace)
                self.files.append(record)
                self.records[record["index"]] = record
                done += 1
                failed += "error" in record
                told = record.get("scores") or {}
                scores += [told[name] for name in ("correct", "score") if name in told][:1]
                figures = {"correct": f"{sum(scores):g}/{len(scores)}"} if scores else {}
                if failed:
                    figures["failed"] = failed
                requests = sum(model.usage.requests for model in models.values())
                rate = f"{requests / (time.monotonic() - started):.1f}"
                bar.set_postfix(figures | {"requests/s": rate}, refresh=False)
                bar.update()
        # With all samples answered there is nothing to stop, unless a judge would follow.
        return stop.exit_code if done < len(todo) or judged else 0

    def _finish(self, judged: Judged) -> int:
        """Say what came of the run, and write the results (ResultsError: they cannot be written; the figures are shown)."""
        files, ordered, again = self.files, self.ordered, self.settings.same_command
        summary, fault = self._summary(ordered), None
        try:
            files.write_final(ordered, readable_text(ordered))
            files.write_run(self.metadata)
            files.write_summary(summary.fields)
        except ResultsError as error:
            fault = error
        print(visible(str(summary)))
        if fault is None:
            print(f"\nresults: {files.txt} and {files.json}")
        if failed := summary.fields["failed"]:
            error = next(record["error"] for record in ordered if "error" in record)
            COMMAND.note(f"{failed} of {len(ordered)} samples failed; {again} tries them again; the first: {error}")
        for line in judged.in_words(again):
            COMMAND.note(line)
        if self.why_no_judge and summary.fields["unscored"]:
            COMMAND.note(f"not scored yet; to score: {self.scoring_command}")
        if fault is not None:
            raise fault
        unscored = summary.fields["unscored"] and self.settings.judge != "none"
        if self.data_set.is_own:
            lacking = self.settings.judge != "none" and lacks_scores(ordered, self.data_set.scoring)
            unscored = lacking or self.unscorable
        return 1 if failed or unscored or judged.left_out else 0

    def _summary(self, ordered: list[dict]) -> Summary:
        seconds = sum(past.get("seconds", 0) for past in self.metadata["sessions"])
        return summarise(ordered, self.data_set.scoring, seconds=seconds)


def _told(decisive: dict, name: str) -> str:
    """A decisive setting for a message."""
    return "the default" if name in ONLY_WHERE_GIVEN and name not in decisive else shown(decisive.get(name))
