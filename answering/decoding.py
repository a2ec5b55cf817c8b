"""What a pair writes: the nudging loop, or one of its models alone, over models that can be cancelled and are metered."""

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace

from answering.answer import Answer
from answering.conversations import Prompts
from answering.endings import Part
from answering.sampling import Asked, By
from answering.settings import LoadSettings
from language_models.cancelling import Cancellation
from language_models.hosted.llama_cpp import TOKENS_PER_CL100K_TOKEN
from language_models.interface import ContextLengthError, Metered, SamplingParams, SharedModel
from language_models.tokenizing import TextTokenizer
from nudging import Criterion, NudgingResult, Piece, answer_stream
from utils import count_tokens

# A base model's token is at most as many cl100k_base tokens as this, in scripts for which few of these were made: a loop goes on
# until max_tokens cut its answer.
CL100K_TOKENS_PER_TOKEN = 4
LONGEST_TOKEN = 128  # characters, of cl100k_base
FEWEST_TOKENS = 16  # of one model alone, whose prompt is too long where the window has no room for these


@dataclass
class Decoding:
    """How a pair writes; models and tokenizers by role. Safe to use from many threads."""

    settings: LoadSettings
    models: dict[str, SharedModel]
    tokenizers: dict[str, TextTokenizer]
    criterion: str | Criterion
    request_mode: str
    _numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and answer can have together, in the model with the smaller window; None where it is not known."""
        known = (model.context_length for model in self.models.values())
        return min((length for length in known if length), default=None)

    def parts(
        self, prompts: Prompts, asked: Asked, cancellation: Cancellation, answer: Answer
    ) -> Generator[Part, None, str]:
        """The pieces of an answer as they are final, before stop sequences and `max_tokens`; returns why it ends.

        Args:
            answer: whose usage is counted.
        """
        number = next(self._numbers)
        if asked.by == "pair":
            asked.criterion_of(self.settings, self.criterion)
        roles = ("base", "nudging") if asked.by == "pair" else (asked.by,)
        models = {role: Metered(cancellation.wrap(self.models[role].for_sample(number))) for role in roles}
        answer.usage = {role: model.usage for role, model in models.items()}
        if asked.by == "pair":
            return self._nudged(prompts, asked, models)
        return self._alone(getattr(prompts, asked.by), asked, models[asked.by])

    def _nudged(self, prompts: Prompts, asked: Asked, models: dict[str, Metered]) -> Generator[Part, None, str]:
        settings = self.settings.nudging_settings
        sampled = {"base_temperature": asked.temperature, "nudging_temperature": asked.temperature}
        sampled |= {"base_top_p": asked.top_p, "nudging_top_p": asked.top_p, "seed": asked.seed}
        criterion, number = asked.criterion_of(self.settings, self.criterion)
        sampled |= {"threshold": number, "max_token_total": asked.max_token_total}
        if asked.max_tokens and asked.max_token_total is None:
            sampled["max_token_total"] = self._room(prompts, asked.max_tokens)
        settings = replace(settings, **{name: value for name, value in sampled.items() if value is not None})
        result = NudgingResult()
        pieces = answer_stream(
            models["base"],
            models["nudging"],
            prompts.base,
            prompts.nudging,
            settings,
            request_mode=self.request_mode,
            result=result,
            criterion=criterion,
        )
        with closing(pieces):
            for number, piece in enumerate(pieces):
                yield Part(piece, number)
        if result.context_error and not result.text:
            raise result.context_error
        return result.stop_reason

    def _room(self, prompts: Prompts, max_tokens: int) -> int:
        """For how many cl100k_base tokens a loop is asked whose answer is cut at `max_tokens` of the base model's.

        Not for more than the context windows have room for: requests for more are refused, and then every call is sent by itself.
        """
        wanted, window = CL100K_TOKENS_PER_TOKEN * max_tokens, self.context_length
        if window is None:
            return wanted
        call = self.settings.completion_token_num + self.settings.completion_token_num_nudging
        longest = max(prompts.base, prompts.nudging, key=len)
        if len(longest) > LONGEST_TOKEN * window:  # to count its tokens would take long, and tell no more
            return max(1, min(wanted, call))
        taken = TOKENS_PER_CL100K_TOKEN * max(count_tokens(prompts.base), count_tokens(prompts.nudging))
        return max(1, min(wanted, max(window - taken - call, call)))

    def _alone(self, prompt: str, asked: Asked, model: Metered) -> Generator[Part, None, str]:
        """One model's own answer, as --exp base_only and nudging_only have it."""
        role, settings = asked.by, self.settings.models[asked.by]
        shared = self.models[role]
        logprobs = settings.logprobs if shared.streams(True) else None
        temperature = settings.temperature if asked.temperature is None else asked.temperature
        top_p = settings.top_p if asked.top_p is None else asked.top_p
        most = asked.max_tokens or asked.max_token_total or self.settings.max_token_total
        given = asked.max_tokens or asked.max_token_total
        streams, written = shared.streams(logprobs is not None), False
        while True:
            params = SamplingParams(most, temperature, top_p, logprobs, asked.seed)
            with closing(_whole_or_streamed(model, prompt, params, role, streams)) as parts:
                try:
                    while True:
                        part = next(parts)
                        written = True
                        yield part
                except StopIteration as end:
                    return end.value
                except ContextLengthError:
                    # Nobody has asked for that many, and the window may have room for fewer.
                    if written or given or most <= FEWEST_TOKENS:
                        raise
            most = max(FEWEST_TOKENS, most // 2)


def _whole_or_streamed(
    model: Metered, prompt: str, params: SamplingParams, role: By, streams: bool
) -> Generator[Part, None, str]:
    if not streams:
        completion = model.complete(prompt, replace(params, logprobs=None))
        yield Part(Piece(completion.text, role), 0)
        return completion.finish_reason
    with closing(model.stream(prompt, params)) as stream:
        for number, token in enumerate(stream):
            yield Part(Piece(token.text, role, token.top_prob if token.top else None), number)
        return stream.finish_reason
