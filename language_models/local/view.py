"""A continuation of a model in this process, computed as it is read, and what it looks ahead at."""

import itertools
import math
import weakref
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from language_models.interface import SEEDS, Completion, ContextLengthError, ModelError, SamplingParams, Token, Usage
from language_models.local.cache import CachedSample
from language_models.local.drafts import CERTAIN, DraftRate, look_up
from language_models.local.segments import Sampling
from language_models.local.vocabulary import GrowingText

if TYPE_CHECKING:
    from language_models.local.model import LocalModel

LONGEST_PROPOSAL, LONGEST_DRAFT = 32, 16
FIRST_WORDS = 4  # tokens of a continuation that are written at once where the rest may ride along
MOST_SAMPLES = 3  # texts of one view that are written at a time: the newest, and those whose rest rides along
ONE_TOKEN = Usage(completion_tokens=1)
CERTAIN_LOGPROB = math.log(CERTAIN)


class LocalStream:
    """A continuation that is computed as it is read; see TokenStream."""

    def __init__(
        self,
        view: "LocalView",
        prompt: str,
        ids: list[int],
        drafted: list[int],
        params: SamplingParams,
    ):
        self.finish_reason: str | None = None
        self.usage = Usage(requests=1, prompt_tokens=len(ids))
        self._view, self._text, self._ids, self._drafted = view, prompt, list(ids), drafted
        self._left, self._logprobs = params.max_tokens, params.logprobs
        self._top = 0 if params.logprobs is None else max(1, params.logprobs)
        # With a seed, what is drawn depends on nothing else.
        chance = view.chance if params.seed is None else torch.Generator().manual_seed(params.seed % SEEDS)
        self._sampling = Sampling(params.temperature, params.top_p, chance) if params.temperature else None
        self._growing = GrowingText(view.model.vocabulary, ids)
        # Tokens that will be read whatever they are: those of a stream whose probabilities nobody looks at.
        greedy = params.logprobs is None and not self._sampling and not drafted
        self._rides = greedy and view.rides_along and not (view.drafting and view.model.draft_ahead)
        self._until, self._slices = len(ids) + params.max_tokens, 0
        self._sample = None if self._rides else view.sample
        self._closed = False
        view.model.count(self.usage)

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        if self._closed or self.finish_reason:
            raise StopIteration
        if self._rides:
            return self._next_words()
        vocabulary = self._view.model.vocabulary
        found = self._sample.next_token(self._ids, self._top, self._sampling, self._draft)
        self._drafted = self._drafted[1:] if self._drafted[:1] == [found.token] else []
        self._ids.append(found.token)
        self._left -= 1
        self.usage.completion_tokens += 1
        self._view.model.count(ONE_TOKEN)
        if found.token in vocabulary.end_ids:
            self.finish_reason = "stop"
        elif not self._left:
            self.finish_reason = "length"
        text = self._growing.add(found.token)
        self._text += text
        if self._logprobs is None:
            return Token(text, ())
        top: dict[str, float] = {}
        for token, logprob in sorted(found.top, key=lambda pair: -pair[1]):
            top.setdefault(text if token == found.token else vocabulary.text_of(token), logprob)
        return Token(text, tuple(top.items()))

    def close(self) -> None:
        """See TokenStream."""
        self._closed = True
        if self._rides and self._sample and not self._sample.held:
            self._sample.stop_riding()

    def _next_words(self) -> Token:
        """As many tokens as are known, as one, and at least one. What is left rides along in other passes."""
        if self._sample is None:
            self._sample = self._view.sample_for(self._ids)
            self._sample.read_by(self)
        sample, ends = self._sample, self._view.model.vocabulary.end_ids
        found = sample.at_hand(self._ids, self._left)
        if not found:
            # First what another model may begin with; whoever reads on wants the rest.
            ahead = min(self._left, LONGEST_DRAFT if self._slices else FIRST_WORDS) - 1
            self._slices += 1
            first = sample.next_token(self._ids, 0, ahead=ahead)
            found = sample.at_hand(self._ids, self._left) or [first]
        tokens = [token.token for token in found]
        if end := next((i for i, token in enumerate(tokens, 1) if token in ends), 0):
            del tokens[end:]
            self.finish_reason = "stop"
        elif len(tokens) == self._left:
            self.finish_reason = "length"
        else:
            sample.ride(self._until, ends)
        self._ids += tokens
        self._left -= len(tokens)
        counted = Usage(completion_tokens=len(tokens))
        self.usage.add(counted)
        self._view.model.count(counted)
        text = self._growing.add(*tokens)
        self._text += text
        return Token(text, (), len(tokens))

    @property
    def open(self) -> bool:
        """Whether more may be read."""
        return not self._closed and self.finish_reason is None

    @property
    def at_hand(self) -> bool:
        """Whether the next token is known, so that reading it takes no pass."""
        return bool(self._rides and self.open and self._sample and self._sample.at_hand(self._ids, 1))

    def _draft(self) -> tuple[DraftRate | None, list[int]]:
        """Tokens that may follow, as many as it pays to look at, and where they come from."""
        model = self._view.model
        rates, engine = model.draft_rates, model.engine
        if self._drafted:
            rate, most = rates["caller"], min(LONGEST_PROPOSAL, len(self._drafted), self._left - 1)
            return rate, self._drafted[: rate.length(most, engine.cost, engine.samples_per_pass)]
        most = min(LONGEST_DRAFT, self._left - 1)
        if not model.draft_ahead:
            return None, []
        if guess := look_up(self._ids, self._sample.cut_off):
            rate = rates["lookup"]
            if length := rate.length(min(most, len(guess)), engine.cost, engine.samples_per_pass):
                return rate, guess[:length]
        if self._view.drafting:
            rate, small = rates["drafter"], model.drafter.engine
            # The draft model's passes are shared by fewer samples than this model's, so that a token for all takes several.
            each = small.step_cost(small.samples_per_pass) * engine.samples_per_pass / small.samples_per_pass
            if length := rate.length(most, engine.cost, engine.samples_per_pass, each):
                guess = self._guess(length)
                if small.writes_ahead and len(guess) < length:
                    # What stands behind a token that is not certain has been written, and paid for, all the same.
                    rate.record(1, 0)
                return rate, guess
        return None, []

    def _guess(self, length: int) -> list[int]:
        """The draft model's continuation, in this model's tokens."""
        model, sample = self._view.model, self._view.drafting
        words, own = model.drafter.vocabulary, model.vocabulary
        ids = list(self._ids) if model.same_tokens else list(words.encode(self._text))
        begin = len(ids)
        # Models of one tokenizer may differ in how many ids beyond its own they have.
        if max(ids) >= model.drafter.engine.vocabulary_size:
            return []
        while len(ids) - begin < length and len(ids) < model.drafter.context_length:
            ahead = min(length - (len(ids) - begin), model.drafter.context_length - len(ids)) - 1
            found = sample.next_token(ids, 1, ahead=max(0, ahead))
            if found.token in words.end_ids or found.top[0][1] < CERTAIN_LOGPROB:
                break
            ids.append(found.token)
        if model.same_tokens:
            return list(itertools.takewhile(lambda token: token < model.engine.vocabulary_size, ids[begin:]))
        text = words.decode(ids[begin:])
        longer = own.encode(self._text + text)
        fits = longer[: len(self._ids)] == self._ids
        return (longer[len(self._ids) :] if fits else own.encode(text, special=False))[:length]


