"""A model without layers: a rule says what follows a text. Its engine knows what its passes have put into its cache."""

import math
import zlib
from array import array
from collections.abc import Sequence

import torch
from local_models import BYTE_LEVEL, TokenByToken

from language_models.interface import Token
from language_models.local import model as local_model
from language_models.local.costs import PassCosts
from language_models.local.engine import Engine
from language_models.local.model import LocalModel
from language_models.local.segments import NextToken, Segment
from language_models.local.vocabulary import GrowingText


class Rule:
    """What follows a text: models of one language often say the same, and how certain they are depends on the whole text.

    Args:
        language: models of one are alike.
        own: tells them apart.
        agrees: share of places at which a model says what its language does.
        ends: the ids among which an end of sequence is; `ending` is the share of places after which a text ends.
    """

    def __init__(self, language: int, own: str, agrees: float = 0.7, end: int = 300, ending: float = 0.0):
        self.language, self.own, self.agrees, self.end, self.ending = language, own, agrees, end, ending
        self.size = 301

    def __call__(self, text: Sequence[int]) -> tuple[int, float]:
        def chance(*what) -> float:
            return zlib.crc32(repr(what).encode()) / 2**32

        recent = tuple(text[-2:])
        if chance(self.own, "end", recent) < self.ending:
            return self.end, math.log(0.9)
        by = self.language if chance(self.own, "agrees", recent) < self.agrees else self.own
        # Letters and spaces mostly: the loop goes by words.
        token = TOKENS[int(chance(by, recent) * len(TOKENS))]
        return token, math.log(0.2 + 0.79 * zlib.crc32(array("H", text)) / 2**32)


def _tokens() -> list[int]:
    ids = [BYTE_LEVEL(text)["input_ids"][-1] for text in ("a", " the", " of", "e", " a", "\n", "😀", " moon", "s", ".")]
    return [*ids, BYTE_LEVEL("😀")["input_ids"][0]]


TOKENS = _tokens()


class Slots:
    """The texts that are cached."""

    bytes = 0

    def __init__(self, slots: int):
        self.slots, self.layers = slots, {}
        self.texts: list[list[int]] = [[] for _ in range(slots)]


class ContextEngine(Engine):
    """Computes what its rule says of what its cache holds. `launches` counts runs, `steps` tokens written ahead.

    `fails(segments)` raises what a pass is to fail with.
    """

    kind = "context"
    sizes = (1, 8, 32, 64)

    def __init__(self, rule: Rule, *, slots: int, longest: int, writes_ahead: bool = True, slice: int = 4):
        self.rule, self.name, self.device, self.longest = rule, rule.own, torch.device("cpu"), longest
        self.writes_ahead, self.slice = writes_ahead, slice
        self.fallbacks, self.grown, self.parameters, self.vocabulary_size = [], 0, 0, 10**6
        self._capacity_before = 0
        self.cache = Slots(slots)
        self.costs = PassCosts(self.sizes)
        self.fails = lambda segments: None
        self.batches: list[list[int]] = []
        self.reset_counts()

    def reset_counts(self) -> None:
        super().reset_counts()
        self.launches = self.steps = 0

    def make_cache(self, slots, longest):
        raise NotImplementedError

    def outputs(self, segments):
        raise NotImplementedError

    logits = outputs

    def measure(self) -> None:
        for size, seconds in zip(self.sizes, (6.0, 6.3, 6.9, 7.0), strict=True):
            self.costs.record(size, seconds / 1000)

    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """See Engine."""
        self.fails(segments)
        self.batches.append([segment.slot for segment in segments])
        assert len(set(self.batches[-1])) == len(segments), "two segments of one slot"
        found = []
        for segment in segments:
            text = self.cache.texts[segment.slot]
            assert segment.start <= len(text), f"{segment} behind {len(text)} cached tokens"
            assert self.writes_ahead or not segment.ahead
            del text[segment.start :]
            here = []
            for n, token in enumerate(segment.tokens):
                text.append(token)
                if n >= len(segment.tokens) - segment.wanted:
                    here.append(self._next(text, segment))
            for _ in range(min(segment.ahead, self.longest - len(text))):
                text.append(here[-1].token)
                here.append(self._next(text, segment))
            found.append(here)
        ahead = max(segment.ahead for segment in segments)
        self.launches, self.steps = self.launches + 1, self.steps + ahead
        tokens = sum(len(segment.tokens) + segment.ahead for segment in segments)
        self.count(1 + ahead, len(segments), tokens, 0.0)
        return found

    def _next(self, text: list[int], segment: Segment) -> NextToken:
        token, logprob = self.rule(text)
        if segment.sampling:  # one of two
            drawn = torch.rand(1, generator=segment.sampling.generator).item()
            token = token if drawn < 0.7 else TOKENS[int(drawn * 1000) % len(TOKENS)]
        return NextToken(token, ((token, logprob),))


class _NoModel(torch.nn.Module):
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(1))


def context_model(monkeypatch, rule: Rule, *, samples: int = 1, writes_ahead: bool = True, slice: int = 4, **options):
    """A LocalModel of a rule."""

    def engine(model, *, slots, longest, **_):
        return ContextEngine(rule, slots=slots, longest=longest, writes_ahead=writes_ahead, slice=slice)

    monkeypatch.setattr(local_model, "make_engine", engine)
    options = {"end_ids": frozenset({rule.end}), "context_length": 2000} | options
    return LocalModel(rule.own, _NoModel(), BYTE_LEVEL, samples=samples, **options)


class Plain(TokenByToken):
    """A rule's texts, token by token."""

    def __init__(self, rule: Rule):
        super().__init__(None, BYTE_LEVEL, frozenset({rule.end}))
        self.rule = rule

    def written(self, prompt, max_tokens, logprobs=1):
        """See TokenByToken."""
        ids = list(self.tokenizer(prompt)["input_ids"])
        growing = GrowingText(self.vocabulary, ids)
        for _ in range(max_tokens):
            token, logprob = self.rule(ids)
            ids.append(token)
            piece = growing.add(token)
            yield token, Token(piece, ((piece, logprob),))
            if token in self.end_ids:
                return
