"""Streams and the published calls lead to the same answers, on made-up models with every oddity of tokens that is known."""

import hashlib
import itertools
import math
import random
from dataclasses import replace

import pytest
from test_nudging import InProcess, InProcessStream

from baselines import average_ensemble, proxy_tuning
from language_models.interface import ContextLengthError, Token
from nudging import NudgingSettings, nudge

END = ""
MIXED = (" a", " b", " c", " a b", "a", "bc d", " ", "  ", "\n", "\n\n", ".", " the a b c d e f g", " dd", "!")
WHERE = list(itertools.product((True, False), repeat=2))
CHARACTERS = (" ", "a", "b", "\n", "c", " ", "d")


class MadeUp(InProcess):
    """A model whose next token depends on the tail of the text; refuses what is longer than `room` characters."""

    def __init__(self, role: str, seed: int, rng: random.Random, threshold: float, room: int | None):
        self.name, self.role, self.seed, self.written = role, role, seed, 0
        self.room = room
        self.words = CHARACTERS if room else rng.choice((MIXED, CHARACTERS))
        self.tail, self.agree = rng.choice((1, 2, 3, 5, 9, 30)), rng.choice((0.3, 0.7, 0.9, 1.0))
        self.ends = rng.choice((0, 0.02, 0.1, 0.3))
        self.probabilities = rng.choice(
            ((threshold, threshold - 0.1, 0.9, 0.99), (0.9, 0.2), (0.1, 0.1, 0.9), (threshold,))
        )
        self.open: list[WatchedStream] = []

    def number(self, *what: object) -> float:
        digest = hashlib.blake2b(repr((self.seed, *what)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def tokens(self, prompt, max_tokens):
        if self.room and len(prompt) + max_tokens > self.room:
            raise ContextLengthError("full")
        return self._tokens(prompt, max_tokens)

    def _tokens(self, prompt, max_tokens):
        text = prompt
        for _ in range(max_tokens):
            tail = text[-self.tail :]
            who = "both" if self.number("agree", tail) < self.agree else self.role
            token = self.words[int(self.number(who, tail) * len(self.words))]
            if self.number(who, "end", tail) < self.ends:
                token = END
            p = self.probabilities[int(self.number(self.role, "p", tail) * len(self.probabilities))]
            others = [(word, (1 - p) * self.number(self.role, word, tail) / 20) for word in (*self.words, END)]
            top = dict([(token, p), *sorted(others, key=lambda pair: -pair[1])])
            top[token] = p
            yield Token(token, tuple((t, math.log(max(q, 1e-9))) for t, q in top.items()))
            if token == END:
                return
            text += token

    def stream(self, prompt, params, draft=""):
        self.open.append(WatchedStream(self.tokens(prompt, params.max_tokens), params.max_tokens))
        return self.open[-1]


class WatchedStream(InProcessStream):
    closed = False

    def close(self):
        super().close()
        self.closed = True


def models(roles: tuple[str, ...], seed: int, threshold: float, room: int | None, runs_ahead: bool) -> list[MadeUp]:
    found = [MadeUp(role, seed, random.Random(seed), threshold, room) for role in roles]
    for model in found:
        model.runs_ahead = runs_ahead
    return found


def nothing_left_open(found: list[MadeUp]) -> bool:
    return all(stream.closed or stream.finish_reason for model in found for stream in model.open)


@pytest.mark.parametrize("room", [None, 30, 50, 80, 150])
@pytest.mark.parametrize("most_ahead", [0, math.inf], ids=["tails_dropped", "tails_kept"])
def test_nudging(room, most_ahead, monkeypatch):
    monkeypatch.setattr("language_models.proposals.MOST_AHEAD", most_ahead)
    reasons = set()
    for seed in range(250):
        rng = random.Random(seed)
        threshold = rng.choice((0.3, 0.4, 0.5))
        settings = NudgingSettings(
            top_prob_thres=threshold,
            completion_token_num=rng.choice((1, 2, 3, 4, 8, 16)),
            completion_token_num_nudging=rng.choice((1, 2, 3, 8, 16)),
            max_token_total=rng.choice((1, 3, 10, 30, 80)),
        )
        answers = []
        # Of a server or in this process: both models, or one of them.
        for calls, *runs_ahead in (("published", True, True), *(("streamed", *where) for where in WHERE)):
            pair = models(("base", "chat"), seed, threshold, room, True)
            for model, ahead in zip(pair, runs_ahead, strict=True):
                model.runs_ahead = ahead
            answers.append(nudge(*pair, "B:", "N:", settings, request_mode=calls))
            assert nothing_left_open(pair)
        assert all(answer == answers[0] for answer in answers), seed
        reasons.add(answers[0].stop_reason)
    assert {"length", "nudging_model_stop", "repeated_nudging_words"} <= reasons
    assert ("context_length" in reasons) == (room is not None)


@pytest.mark.parametrize("room", [None, 60])
@pytest.mark.parametrize("loop", [average_ensemble, proxy_tuning])
def test_baselines(loop, room):
    roles = ("base", "chat", "proxy")[: 2 if loop is average_ensemble else 3]
    for seed in range(60):
        length = random.Random(seed).choice((1, 3, 10, 30))
        answers = []
        for calls in ("published", "streamed"):
            found = models(roles, seed, 0.4, room, True)
            answers.append(loop(*found, *["P:"] * len(roles), max_token_total=length, request_mode=calls))
            assert nothing_left_open(found)
        assert answers[0] == answers[1], seed


class Cutting(MadeUp):
    """As llama.cpp's server: writes what still fits, and refuses only a prompt that fills the context window."""

    def tokens(self, prompt, max_tokens):
        if len(prompt) >= self.room:
            raise ContextLengthError("full")
        return self._tokens(prompt, min(max_tokens, self.room - len(prompt)))

    def stream(self, prompt, params, draft=""):
        fitting = min(params.max_tokens, max(1, self.room - len(prompt)))
        return super().stream(prompt, replace(params, max_tokens=fitting), draft)


@pytest.mark.parametrize("room", [30, 50, 80])
@pytest.mark.parametrize("loop", [nudge, average_ensemble])
def test_completions_that_end_where_the_context_window_does(loop, room, monkeypatch):
    monkeypatch.setattr("test_proposals.MadeUp", Cutting)
    reasons = set()
    for seed in range(150 if loop is nudge else 40):
        rng = random.Random(seed)
        settings = NudgingSettings(0.4, rng.choice((1, 2, 3, 8, 16)), max_token_total=rng.choice((10, 30, 80)))
        answers = []
        for calls in ("published", "streamed"):
            pair = models(("base", "chat"), seed, 0.4, room, True)
            if loop is nudge:
                answers.append(nudge(*pair, "B:", "N:", settings, request_mode=calls))
            else:
                answers.append(
                    average_ensemble(*pair, "B:", "N:", max_token_total=settings.max_token_total, request_mode=calls)
                )
            assert nothing_left_open(pair)
        assert answers[0] == answers[1], seed
        reasons.add(answers[0].stop_reason)
    assert "context_length" in reasons