class LocalView:
    """The model as one sample sees it."""

    runs_ahead = False

    def __init__(self, model: "LocalModel", sample_id: object):
        self.model = model
        self.sample = CachedSample(model.slots)
        self.drafting = CachedSample(model.drafter.slots) if model.drafter else None
        # A seed for each sample: what is drawn does not depend on what other samples do.
        seed = f"{model.name}\n{sample_id}"  # two models' chances have nothing to do with each other
        self.chance = torch.Generator().manual_seed(zlib.crc32(seed.encode("utf-8", "surrogatepass")))
        self.samples = [self.sample]
        for sample in filter(None, (self.sample, self.drafting)):
            weakref.finalize(self, sample.slots.release, sample)

    @property
    def rides_along(self) -> bool:
        """See language_models.interface.rides_along."""
        return self.model.engine.writes_ahead

    def sample_for(self, ids: list[int]) -> CachedSample:
        """A place for the continuation of a text: where the same is being written, or where its beginning is and nobody reads.

        Where all of them may still be read it is a new one, or the oldest one if there is no slot.
        """
        if any((same := sample).common(ids) == len(ids) for sample in self.samples):
            return same
        free = [sample for sample in self.samples if not sample.held]
        if free:
            return max(free, key=lambda sample: sample.common(ids))
        if len(self.samples) < MOST_SAMPLES and self.model.slots.free:
            sample = CachedSample(self.model.slots)
            weakref.finalize(self, self.model.slots.release, sample)
        else:
            sample = self.samples.pop(0)
            sample.stop_riding()
        self.samples.append(sample)
        return sample

    @property
    def name(self) -> str:
        return self.model.name

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """See LanguageModel."""
        stream = self.stream(prompt, params)
        tokens = tuple(stream)
        text = "".join(token.text for token in tokens)
        return Completion(text, tokens if params.logprobs is not None else (), stream.finish_reason, stream.usage)

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> LocalStream:
        """See LanguageModel. A token is computed when it is read, at the latest."""
        encode = self.model.vocabulary.encode
        ids = encode(prompt)
        if not ids:
            raise ModelError(f"{self.name}: the prompt is empty, and the tokenizer adds no beginning of sequence")
        size = self.model.engine.vocabulary_size
        # On a GPU a pass over such an id would end all passes that follow, of all samples.
        if (highest := max(ids)) >= size:
            raise ModelError(
                f"{self.name}: the prompt has the token {self.model.vocabulary.decode([highest], names=True)!r} (id {highest}), "
                f"for which the model, of {size} tokens, has no embedding"
            )
        if len(ids) + params.max_tokens > self.model.context_length:
            raise ContextLengthError(
                f"{self.name}: a prompt of {len(ids)} tokens and {params.max_tokens} more do not fit into the context window of "
                f"{self.model.context_length} tokens"
            )
        drafted = []
        if draft and not params.temperature:
            longer = encode(prompt + draft)
            # Where the words of the draft change how the prompt is cut into tokens, the prompt goes alone.
            if longer[: len(ids)] == ids and max(longer) < size:
                drafted = longer[len(ids) :]
        return LocalStream(self, prompt, ids, drafted, params)
