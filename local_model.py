"""A language model in this process: transformers and torch, a key-value cache for each sample, and passes that samples share.

The speed comes from what a pass computes being kept. A sample's text only grows and is cut back, so its cache holds all but the
newest tokens; and of a text that may follow (`draft`: the nudging model's words, say) one pass tells at each token what the
model would have written there. Greedy text does not depend on drafts, nor on what else is computed at the same time, but for
the rounding of numbers.
"""

import math
import threading
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from drafts import CERTAIN, DraftRate, look_up
from growing_text import GrowingText, Vocabulary
from language_models import Completion, ContextLengthError, LanguageModel, ModelError, Token, Usage
from packed_attention import Sampling
from packed_passes import Engine
from pass_worker import Worker
from sample_cache import CachedSample, CacheRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST_PROPOSAL, LONGEST_DRAFT = 32, 16
CERTAIN_LOGPROB = math.log(CERTAIN)
_workers: dict[torch.device, Worker] = {}


class LocalModel:
    """A model in this process, for many samples at once; safe to use from many threads.

    `usage` counts as for a server: a stream or completion is a request. What was computed for it: `engine.passes`.

    Args:
        name: what the model is called in results.
        model, tokenizer: in transformers' form; the model on its device.
        end_ids: the ids that end an answer.
        context_length: most tokens of prompt and answer together.
        samples: how many samples are answered at the same time; each has a row of the cache.
        draft_ahead: look ahead of the text where nobody names a draft, by what stood in it before and by the `drafter`.
        drafter: a small model that drafts for this one, where that pays.
    """

    runs_ahead = False

    def __init__(
        self,
        name: str,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        end_ids: frozenset[int],
        context_length: int,
        samples: int = 1,
        draft_ahead: bool = True,
        drafter: "LocalModel | None" = None,
    ):
        self.name = name
        self.vocabulary = Vocabulary(tokenizer, end_ids)
        self.context_length = context_length
        self.engine = Engine(model, slots=samples, longest=context_length)
        self.rows = CacheRows(self.engine, _workers.setdefault(model.device, Worker()))
        self.usage = Usage()
        self.draft_ahead, self.drafter = draft_ahead, drafter
        self.same_tokens = drafter is not None and tokenizer.get_vocab() == drafter.vocabulary.tokenizer.get_vocab()
        self.draft_rates = {source: DraftRate() for source in ("caller", "lookup", "drafter")}
        self._lock = threading.Lock()
        self._own = threading.local()
        self.engine.measure()

    @property
    def memory(self) -> int:
        """Bytes of the weights and of the cache, which has grown to what the longest text needed."""
        weights = {p.data_ptr(): p.numel() * p.element_size() for p in self.engine.model.parameters()}
        return sum(weights.values()) + self.engine.cache.bytes

    def for_sample(self, sample_id: object) -> LanguageModel:
        """The model as one sample sees it, with a cache of its own, which is given back when the view is dropped."""
        return _View(self, sample_id)

    def complete(self, prompt: str, **options) -> Completion:
        """See LanguageModel; each thread counts as a sample."""
        return self._of_thread().complete(prompt, **options)

    def stream(self, prompt: str, **options) -> "LocalStream":
        """See LanguageModel; each thread counts as a sample."""
        return self._of_thread().stream(prompt, **options)

    def _of_thread(self) -> "_View":
        if not hasattr(self._own, "view"):
            self._own.view = _View(self, threading.get_ident())
        return self._own.view

    def count(self, usage: Usage) -> None:
        """Add what was asked to `self.usage`."""
        with self._lock:
            self.usage.add(usage)


