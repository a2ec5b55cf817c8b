"""What a server's reply says, token by token.

A token's text is its slice of the completion's text. The strings that servers print beside their log-probabilities are not:
some print vocabulary pieces, some drop SentencePiece's space, some print a replacement character for a part of a character, and
most print the name of the end-of-sequence token. Here they are only hints on where the text is to be cut.
"""

import codecs
import functools
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from language_models.hosted.logprobs import (
    ROUNDING,
    FaultyLogprobs,
    UnreadableReply,
    has_tokens,
    no_logprobs,
    numbers,
    require_probability,
)
from language_models.interface import CHARACTER_TOKENS, END_OF_SEQUENCE, REPLACEMENT, Token

# Names under which the end of sequence is known to be printed; servers of other models: the probe, or --end_tokens.
END_NAMES = frozenset(
    (
        "</s> <|endoftext|> <|im_end|> <|eot_id|> <|end_of_text|> <|eom_id|> <|end|> <|return|> "
        "<eos> <end_of_turn> <turn|> <｜end▁of▁sentence｜>"
    ).split()
)
_SPECIAL_NAME = re.compile(r"<[^<>\s]+>|\[[A-Z_/]+\]")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TextMismatch(UnreadableReply):
    """Tokens and text of a reply do not fit together."""


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """The printable characters that byte-level BPE vocabularies write for bytes (Radford et al. 2019, GPT-2's encoder)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in shown}
    hidden = (byte for byte in range(256) if byte not in shown)
    return table | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def byte_level_text(piece: str) -> str | None:
    """The text of a byte-level piece (`Ġthe` = " the"), bytes of cut characters replaced; None if it is no such piece."""
    table = _byte_of_character()
    if not all(character in table for character in piece):
        return None
    return bytes(table[character] for character in piece).decode("utf-8", errors="replace")


def sentencepiece_text(piece: str) -> str:
    """The text of a SentencePiece vocabulary piece (`▁the` = " the", `<0x0A>` = a newline)."""
    if byte := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(byte[1], 16)]).decode("utf-8", errors="replace")
    return piece.replace("▁", " ")


def _readings(shown: str) -> list[str]:
    """What a printed token may stand for in the text, the likeliest first; a replacement character may stand for nothing yet."""
    readings = [shown, " " + shown, sentencepiece_text(shown)]
    if (byte_level := byte_level_text(shown)) is not None:
        readings.append(byte_level)
    if _SPECIAL_NAME.fullmatch(shown):
        readings.append("")
    return list(dict.fromkeys(readings))


def _lengths(reading: str, text: str, at: int) -> list[int]:
    """How many characters of the text at a position a reading can take, the fewest first."""
    if REPLACEMENT not in reading:
        return [len(reading)] if text.startswith(reading, at) else []
    # A run of replacement characters stands for as many characters at most, and for none where their bytes go on in later tokens.
    parts = re.findall(f"{REPLACEMENT}+|[^{REPLACEMENT}]+", reading)
    pattern = "".join(f".{{0,{len(part)}}}" if part[0] == REPLACEMENT else re.escape(part) for part in parts)
    return [
        n for n in range(len(reading) + 1) if at + n <= len(text) and re.fullmatch(pattern, text[at : at + n], re.S)
    ]


def align(shown: Sequence[str], text: str) -> list[str] | None:
    """Cut a text into one slice per printed token, such that the slices joined are the text; None if they do not fit.

    A character that spans several tokens belongs to the last of them.
    """
    if "".join(shown) == text:
        return list(shown)
    # reached[i] maps each position where token i can begin to the position where token i - 1 began then.
    reached: list[dict[int, int]] = [{0: 0}]
    for name in shown:
        ends: dict[int, int] = {}
        for start in reached[-1]:
            for reading in _readings(name):
                for length in _lengths(reading, text, start):
                    ends.setdefault(start + length, start)
        reached.append(ends)
    end = len(text)
    if end not in reached[-1]:
        return None
    slices = []
    for begins in reversed(reached[1:]):
        slices.append(text[begins[end] : end])
        end = begins[end]
    return slices[::-1]


def offset_slices(offsets: Sequence[int], text: str) -> list[str] | None:
    """Cut a text at a server's text_offset; None if the offsets cannot be right for it."""
    if not offsets or min(offsets) < 0:  # SGLang's are all -1
        return None
    starts = [offset - offsets[0] for offset in offsets] + [len(text)]
    if any(a > b for a, b in itertools.pairwise(starts)):
        return None
    return [text[a:b] for a, b in itertools.pairwise(starts)]


