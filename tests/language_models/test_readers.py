"""Streams and the published calls bring the same answer: random models with cut characters, repetitions, ends, and limits."""

import hashlib
import math
import random

import pytest

from baselines import average_ensemble, proxy_tuning
from language_models import proposals
from language_models.interface import Completion, ContextLengthError, SamplingParams, Token, Usage
from language_models.readers import StreamReader, Writer
from nudging import ROUNDS_AHEAD, NudgingResult, NudgingSettings, answer_stream, nudge

END = b""
SINGLE = (b" ", b" ", b"a", b"b", b"\n", b"\xc3", b"c")
MIXED = (b" a", b" b", b" a b", b"bc d", b" ", b"  ", b"\n\n", b"\xc3", b".", b" the a b c d e f g", b"!")


def uniform(*parts) -> float:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) / 2**64


class RandomModel:
    """What it writes depends on the last characters before alone; `\\xc3` is half a character.

    limit: "refuses" as vLLM where prompt and max_tokens do not fit into `room`, "cuts" as llama.cpp what does not fit, "caps" every
    completion at 32 tokens.
    """

    name, runs_ahead = "random", True

    def __init__(self, seed: int, role: str, limit: str | None):
        self.seed, self.role, self.limit = seed, role, limit
        draw = random.Random(seed)
        self.tail, self.agreement = draw.choice([1, 2, 3, 5, 9, 30]), draw.choice([0.3, 0.7, 0.9, 1.0])
        self.end, self.room = draw.choice([0, 0.02, 0.1, 0.3]), draw.choice([30, 50, 80, 150])
        self.probabilities = draw.choice([(0.4, 0.3, 0.9, 0.99), (0.9, 0.95, 0.2), (0.99,) * 6 + (0.1,), (0.4,)])
        self.vocabulary = SINGLE if limit in ("refuses", "cuts") else draw.choice([SINGLE, MIXED])
        self.streams: list[Stream] = []
        self.connections = 2

    def tokens(self, prompt: str, n: int):
        text, half = prompt, b""
        for _ in range(n):
            key = (text[-self.tail :], half, self.seed)
            role = "all" if uniform("agree", key) < self.agreement else self.role
            pieces = (b"\xa9",) if half else self.vocabulary
            piece = pieces[int(uniform(role, key) * len(pieces))]
            if uniform(role, "end", key) < self.end and not half:
                piece = END
            probability = self.probabilities[int(uniform(self.role, "p", key) * len(self.probabilities))]
            half, shown = (piece, "") if piece == b"\xc3" else (b"", (half + piece).decode())
            text += shown
            yield Token(shown, ((shown, math.log(probability)), ("?", math.log(probability / 3)))), piece == END
            if piece == END:
                return

    def _allowed(self, prompt: str, max_tokens: int) -> int:
        used = len(prompt.encode())
        if used + {"refuses": max_tokens, "cuts": 1}.get(self.limit, -math.inf) > self.room:
            raise ContextLengthError("full")
        most = {"cuts": self.room - used, "caps": 32}.get(self.limit, max_tokens)
        return min(max_tokens, most)

    def complete(self, prompt, params):
        tokens, ended = zip(*self.tokens(prompt, self._allowed(prompt, params.max_tokens)), strict=True)
        return Completion("".join(t.text for t in tokens), tokens, "stop" if ended[-1] else "length", Usage())

    def stream(self, prompt, params, draft=""):
        assert sum(not stream.over for stream in self.streams) < self.connections, "too many for a sample"
        allowed = self._allowed(prompt, params.max_tokens)
        self.streams.append(Stream(self.tokens(prompt, allowed), allowed))
        return self.streams[-1]


class Stream:
    def __init__(self, tokens, left: int):
        self.tokens, self.left, self.finish_reason, self.closed = tokens, left, None, False
        self.usage = Usage(requests=1)

    @property
    def over(self) -> bool:
        return self.closed or self.finish_reason is not None

    def __iter__(self):
        return self

    def __next__(self):
        if self.over:
            raise StopIteration
        token, ended = next(self.tokens)
        self.left -= 1
        self.finish_reason = "stop" if ended else None if self.left else "length"
        return token

    def close(self):
        self.closed = True


