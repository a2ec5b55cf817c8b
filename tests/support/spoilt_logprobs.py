"""Servers whose log-probabilities are a model's, in many honest ways, and servers whose are not."""

import json
import math
import random
from collections.abc import Callable

from language_models.hosted.logprob_check import REPEATING_PROMPTS

LOWEST = -3.4028234663852886e38  # llama.cpp's log-probability of an excluded token


class Position:
    """One token of a double: as an honest server tells of it, until a fault changes it."""

    def __init__(self, prompt: str, i: int, body: dict):
        self.repeats = prompt in REPEATING_PROMPTS
        draw = random.Random(f"{prompt}{i}")
        self.text = f" w{i}"
        most = 0.2 if i == 0 else 0.95  # nobody knows how an open text begins
        self.own = -draw.uniform(1e-6, 1e-4) if self.repeats else math.log(draw.uniform(0.05, most))
        self.top: dict | None = {self.text: self.own, " x": self.own - 3}
        self.drafted = i > 0 and self.repeats
        self.temperature = body["temperature"]


def after_temperature(position: Position) -> None:
    """As samplers of llama.cpp's kind leave it: of the greedy choice's one token the others are excluded."""
    scale = {0.0: math.inf, 1.0: 1.0}.get(position.temperature, 1 / (position.temperature or 1))
    if scale == math.inf:
        position.own, position.top = 0.0, {position.text: 0.0, " x": LOWEST}
    else:
        position.own *= 1 / scale
        position.top = {position.text: position.own}


def nearly_greedy(position: Position) -> None:
    """A server that takes temperature 0 for a very low one: some of its values are not quite 0."""
    if position.temperature < 1:
        position.own = position.own * 1e-3
        position.top = {position.text: position.own}


def above_0(position: Position) -> None:
    position.own = 0.01 - position.own
    position.top = {position.text: position.own}


def probabilities(position: Position) -> None:
    position.own, position.top = math.exp(position.own), {position.text: math.exp(position.own)}


def constant(position: Position) -> None:
    position.own, position.top = -0.7, {position.text: -0.7}


def no_list(position: Position) -> None:
    if position.drafted:
        position.own, position.top = 0.0, {}


def null_list(position: Position) -> None:
    if position.drafted:
        position.own, position.top = 0.0, None


def null_value(position: Position) -> None:
    if position.drafted:
        position.own, position.top = None, None


def list_without_the_token(position: Position) -> None:
    if position.drafted:
        position.own, position.top = 0.0, {" x": -3.0}


def list_of_null(position: Position) -> None:
    if position.drafted:
        position.own, position.top = None, {position.text: None}


def lowest(position: Position) -> None:
    if position.drafted:
        position.own, position.top = LOWEST, {position.text: LOWEST, " x": LOWEST}


def lowest_without_a_list(position: Position) -> None:
    position.own, position.top = (-9999.0 if position.drafted else position.own), None


def infinitely_low(position: Position) -> None:
    position.own, position.top = -math.inf, {position.text: -math.inf}


def nothing(position: Position) -> None:
    """In streams: the text of a drafted token, and null for its log-probabilities."""
    if position.drafted:
        position.own = position.top = None
        position.text_only = True


FAULTS = {
    after_temperature: "log-probabilities of an open text are 0",
    nearly_greedy: "at temperature 1",
    above_0: "never above 0",
    probabilities: "never above 0",
    constant: "have the log-probability -0.7",
    no_list: "no log-probability for",
    null_list: "no log-probability for",
    null_value: "no log-probability for",
    list_without_the_token: "no log-probability for",
    list_of_null: "no log-probability for",
    lowest: "as the highest log-probability at",
    lowest_without_a_list: "as the highest log-probability at",
    infinitely_low: "as the highest log-probability at",
    nothing: "no log-probability for",
}


def honest(position: Position) -> None:
    pass


def certain_of_repetitions(position: Position) -> None:
    """A large model in float32: 0.0 to the last digit, with its lists."""
    if position.repeats:
        position.own, position.top = 0.0, {position.text: 0.0, " x": -30.0}


def without_lists(position: Position) -> None:
    """Only the written token's own, which may be 0.0 where a text repeats itself."""
    position.own, position.top = (0.0 if position.repeats else position.own), None


def excluding(position: Position) -> None:
    position.top = {position.text: position.own, " x": LOWEST, " y": -math.inf}


def rounded(position: Position) -> None:
    position.own = round(position.own, 2) + 0.0
    position.top = {position.text: position.own}


def a_little_above_0(position: Position) -> None:
    if position.repeats:
        position.own, position.top = 2e-7, {position.text: 2e-7}


def noisy(position: Position) -> None:
    position.own = min(0.0, position.own + random.uniform(-0.1, 0.1))
    position.top = {position.text: position.own}


def listing_the_drawn_alone(position: Position) -> None:
    """At temperature 1 any token may be drawn, and its probability says nothing of the most probable one's."""
    if position.temperature == 1:
        position.text, position.own = f" r{random.random()}", math.log(random.uniform(1e-4, 0.02))
    position.top = {position.text: position.own}


HONEST = [
    listing_the_drawn_alone,
    honest,
    certain_of_repetitions,
    without_lists,
    excluding,
    rounded,
    a_little_above_0,
    noisy,
]


def completions_shape(positions: list[Position]) -> dict | None:
    if all(hasattr(position, "text_only") for position in positions):
        return None
    shown = {"tokens": [p.text for p in positions], "token_logprobs": [p.own for p in positions]}
    return shown | {"top_logprobs": [p.top for p in positions]}


def chat_shape(positions: list[Position]) -> dict | None:
    if all(hasattr(position, "text_only") for position in positions):
        return None
    return {
        "content": [
            {
                "token": p.text,
                "bytes": list(p.text.encode()),
                "logprob": p.own,
                "top_logprobs": [{"token": text, "logprob": value} for text, value in (p.top or {}).items()],
            }
            for p in positions
        ]
    }


def double(spoil: Callable[[Position], None], shape=completions_shape, only: str = "", **fixed) -> Callable:
    """A server whose log-probabilities are spoilt; `only` in "streams" or "calls", or in both."""

    def reply(path: str, body: dict | None):
        if path.endswith("models") or body is None:
            return 200, {}, {"data": []}
        body.setdefault("temperature", 1.0)
        positions = [Position(body["prompt"], i, body) for i in range(body["max_tokens"])]
        for position in positions:
            if only in ("", "streams" if body.get("stream") else "calls"):
                spoil(position)
        told = (lambda some: shape(some)) if "logprobs" in body else (lambda some: None)
        if not body.get("stream"):
            text = "".join(p.text for p in positions)
            return 200, {}, {"choices": [{"text": text, "finish_reason": "length", "logprobs": told(positions)}]}
        chunks = [{"text": p.text, "finish_reason": None, "logprobs": told([p])} for p in positions]
        chunks.append({"text": "", "finish_reason": "length", "logprobs": None})
        events = [json.dumps({"choices": [chunk]}) for chunk in chunks]
        return (
            200,
            {"Content-Type": "text/event-stream"},
            "".join(f"data: {e}\n\n" for e in [*events, "[DONE]"]).encode(),
        )

    return reply