def _may_stand_for(shown: str, piece: str) -> bool:
    """Whether a slice may be a printed token's, but for blanks, which some servers clean up; of a cut character all may be."""
    if REPLACEMENT in shown or _SPECIAL_NAME.fullmatch(shown) or shown.startswith("token_id:"):  # vLLM on request
        return True
    return piece.strip() in {reading.strip() for reading in _readings(shown)}


def token_slices(shown: Sequence[str], text: str, *, ended: bool, offsets: Sequence[int] | None = None) -> list[str]:
    """The text of each printed token: its slice of the completion's text.

    Args:
        shown: the server's strings, one per token.
        text: the completion's text.
        ended: the completion finished with "stop", so that the last token may be the end of sequence, under any name.
        offsets: the server's text_offset, which is looked at only where the strings do not fit the text.

    Returns:
        One slice per token; joined they are the text.

    Raises:
        TextMismatch: neither strings nor offsets fit the text.
    """
    if ended and shown and shown[-1] and "".join(shown) != text:
        # The end of sequence is preferred to a reading of its name as text.
        slices = align(shown[:-1], text)
        if slices is not None:
            return [*slices, ""]
    slices = align(shown, text)
    if slices is None and offsets:
        slices = offset_slices(offsets, text)
        if slices is not None and not all(map(_may_stand_for, shown, slices)):
            slices = None  # a token is missing: another one's slice would hold its text
    if slices is None:
        raise TextMismatch(f"its tokens {list(shown)[:8]} do not fit its text {text[:60]!r}")
    return slices