class Either:
    """Stands for MOST_AHEAD: streams are left open or closed by chance."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)

    def __mul__(self, seconds: float) -> float:
        return self.random.choice([0.0, math.inf])


def answers(loop: str, seed: int, limit: str | None, calls: str, rounds_ahead: int = ROUNDS_AHEAD):
    """What a loop writes on random models, streamed or not; no stream is left open."""
    draw = random.Random(seed)
    models = [RandomModel(seed, role, limit) for role in ("base", "chat", "proxy")]
    if loop == "nudging":
        chunks = [16] if limit == "caps" else [1, 2, 3, 4, 8, 16]
        settings = NudgingSettings(
            0.4, draw.choice(chunks), draw.choice([1, 2, 8, 16]), max_token_total=draw.choice([1, 10, 30, 80])
        )
        models[1].connections = rounds_ahead + 1
        rounds, found = [], NudgingResult()
        asked = {"result": found, "request_mode": calls, "rounds_ahead": rounds_ahead}
        stream = answer_stream(*models[:2], "B:", "N:", settings, lambda *told: rounds.append(told), **asked)
        assert "".join(piece.text for piece in stream) == found.text
        result = found, rounds
    else:
        options = {"max_token_total": draw.choice([1, 10, 30]), "request_mode": calls}
        if loop == "ensemble":
            found = average_ensemble(*models[:2], "B:", "C:", **options)
        else:
            found = proxy_tuning(*models, "B:", "C:", "P:", **options)
        result = found.text, found.stop_reason
    assert all(stream.over for model in models for stream in model.streams)
    return result


# Each of these has made some streams differ: a cut character or the end of a context window in the middle of a call.
HARD_SEEDS = {
    ("nudging", None): (1821, 2983, 7517, 8664, 10455, 14472, 15446, 16181),
    ("nudging", "refuses"): (1821, 4204, 10138, 10455, 10602, 12017, 12123, 13239),
    ("nudging", "cuts"): (1821, 10455, 10602, 12017, 12123, 12611, 14472, 15446),
    ("nudging", "caps"): (246, 800, 842, 962, 1147, 1243, 1958, 2064),
    ("ensemble", None): (68, 293, 387, 432),
    ("ensemble", "refuses"): (293, 387, 432, 519),
    ("ensemble", "cuts"): (293, 387, 432, 519),
    ("proxy_tuning", None): (),
    ("proxy_tuning", "refuses"): (),
}


@pytest.mark.parametrize(("loop", "limit"), HARD_SEEDS)
def test_both_kinds_of_calls_bring_the_same_answer(loop, limit, monkeypatch):
    for seed in (*HARD_SEEDS[loop, limit], *range(200 if loop == "nudging" else 20)):
        monkeypatch.setattr(proposals, "MOST_AHEAD", Either(seed))
        assert answers(loop, seed, limit, "streamed") == answers(loop, seed, limit, "published"), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, "refuses", "cuts", "caps"])
def test_many_more_random_models(limit, monkeypatch):
    """With rounds ahead too, of which the answer does not depend."""
    for seed in range(200, 2200):
        monkeypatch.setattr(proposals, "MOST_AHEAD", Either(seed))
        published = answers("nudging", seed, limit, "published")
        for rounds_ahead in (ROUNDS_AHEAD, seed % 4):
            assert answers("nudging", seed, limit, "streamed", rounds_ahead) == published, (
                f"seed {seed}, {rounds_ahead}"
            )


def test_streams_without_a_token_are_not_asked_for_for_ever():
    class Silent(RandomModel):
        def stream(self, prompt, params, draft=""):
            stream = Stream(iter(()), 0)
            stream.finish_reason = "length"
            return stream

    reader = StreamReader(Writer(Silent(0, "base", None), "", SamplingParams(16), 10), "")
    reader.begin_call()
    assert reader.read() is None


def test_a_failure_while_a_run_begins_leaves_no_stream_open():
    class Odd(RandomModel):
        def stream(self, prompt, params, draft=""):
            stream = super().stream(prompt, params, draft)
            stream.tokens = iter(())  # next() of it fails in a way that nobody foresees
            stream.__class__ = Failing
            return stream

    class Failing(Stream):
        def __next__(self):
            raise ValueError("odd")

    base, nudging = Odd(0, "base", None), RandomModel(1, "chat", None)
    nudging.end, nudging.vocabulary = 0, (b" a", b" b")
    with pytest.raises(ValueError, match="odd"):
        nudge(base, nudging, "B:", "N:", NudgingSettings(), request_mode="streamed")
    assert base.streams and all(stream.over for stream in base.streams)
