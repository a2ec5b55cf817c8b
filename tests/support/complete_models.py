"""Made-up models whose whole next-token distribution is known after any text, and slow, direct decoding loops over these."""

import hashlib
import itertools
import math
from collections.abc import Callable

from language_models.interface import Completion, ContextLengthError, Token, Usage
from language_models.proposals import all_but_last_word, candidate_heads
from utils import count_tokens

END = ""
MIXED = (" a", " b", " c", " a b", "a", "bc d", " ", "  ", "\n", ".", " the a b c d e f g", " dd", "!")
CHARACTERS = (" ", "a", "b", "\n", "c", "d", ".")
Distribution = list[tuple[str, float]]


class Complete:
    """A model over its own words; it draws its own token by the text, not always the most probable one where it is `drawing`."""

    def __init__(self, role: str, seed: int, words: tuple[str, ...], *, drawing: bool = False, room: int | None = None):
        self.name, self.role, self.seed, self.words, self.drawing = role, role, seed, words, drawing
        self.room, self.runs_ahead = room, True
        self.asked: list[tuple[str, int, int | None]] = []
        self.open: list[_Stream] = []

    def number(self, *what: object) -> float:
        digest = hashlib.blake2b(repr((self.seed, *what)).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def distribution(self, text: str) -> Distribution:
        """All words and the end, most probable first; two models agree at some places."""
        tail = text[-4:]
        weights = {word: self.number("both", tail, word) ** 6 for word in self.words}
        if self.number("own", tail) < 0.4:
            weights = {word: self.number(self.role, tail, word) ** 6 for word in self.words}
        weights[END] = 0.4 * self.number(self.role, "end", tail) ** 20
        whole = math.fsum(weights.values())
        return sorted(((word, weight / whole) for word, weight in weights.items()), key=lambda pair: -pair[1])

    def own(self, text: str) -> str:
        """The token that it writes after a text."""
        found = self.distribution(text)
        place = self.number("draw", text) if self.drawing else 0.0
        for word, prob in found:
            place -= prob
            if place < 0:
                return word
        return found[0][0]

    def call(self, text: str, most: int) -> tuple[list[str], bool]:
        """The tokens of one call, and whether it ended."""
        if self.room and len(text) + most > self.room:
            raise ContextLengthError("full")
        tokens: list[str] = []
        while len(tokens) < most and not (tokens and tokens[-1] == END):
            tokens.append(self.own(text + "".join(tokens)))
        return tokens, tokens[-1] == END

    def _tokens(self, prompt: str, params):
        self.asked.append((prompt, params.max_tokens, params.logprobs))
        if self.room and len(prompt) + params.max_tokens > self.room:
            raise ContextLengthError("full")
        return self._written(prompt, params)

    def _written(self, text: str, params):
        for _ in range(params.max_tokens):
            token = self.own(text)
            top = dict(self.distribution(text)[: params.logprobs or 0])
            if params.logprobs:
                top.setdefault(token, dict(self.distribution(text))[token])
            yield Token(token, tuple((word, math.log(max(prob, 1e-300))) for word, prob in top.items()))
            if token == END:
                return
            text += token

    def complete(self, prompt, params):
        tokens = tuple(self._tokens(prompt, params))
        text = "".join(token.text for token in tokens)
        return Completion(text, tokens, "length" if tokens[-1].text else "stop", Usage(requests=1))

    def stream(self, prompt, params, draft=""):
        self.open.append(_Stream(self._tokens(prompt, params), params.max_tokens))
        return self.open[-1]

    @property
    def left_open(self) -> bool:
        return any(not stream.closed and stream.finish_reason is None for stream in self.open)


class _Stream:
    def __init__(self, tokens, most: int):
        self.tokens, self.left, self.finish_reason, self.usage, self.closed = (
            tokens,
            most,
            None,
            Usage(requests=1),
            False,
        )

    def __iter__(self):
        return self

    def __next__(self):
        token = next(self.tokens)
        self.left -= 1
        self.finish_reason = "stop" if not token.text else None if self.left else "length"
        return token

    def close(self):
        self.closed = True
        self.tokens.close()


def slow_nudging(
    base: Complete,
    nudging: Complete,
    certain: Callable[[str], bool],
    agreement: bool,
    calls: tuple[int, int],
    most: int,
) -> tuple[list[str], list[str], str]:
    """The published loop, call by call: the nudging words, the pieces and why it ends.

    Args:
        certain: whether the base model's own token after an answer text is accepted.
        calls: tokens asked of the base and the nudging model per call.
    """
    words_of, pieces, answer = [], [], ""
    try:
        for _ in range(150):
            if count_tokens(answer) >= most:
                return words_of, pieces, "length"
            tokens, ended = nudging.call("N:" + answer, calls[1])
            proposal = "".join(tokens)
            if ended:
                if proposal:
                    words_of.append(proposal)
                    pieces.append(proposal)
                return words_of, pieces, "nudging_model_stop"
            words, run = all_but_last_word(proposal), None
            for head in candidate_heads(proposal):
                found = base.call("B:" + answer + head, calls[0])
                next_word = " " + proposal[len(head) + 1 :].partition(" ")[0]
                if certain(answer + head) or (agreement and next_word.startswith(found[0][0])):
                    words, run = head, found
                    break
            if len(words_of) >= 3 and words_of[-3:] == [words] * 3:
                return words_of, pieces, "repeated_nudging_words"
            words_of.append(words)
            pieces.append(words)
            answer += words
            if run and "".join(run[0]):
                added = _base_goes_on(base, answer, run[0], certain, calls[0], most)
                pieces[-1] += added
                answer += added
        return words_of, pieces, "round"
    except ContextLengthError:
        return words_of, pieces, "context_length"


def _base_goes_on(base, answer, first_call, certain, size, most) -> str:
    added, rest, first = first_call[0], first_call[1:], True
    ended = first_call[-1] == END
    while count_tokens(added) < most - count_tokens(answer):
        if not first:
            rest, ended = base.call("B:" + answer + added, size)
        accepted, over = "", False
        for token in rest:
            if not certain(answer + added + accepted):
                over = True
                break
            accepted += token
        seen = len(accepted.split(" ")) > 5 and accepted in answer + added
        if "".join(rest) in added or seen:
            break
        added += accepted
        if over or (ended and not first):
            break
        first = False
    return added


def slow_blend(base: Complete, nudging: Complete, certain, weight: float | None, most: int) -> tuple[str, str]:
    """BlendIn token by token over whole distributions: the answer and why it ends."""
    answer = ""
    while count_tokens(answer) < most:
        own = base.own("B:" + answer)
        chosen = own
        if not certain(answer):
            p, q = dict(base.distribution("B:" + answer)), dict(nudging.distribution("N:" + answer))
            top = max(q, key=q.__getitem__)
            alpha = weight
            if alpha is None:
                alpha = max(q.values()) / (max(p.values()) + max(q.values())) + 0.1 * p.get(top, 0.0)
                alpha = min(1.0, max(0.0, alpha))
            every = list(dict.fromkeys([*p, *q]))
            chosen = max(every, key=lambda word: alpha * q.get(word, 0) + (1 - alpha) * p.get(word, 0))
        if chosen == END:
            return answer, "base_model_stop" if own == END else "blended_stop"
        answer += chosen
    return answer, "length"


def pairs(count: int):
    """Pairs of models with the same and with different words, one drawing or not."""
    kinds = itertools.cycle(itertools.product((MIXED, CHARACTERS), (MIXED, CHARACTERS), (False, True)))
    for seed, (mine, theirs, drawing) in zip(range(count), kinds, strict=False):
        yield (
            seed,
            lambda seed=seed, mine=mine, theirs=theirs, drawing=drawing: (
                Complete("base", seed, mine, drawing=drawing),
                Complete("chat", seed, theirs),
            ),
        )