def byte_slices(pieces: Iterable[bytes]) -> list[str]:
    """The text that each token adds, from the tokens' bytes; a character that spans several belongs to the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return [decoder.decode(piece) for piece in pieces]


def without_cut_character(text: str, logprobs: object, finish_reason: str | None) -> str:
    """A completion's text without the replacement characters that some servers (llama.cpp) write for a cut character at its end.

    The published program's server, vLLM, leaves such a character out, so that the next request has the model write it again. In a
    stream nobody writes it either. Where the tokens' bytes are told, they show whether a character was cut; else one is taken to
    be where a limit of tokens (finish_reason "length") ends a text in replacement characters.
    """
    if not text.endswith(REPLACEMENT):
        return text
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if isinstance(content, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("bytes"), list) for entry in content
    ):
        try:
            whole = "".join(byte_slices(bytes(entry["bytes"]) for entry in content))
        except (TypeError, ValueError):
            return text
        rest = text.removeprefix(whole)
        if content and text.startswith(whole) and not rest.strip(REPLACEMENT) and len(rest) < CHARACTER_TOKENS:
            return whole
    if finish_reason != "length":
        return text
    most = CHARACTER_TOKENS - 1  # some write one for each byte
    return text[:-most] + text[-most:].rstrip(REPLACEMENT)


@dataclass(frozen=True)
class TokenReader:
    """Reads the log-probabilities of one choice of a /v1/completions reply, in the completions or the chat API's shape.

    `end_names`: names of the end of sequence in top lists. `pieces`: how the server prints tokens ("text", "byte_level" or
    "sentencepiece"), and `lists_top`: whether it lists the most probable tokens, where the probe has found it out.
    """

    end_names: frozenset[str] = END_NAMES
    pieces: str = "text"
    lists_top: bool = False

    def read(self, text: str, logprobs: dict | None, finish_reason: str) -> tuple[Token, ...]:
        """The tokens of a completion: their texts joined are `text`, an ending is a token "".

        Raises:
            FaultyLogprobs: some are missing, or above 0.
            UnreadableReply: they are not numbers, or they do not fit the text.
        """
        ended = finish_reason == "stop"
        if not has_tokens(logprobs):
            if text or (logprobs is None and not ended):
                raise no_logprobs(text)
            return (END_OF_SEQUENCE,)
        try:
            if logprobs.get("content"):
                tokens = self._chat_shape(logprobs["content"], text, ended)
            else:
                tokens = self._completions_shape(logprobs, text, ended)
        except UnreadableReply:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UnreadableReply(
                f"its log-probabilities have an unknown shape ({type(error).__name__}: {error})"
            ) from None
        if not tokens or (ended and tokens[-1].text):
            tokens.append(END_OF_SEQUENCE)  # the server leaves the end out
        return tuple(tokens)

    def _completions_shape(self, logprobs: dict, text: str, ended: bool) -> list[Token]:
        shown = logprobs["tokens"]
        slices = token_slices(shown, text, ended=ended, offsets=logprobs.get("text_offset"))
        tops = logprobs.get("top_logprobs") or [None] * len(shown)
        own = logprobs.get("token_logprobs") or [None] * len(shown)
        lists_top = self.lists_top or any(tops)
        tokens = []
        for piece, name, top, logprob in zip(slices, shown, tops, own, strict=True):
            listed = numbers((top or {}).items())
            if self._bare_end(piece, name, listed, logprob, ended and len(tokens) + 1 == len(shown)):
                tokens.append(END_OF_SEQUENCE)
                continue
            require_probability(name, logprob, listed, lists_top)
            # The chosen token's own log-probability counts as well: equal keys of a top list have collapsed into one.
            tokens.append(self._token(piece, name, [*listed, *numbers([(name, logprob)])]))
        return tokens

    def _chat_shape(self, content: list[dict], text: str, ended: bool) -> list[Token]:
        shown = [entry["token"] for entry in content]
        slices = None
        if all(entry.get("bytes") is not None for entry in content):
            slices = byte_slices(bytes(entry["bytes"]) for entry in content)
        if slices is None or "".join(slices) != text:
            slices = token_slices(shown, text, ended=ended)
        lists_top = self.lists_top or any(entry.get("top_logprobs") for entry in content)
        tokens = []
        for piece, name, entry in zip(slices, shown, content, strict=True):
            listed = numbers((_top_name(top, entry), top.get("logprob")) for top in entry.get("top_logprobs") or [])
            if self._bare_end(piece, name, listed, entry.get("logprob"), ended and len(tokens) + 1 == len(shown)):
                tokens.append(END_OF_SEQUENCE)
                continue
            require_probability(name, entry.get("logprob"), listed, lists_top)
            own = [] if any(key == name for key, _ in listed) else numbers([(name, entry.get("logprob"))])
            tokens.append(self._token(piece, name, [*listed, *own]))
        return tokens

    def _bare_end(self, piece: str, name: str, listed: list, own: float | None, last: bool) -> bool:
        """Whether a token is the end of sequence without a probability: as where a server leaves the end out."""
        return not piece and not listed and not own and (last or name in self.end_names)

    def _token(self, piece: str, name: str, top: list[tuple[str, float]]) -> Token:
        if any(math.isnan(logprob) for _, logprob in top):
            raise UnreadableReply(f"a log-probability beside {name!r} is not a number")
        if (highest := max(logprob for _, logprob in top)) > ROUNDING:
            raise FaultyLogprobs(
                f"it gives {highest:.4g} beside the token {name!r} as a log-probability, which is never above 0: "
                "are they probabilities, or the model's raw outputs (vLLM: --logprobs-mode raw_logprobs)?"
            )
        texts: dict[str, float] = {}
        for key, logprob in sorted(top, key=lambda pair: -pair[1]):
            texts.setdefault(piece if key == name else self.key_text(key), logprob)
        return Token(piece, tuple(texts.items()))

    def key_text(self, key: str) -> str:
        """The text that a key of a top list stands for; "" for the end of sequence."""
        if key in self.end_names:
            return ""
        if self.pieces == "sentencepiece":
            return sentencepiece_text(key)
        if self.pieces == "byte_level":
            text = byte_level_text(key)
            return key if text is None else text
        return key


def _top_name(top: dict, entry: dict) -> str:
    """A listed token's name: the entry's where it is the same token, whose character's last bytes alone are listed by llama.cpp."""
    same = top.get("id") is not None and top.get("id") == entry.get("id") and REPLACEMENT in top["token"]
    return entry["token"] if same else top["token"]


def printed_pieces(shown: Sequence[str], text: str) -> str:
    """How a server prints tokens, judged by one reply: "byte_level" or "sentencepiece" vocabulary pieces, or "text"."""
    printed = "".join(shown)
    if any(mark in printed and mark not in text for mark in "ĠĊ"):
        return "byte_level"
    return "sentencepiece" if "▁" in printed and "▁" not in text else "text"