class _View:
    """The model as one sample sees it."""

    runs_ahead = False

    def __init__(self, model: LocalModel, sample_id: object):
        self.model = model
        self.sample = CachedSample(model.rows)
        self.drafting = CachedSample(model.drafter.rows) if model.drafter else None
        # A seed for each sample: what is drawn does not depend on what other samples do.
        self.chance = torch.Generator().manual_seed(zlib.crc32(str(sample_id).encode("utf-8", "surrogatepass")))
        for sample in filter(None, (self.sample, self.drafting)):
            weakref.finalize(self, sample.rows.release, sample)

    @property
    def name(self) -> str:
        return self.model.name

    def complete(
        self, prompt: str, *, max_tokens: int, temperature: float, top_p: float = 1.0, logprobs: int | None = None
    ) -> Completion:
        """See LanguageModel."""
        options = {"temperature": temperature, "top_p": top_p, "logprobs": logprobs}
        stream = self.stream(prompt, max_tokens=max_tokens, **options)
        tokens = tuple(stream)
        text = "".join(token.text for token in tokens)
        return Completion(text, tokens if logprobs is not None else (), stream.finish_reason, stream.usage)

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        logprobs: int | None = None,
        draft: str = "",
    ) -> "LocalStream":
        """See LanguageModel. A token is computed when it is read, at the latest."""
        encode = self.model.vocabulary.encode
        ids = encode(prompt)
        if not ids:
            raise ModelError(f"{self.name}: the prompt is empty, and the tokenizer adds no beginning of sequence")
        if len(ids) + max_tokens > self.model.context_length:
            raise ContextLengthError(
                f"{self.name}: a prompt of {len(ids)} tokens and {max_tokens} more do not fit into the context window of "
                f"{self.model.context_length} tokens"
            )
        drafted = []
        if draft and not temperature:
            longer = encode(prompt + draft)
            # Where the words of the draft change how the prompt is cut into tokens, the prompt goes alone.
            if longer[: len(ids)] == ids:
                drafted = longer[len(ids) :]
        sampling = Sampling(temperature, top_p, self.chance) if temperature else None
        return LocalStream(self, prompt, ids, drafted, max_tokens, sampling, logprobs)


class LocalStream:
    """A continuation that is computed as it is read; see TokenStream."""

    def __init__(
        self,
        view: _View,
        prompt: str,
        ids: list[int],
        drafted: list[int],
        max_tokens: int,
        sampling: Sampling | None,
        logprobs: int | None,
    ):
        self.finish_reason: str | None = None
        self.usage = Usage(requests=1, prompt_tokens=len(ids))
        self._view, self._text, self._ids, self._drafted = view, prompt, list(ids), drafted
        self._left, self._sampling, self._logprobs = max_tokens, sampling, logprobs
        self._top = 0 if logprobs is None else max(1, logprobs)
        self._growing = GrowingText(view.model.vocabulary, ids)
        self._counted = Usage()
        self._closed = False
        self._count()

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        if self._closed or self.finish_reason:
            raise StopIteration
        vocabulary = self._view.model.vocabulary
        found = self._view.sample.next_token(self._ids, self._top, self._sampling, self._draft)
        self._drafted = self._drafted[1:] if self._drafted[:1] == [found.token] else []
        self._ids.append(found.token)
        self._left -= 1
        self.usage.completion_tokens += 1
        self._count()
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

    def _count(self) -> None:
        """Hand what is new in `usage` on to the model's."""
        now, before = asdict(self.usage), asdict(self._counted)
        self._view.model.count(Usage(**{name: now[name] - before[name] for name in now}))
        self._counted = Usage(**now)

    def _draft(self) -> tuple[DraftRate | None, list[int]]:
        """Tokens that may follow, as many as it pays to look at, and where they come from."""
        model = self._view.model
        rates, engine = model.draft_rates, model.engine
        if self._drafted:
            rate, most = rates["caller"], min(LONGEST_PROPOSAL, len(self._drafted), self._left - 1)
            return rate, self._drafted[: rate.length(most, engine.cost, engine.rows)]
        most = min(LONGEST_DRAFT, self._left - 1)
        if not model.draft_ahead:
            return None, []
        if guess := look_up(self._ids, self._view.sample.cut_off):
            rate = rates["lookup"]
            if length := rate.length(min(most, len(guess)), engine.cost, engine.rows):
                return rate, guess[:length]
        if self._view.drafting:
            rate, small = rates["drafter"], model.drafter.engine
            if length := rate.length(most, engine.cost, engine.rows, small.cost(engine.rows)):
                return rate, self._guess(length)
        return None, []

    def _guess(self, length: int) -> list[int]:
        """The draft model's continuation, in this model's tokens."""
        model, sample = self._view.model, self._view.drafting
        words, own = model.drafter.vocabulary, model.vocabulary
        ids = list(self._ids) if model.same_tokens else list(words.encode(self._text))
        begin = len(ids)
        while len(ids) - begin < length and len(ids) < model.drafter.context_length:
            found = sample.next_token(ids, 1)
            if found.token in words.end_ids or found.top[0][1] < CERTAIN_LOGPROB:
                break
            ids.append(found.token)
        if model.same_tokens:
            return ids[begin:]
        text = words.decode(ids[begin:])
        longer = own.encode(self._text + text)
        fits = longer[: len(self._ids)] == self._ids
        return (longer[len(self._ids) :] if fits else own.encode(text, special=False))[:length]
