"""A server of models that write given texts in tokens of bytes, as llama.cpp or vLLM shows them: tokens cut characters."""

import hashlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise

from language_models.interface import REPLACEMENT

ENDED, CUT = "stop", "length"


def chance(*parts) -> float:
    """A number from 0 to 1 that depends on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) / 2**64


@dataclass
class ByteModel:
    """Writes a text behind a prompt that ends in "A:", whatever of it is there already, and then ends.

    `cuts`: the bytes of the text before which a new token begins. Elsewhere than in its text it ends at once.
    """

    text: str
    cuts: frozenset[int]
    seed: int

    def tokens(self, prompt: str, most: int) -> tuple[list[tuple[bytes, float]], str]:
        """The next tokens as bytes and log-probabilities, and why they end."""
        answer, whole = prompt.rpartition("A:")[2], self.text.encode()
        begin = len(answer.encode())
        if not self.text.startswith(answer):
            return [], ENDED
        ends = [at for at in range(begin + 1, len(whole)) if at in self.cuts] + [len(whole)] * (begin < len(whole))
        pieces = [whole[a:b] for a, b in pairwise([begin, *ends])]
        marks = [math.log(0.2 + 0.8 * chance(self.seed, end)) for end in ends]
        reason = ENDED if len(pieces) < most else CUT
        return list(zip(pieces, marks, strict=True))[:most], reason


class ByteServer:
    """For `ReplyServer`: models by name; `form` is "vllm", or "llama_cpp", which shows tokens once their characters are whole."""

    def __init__(self, form: str):
        self.form = form
        self.models: dict[str, ByteModel] = {}

    def __call__(self, path: str, body: dict | None):
        if body is None:
            return 200, {}, {"object": "list", "data": []}
        tokens, reason = self.models[body["model"]].tokens(body["prompt"], body["max_tokens"])
        shown = self._shown(tokens)
        if body.get("stream"):
            events = [self._choice(text, [entry], None, body, n) for text, entry, n in shown]
            events.append(self._choice("", [], reason, body, len(tokens)))
            lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
            return 200, {"Content-Type": "text/event-stream", "Server": "llama.cpp"}, "".join(lines).encode()
        text, left = "".join(piece for piece, _, _ in shown), b"".join(piece for piece, _ in tokens)
        if self.form == "llama_cpp" and text.encode() != left:
            text += REPLACEMENT
        return 200, {}, self._choice(text, [entry for _, entry, _ in shown], reason, body, len(tokens))

    def _shown(self, tokens: list[tuple[bytes, float]]) -> list[tuple[str, dict, int]]:
        """Text, entry and the number of tokens so far of what is shown."""
        found, half = [], b""
        for number, (piece, mark) in enumerate(tokens, 1):
            half += piece
            text = half.decode("utf-8", "ignore")
            kept = half[len(text.encode()) :]
            if self.form == "llama_cpp" and kept:
                continue
            told = {"token": piece.decode("utf-8", "replace"), "logprob": mark, "bytes": list(piece), "id": number}
            other = {
                "token": REPLACEMENT,
                "logprob": math.log((1 - math.exp(mark)) / 2 + 1e-9),
                "bytes": [172],
                "id": -1,
            }
            entry = {"token": text, "logprob": mark, "bytes": list(text.encode()), "id": number}
            found.append((text, entry | {"top_logprobs": [told, other]}, number))
            half = kept
        return found

    def _choice(self, text: str, entries: list[dict], reason: str | None, body: dict, written: int) -> dict:
        logprobs = None
        if entries and body.get("logprobs"):
            logprobs = {"content": entries}
            if self.form == "vllm":
                logprobs = {
                    "tokens": [entry["token"] for entry in entries],
                    "token_logprobs": [entry["logprob"] for entry in entries],
                    "top_logprobs": [{entry["token"]: entry["logprob"]} for entry in entries],
                }
        more = {"timings": {"predicted_n": written}} if body.get("timings_per_token") else {}
        return {"choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": logprobs}]} | more
