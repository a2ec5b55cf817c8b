"""Whether a server's log-probabilities are those of a language model, judged by what it writes after a few prompts.

Only what no model can do is refused. A model may be certain of how a text goes on that repeats itself, but not of each token after
an open beginning; no two positions of different texts have the same probability to the last digit, let alone all; and what a model
thinks of the next token does not depend on how it is going to be drawn.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from language_models.hosted.background import begin
from language_models.hosted.probe_requests import ProbeRequests
from language_models.hosted.refused_fields import REFUSALS
from language_models.hosted.server_report import ServerReport
from language_models.interface import (
    END_OF_SEQUENCE,
    ContextLengthError,
    ModelError,
    ProbabilityError,
    SamplingParams,
    Token,
)

# Servers that draft (speculative decoding) draft here: by the last few tokens, or, as llama.cpp's ngram-simple, where what follows
# them has not begun to repeat within a dozen tokens.
REPEATING_PROMPTS = tuple(", ".join(str(1 + i % cycle) for i in range(n)) + "," for cycle, n in ((4, 23), (9, 39)))
ENOUGH_TOKENS = 12  # fewer are not judged together
CERTAIN = -1e-6  # above it a log-probability is 0, but for rounding
# Natural logarithm. Two requests for the same text differ by 0.02 to 0.1 in bfloat16, depending on what else is in the batch;
# temperature 0.9 moves the first token of an open text by about 0.5.
SAME_PROBABILITY = 0.3

REMEDY = "The model's own are needed, before temperature and sampling (vLLM: --logprobs-mode raw_logprobs)"


def check_logprobs(
    requests: ProbeRequests,
    report: ServerReport,
    asked: SamplingParams,
    written: Sequence[Token],
    prompts: Sequence[str],
) -> None:
    """Refuse log-probabilities that no model gives; where only those of streams are such, say so and do without streams.

    Args:
        requests: how the server is asked.
        report: of the server; says whether it streams.
        asked: what the run's requests ask for, at enough tokens.
        written: what the model has written after the first prompt.
        prompts: open beginnings.

    Raises:
        ProbabilityError: those of whole completions are such.
        ModelError: the server does not answer.
    """
    drawn = asked.temperature != 1 or asked.top_p != 1

    @functools.cache
    def first_top(prompt: str) -> dict[str, float]:
        try:
            undrawn = SamplingParams(1, 1.0, 1.0, asked.logprobs)
            return dict(requests.complete("log-probabilities", prompt, undrawn).tokens[0].top)
        except ModelError as error:
            if error.status in REFUSALS and not isinstance(error, ContextLengthError):
                return {}  # the run does not ask for this: nothing is known then
            raise

    def streamed(prompt: str) -> list[Token]:
        return requests.stream(prompt, asked, [])

    def completed(prompt: str) -> tuple[Token, ...]:
        return requests.complete("log-probabilities", prompt, asked).tokens

    # Side by side: a server writes several short texts in the time of one.
    writing = {
        (form, prompt): begin(functools.partial(form, prompt))
        for form in ([streamed] if report.streams_logprobs else []) + [completed]
        for prompt in (prompts[1], *REPEATING_PROMPTS)
    }

    def check(form: Callable[[str], Sequence[Token]]) -> None:
        def write(prompt: str) -> Sequence[Token]:
            return writing[form, prompt].result() if (form, prompt) in writing else form(prompt)

        # Without lists of the most probable tokens only the drawn token's probability is seen.
        lists_top = requests.endpoint.reader.lists_top
        fault = find_fault(written, prompts[1:], write, first_top if drawn and lists_top else None)
        if fault:
            raise ProbabilityError(f"{requests.endpoint.where}: {fault}")

    if report.streams_logprobs:
        try:
            check(streamed)
        except ContextLengthError:
            raise
        except ModelError as error:
            report.streams_logprobs, report.why_not_streamed = False, str(error)
            report.warnings.append(f"the streams of {report.host} are not used: {error}")
    # Runs that use streams ask for whole completions too: --calls published, and where another model's server has none.
    check(completed)


def find_fault(
    first_written: Sequence[Token],
    open_prompts: Sequence[str],
    write: Callable[[str], Sequence[Token]],
    first_top: Callable[[str], Mapping[str, float]] | None,
) -> str | None:
    """What is wrong with a server's log-probabilities; None where nothing is seen.

    Args:
        first_written: what the model has written after another open prompt than these; judged where there is too little else.
        open_prompts: two of which no model knows how they go on.
        write: has a prompt continued as the run has it, and reads the tokens as the run reads them.
        first_top: the log-probabilities of the first token after a prompt at temperature 1, by text; None where this is what the
            run asks for, or cannot be seen.

    Raises:
        ProbabilityError: a token has none, or a value above 0.
        ModelError: the server does not answer.
    """
    opened = list(write(open_prompts[0]))
    of_open_texts = _logprobs(opened)
    if len(of_open_texts) < ENOUGH_TOKENS:
        of_open_texts += _logprobs(first_written)
    of_all = of_open_texts + _logprobs([token for prompt in REPEATING_PROMPTS for token in _if_it_fits(write, prompt)])
    if len(of_open_texts) >= ENOUGH_TOKENS and min(of_open_texts) > CERTAIN:
        return f"all {len(of_open_texts)} log-probabilities of an open text are 0, as if nothing else could follow. {REMEDY}"
    if len(of_all) >= ENOUGH_TOKENS and len(set(of_all)) == 1:
        return f"all {len(of_all)} tokens after prompts that differ have the log-probability {of_all[0]:.4g}. {REMEDY}"
    if first_top is None:
        return None
    for prompt in open_prompts:
        text, asked = _first(opened if prompt == open_prompts[0] else write(prompt))
        at_1 = first_top(prompt).get(text, math.nan)  # of the same token: some servers list the drawn one alone
        if not abs(asked - at_1) > SAME_PROBABILITY:
            return None
    return (
        f"after {open_prompts[-1]!r} its most probable token has the probability {math.exp(asked):.3f} as the run asks for it, "
        f"and {math.exp(at_1):.3f} at temperature 1 and top_p 1. {REMEDY}"
    )


def _logprobs(tokens: Sequence[Token]) -> list[float]:
    """The highest log-probability at each position that the server has told of."""
    return [token.top[0][1] for token in tokens if token is not END_OF_SEQUENCE]


def _first(tokens: Sequence[Token]) -> tuple[str, float]:
    """The most probable first token and its log-probability."""
    return tokens[0].top[0] if tokens and tokens[0] is not END_OF_SEQUENCE else ("", math.nan)


def _if_it_fits(write: Callable[[str], Sequence[Token]], prompt: str) -> Sequence[Token]:
    try:
        return write(prompt)
    except ContextLengthError:
        return ()
