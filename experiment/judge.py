"""A judge model scores answers: a model behind a server, a GGUF file, or a transformers model in this process.

Which data set is judged how, and by which model, is the nudging paper's (arXiv 2410.09300, section 4).
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from command.errors import OptionError, UserError
from command.files import ResultsError
from command.pool import as_finished
from command.secrets import NEUTRAL_API_KEY
from command.stopping import StopSignals
from command.unexpected import Unexpected, plain, traceback_of
from datasets_loader import DataSet
from experiment.judge_settings import RULE, JudgeSettings
from experiment.judgements import (
    JUDGE,
    PUBLISHED,
    Judged,
    Scoring,
    judge_prompt,
    published_count,
    read_judgement,
    reply_schema,
)
from experiment.rules import is_scored, lacks_verdict, other_judges
from experiment.scorers import BY_RULE, SCORERS
from language_models.hosted.chat import HostedChatModel
from language_models.hosted.llama_cpp import (
    TOKENS_PER_CL100K_TOKEN,
    EmbeddedServerError,
    is_gguf,
    serve,
    threads_per_model,
)
from language_models.interface import ChatModel, ModelError
from language_models.json_replies import UNREADABLE_TRIES, ReplyTally, UnreadableObject
from utils import count_tokens

REPLY_TOKENS = 2048  # for a judge that thinks aloud


@contextlib.contextmanager
def open_judge(
    name: str, settings: JudgeSettings, schema: dict, prompts: Iterable[tuple[str, str]], say: Callable[[str], None]
) -> Iterator[ChatModel]:
    """A judge for the length of the context.

    Args:
        name: the judge model's.
        schema: the JSON schema of its replies, to which llama.cpp holds a GGUF model.
        prompts: what it will be asked, from which a model served by this process knows how long its texts are.
        say: told what has to be known of it.

    Raises:
        OptionError, EmbeddedServerError, ModelError: a model of this process cannot be loaded.
    """
    requests = {name: getattr(settings, name) for name in ("request_timeout", "max_retries", "max_outage")} | {
        "say": say
    }
    if not settings.is_own(name):
        key = settings.key or NEUTRAL_API_KEY
        yield HostedChatModel(name, settings.judge_host, key, num_threads=settings.num_threads, **requests)
    elif is_gguf(name):
        longest = max(sum(map(count_tokens, prompt)) for prompt in prompts)
        served = serve(
            name,
            num_threads=settings.num_threads,
            context_length=TOKENS_PER_CL100K_TOKEN * longest + REPLY_TOKENS,
            model_threads=threads_per_model(1),
        )
        with served as host:
            say(f"the judge {name} is served at {host}")
            limits = {"schema": schema, "max_tokens": REPLY_TOKENS}
            yield HostedChatModel(name, host, NEUTRAL_API_KEY, num_threads=settings.num_threads, **requests, **limits)
    else:
        from experiment.local_judge import LocalChatModel

        yield LocalChatModel(name, settings, REPLY_TOKENS, say)


@dataclass
class _Stop:
    """Ends the judging by signals, or when there is no sense in it."""

    signals: StopSignals
    tally: ReplyTally | None

    @property
    def requested(self) -> bool:
        return self.signals.requested or (self.tally is not None and self.tally.hopeless)

    @property
    def overdue(self) -> bool:
        return self.signals.overdue


def unjudged(records: list[dict], scoring: Scoring, unreadable: str) -> list[dict]:
    """The answers that a judge has to score; see `lacks_verdict`. Without a gold answer there is nothing to judge a verdict by."""
    lacking = [record for record in records if "error" not in record and lacks_verdict(record, scoring, unreadable)]
    return [record for record in lacking if scoring != "judge" or str(record.get("gold_answer", "")).strip()]


def judge_records(
    records: list[dict],
    scoring: Scoring,
    settings: JudgeSettings,
    judge: ChatModel,
    save: Callable[[dict], None],
    say: Callable[[str], None] = lambda line: None,
    unexpected: Unexpected | None = None,
) -> Judged:
    """Score answers by a judge, side by side.

    Args:
        records: what `unjudged` found; changed in place.
        save: called with {"index", "scores", "judge_replies"} as soon as a record is judged, readably or not.
        say: told that a signal stops it.
        unexpected: keeps the errors that nobody expected; told by `say` where there is none.
    """
    unexpected = unexpected or Unexpected(say)
    came = Judged(counted=settings.unreadable_judgements == PUBLISHED)
    tally = ReplyTally()

    def judged(record: dict) -> tuple[list[str], dict | None, str]:
        found = _replies(record, scoring, judge)
        tally.add(found[1] is not None)
        return found

    with StopSignals(say) as signals:
        stop = _Stop(signals, None if came.counted else tally)
        found = as_finished(judged, records, judge.num_threads, stop=stop)
        with contextlib.closing(found):
            for record, told in tqdm(found, total=len(records), desc=f"judging by {judge.name}", unit="answer"):
                if isinstance(told, BaseException):  # one odd record must not end the judging of the others
                    if isinstance(told, UserError) and not isinstance(told, ModelError):
                        raise told
                    expected = isinstance(told, ModelError)
                    if trace := told.traceback if expected else traceback_of(told):
                        unexpected.add(trace)
                    came.failed, came.error = came.failed + 1, str(told) if expected else plain(told)
                    continue
                replies, scores, why = told
                came.read, came.unreadable = came.read + bool(scores), came.unreadable + (not scores)
                if why and not scores:
                    came.quoted = came.quoted or why
                    scores = published_count(scoring) if came.counted else None
                scores = scores and scores | {"judge": judge.name}
                more = {"scores": scores, "judge_replies": {"judge": judge.name, "replies": replies}}
                record |= more
                save({"index": record["index"]} | more)
    came.gave_up = tally.hopeless and not came.counted
    came.exit_code = signals.exit_code
    return came


def _replies(record: dict, scoring: Scoring, judge: ChatModel) -> tuple[list[str], dict | None, str]:
    """The judge's replies on a record, the scores in the last one, or why there are none.

    Raises:
        ModelError: the judge did not answer, after all retries.
    """
    replies, why = [], ""
    for _ in range(UNREADABLE_TRIES):
        reply = judge.ask(*judge_prompt(record, scoring))
        replies.append(reply.text)
        try:
            return replies, read_judgement(reply.text, scoring, cut_off=reply.finish_reason == "length"), why
        except UnreadableObject as error:
            why = str(error)
    return replies, None, why


def refuse_other_judges(
    records: list[dict], scoring: Scoring, settings: JudgeSettings, data_set: DataSet, path: Path
) -> None:
    """Raise ResultsError where records have scores of another judge: they were paid for, and a mixture would be no figure.

    A judge that is not named goes on where other models have judged, as is told in the summary, but not where a rule has.
    """
    by_rule, judge = settings.judge == RULE, settings.name_for(data_set)
    others = other_judges(records, scoring, judge)
    if not by_rule and not settings.judge_model:
        others = {name: number for name, number in others.items() if name.startswith(BY_RULE)}
    if others:
        told = ", ".join(f"{number} by {name}" for name, number in others.items())
        asked, keep = f"--judge_model {judge}", "leave --judge_model out to keep them"
        if by_rule:
            asked, keep = f"--judge rule ({judge})", "leave --judge out to keep them"
        elif not settings.judge_model:
            asked, keep = f"the judge {judge}", "take --judge rule to go on with them"
        raise ResultsError(
            f"{path} has scores already ({told}), which {asked} does not replace: {keep}, or score all answers anew by "
            "eval_utils.py --rescore, which copies the old file aside"
        )


def score_by_reading(records: list[dict], name: str, save: Callable[[dict], None]) -> Judged:
    """Score answers by a rule of ours in the place of a judge, in place; `name` is the rule's, see `name_of_rule`."""
    scorer = SCORERS[name.removeprefix(BY_RULE).split()[0]]
    for record in records:
        if (scores := scorer.score(record)) is not None:
            record["scores"] = scores | {"judge": name}
            save({"index": record["index"], "scores": record["scores"]})
    return Judged(read=sum(is_scored(record, JUDGE) for record in records))


def judge_missing(
    records: list[dict],
    scoring: Scoring,
    settings: JudgeSettings,
    name: str,
    save: Callable[[dict], None],
    say: Callable[[str], None],
    unexpected: Unexpected | None = None,
) -> Judged:
    """Score what has no scores yet by the judge model `name`; see `judge_records`.

    A judge that cannot be loaded is a failure of all judgements, since what was computed before has still to be written.
    """
    todo = unjudged(records, scoring, settings.unreadable_judgements)
    unscored = sum("error" not in record and not is_scored(record, scoring) for record in records)
    without_gold = unscored - sum(not is_scored(record, scoring) for record in todo)
    if not todo:
        return Judged(without_gold=without_gold)
    if settings.judge == RULE:
        return replace(score_by_reading(todo, name, save), without_gold=without_gold)
    prompts = [judge_prompt(record, scoring) for record in todo]
    try:
        with open_judge(name, settings, reply_schema(scoring), prompts, say) as judge:
            return replace(
                judge_records(todo, scoring, settings, judge, save, say, unexpected), without_gold=without_gold
            )
    except (OptionError, EmbeddedServerError, ModelError) as error:
        return Judged(failed=len(todo), error=str(error), without_gold=without_gold)
