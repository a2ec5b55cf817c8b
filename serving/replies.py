"""Replies as OpenAI's API has them (https://platform.openai.com/docs/api-reference), with what nudging adds under `nudging`."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any

from answering.answer import Answer
from nudging import Piece
from serving.requests import Request
from serving.slots import Ended


def piece_json(piece: Piece) -> dict[str, Any]:
    """A piece as clients read it."""
    return {
        "text": piece.text,
        "by": piece.by,
        "top_prob": None if piece.top_prob is None else round(piece.top_prob, 4),
    }


def requests_of(answer: Answer) -> dict[str, int]:
    """How many requests each model answered."""
    return {role: usage.requests for role, usage in answer.usage.items()}


def nudging_json(answer: Answer) -> dict[str, Any]:
    """What nudging adds to a choice, without its pieces."""
    return {
        "words": answer.nudging_words,
        "rate": round(answer.rate, 4),
        "rounds": answer.rounds,
        "requests": requests_of(answer),
        "stop_reason": answer.stop_reason,
    }


@dataclass
class Reply:
    """The reply to one request, whole or chunk by chunk."""

    request: Request
    prompt_tokens: int = 0
    completion_tokens: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def _head(self, chunk: bool) -> dict[str, Any]:
        chat = self.request.is_chat
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if chat else "text_completion"
        return {
            "id": ("chatcmpl-" if chat else "cmpl-") + self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": None,
        }

    def count(self, ended: Ended) -> None:
        """Count the tokens of a choice."""
        self.prompt_tokens += ended.prompt_tokens
        self.completion_tokens += ended.completion_tokens

    @property
    def usage(self) -> dict[str, int]:
        """Tokens, in those of the base model."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The reply with all its choices."""
        choices = []
        for index, answer in enumerate(answers):
            text = answer.raw_text
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self.request.is_chat
                else {"text": text}
            )
            nudging = nudging_json(answer) | {"pieces": [piece_json(piece) for piece in answer.pieces]}
            choices.append(
                {"index": index, **said, "logprobs": None, "finish_reason": answer.finish_reason, "nudging": nudging}
            )
        nudging = choices[0]["nudging"] if len(choices) == 1 else _together(answers)
        return {**self._head(False), "choices": choices, "usage": self.usage, "nudging": nudging}

    def role(self, index: int) -> dict[str, Any]:
        """The first chunk of a chat's choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """The chunk of a piece."""
        said = {"content": piece.text} if self.request.is_chat else piece.text
        return self._chunk(index, said) | {"nudging": {"pieces": [piece_json(piece)]}}

    def piece_event(self, index: int, piece: Piece) -> bytes:
        """The chunk of a piece as an event: the same as `piece`, written by hand, as there is one for each token."""
        text, top = encode_basestring(piece.text), piece.top_prob
        if top is not None and not 0 <= top <= 1:
            raise ValueError(f"a probability of {top}")
        said = f'"delta":{{"content":{text}}}' if self.request.is_chat else f'"text":{text}'
        usage = ',"usage":null' if self.request.include_usage else ""
        shown = "null" if top is None else round(float(top), 4)
        return (
            f'data: {self._json_head},"choices":[{{"index":{index},{said},"logprobs":null,"finish_reason":null}}]{usage},'
            f'"nudging":{{"pieces":[{{"text":{text},"by":"{piece.by}","top_prob":{shown}}}]}}}}\n\n'
        ).encode("utf-8", "backslashreplace")

    @cached_property
    def _json_head(self) -> str:
        return json.dumps(self._head(True), ensure_ascii=False, separators=(",", ":"))[:-1]

    def end(self, index: int, answer: Answer) -> dict[str, Any]:
        """The chunk with a choice's finish reason."""
        said = {} if self.request.is_chat else ""
        return self._chunk(index, said, answer.finish_reason) | {"nudging": nudging_json(answer)}

    def usage_chunk(self) -> dict[str, Any]:
        """The chunk that closes a stream where usage is asked for."""
        return {**self._head(True), "choices": [], "usage": self.usage}

    def _chunk(self, index: int, said: Any, finish_reason: str | None = None) -> dict[str, Any]:
        key = "delta" if self.request.is_chat else "text"
        choice = {"index": index, key: said, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head(True), "choices": [choice]}
        return chunk | ({"usage": None} if self.request.include_usage else {})


def _together(answers: Sequence[Answer]) -> dict[str, Any]:
    requests: dict[str, int] = {}
    for answer in answers:
        for role, number in requests_of(answer).items():
            requests[role] = requests.get(role, 0) + number
    rates = [answer.rate for answer in answers]
    return {
        "rate": round(sum(rates) / len(rates), 4),
        "rounds": sum(answer.rounds for answer in answers),
        "requests": requests,
    }
