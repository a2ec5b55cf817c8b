"""The text that tokens add to a prompt, by the model's own tokenizer: the same slices as a server's text gives.

A token's text is its slice of the continuation's text; a character that spans several tokens belongs to the last of them. The
text of a token depends on those before it (SentencePiece drops the space of a first word), so a few of them are decoded along.
"""

import functools
import threading
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from language_models.interface import REPLACEMENT

TOKENS_BEFORE = 6


class Vocabulary:
    """What a tokenizer says of texts and ids; safe to use from many threads. `end_ids` end a continuation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: frozenset[int]):
        self.tokenizer, self.end_ids = tokenizer, end_ids
        self._texts: dict[int, str] = {}
        self._lengths: dict[int, int] = {}
        self._encoded: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self._decode = _plain_decode(tokenizer)
        self._anchor = self.encode("a", special=False)[-1:]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text; `special`: with the beginning of sequence where the tokenizer adds it."""
        with self._lock:
            if special and text in self._encoded:
                return self._encoded[text]
            # Padding and truncation are state of the tokenizer, and none of it is wanted here.
            ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
            if special:
                self._encoded[text] = ids
                while len(self._encoded) > 256:
                    del self._encoded[next(iter(self._encoded))]
        return ids

    def decode(self, ids: list[int], *, names: bool = False) -> str:
        """The text of ids; special tokens are left out, unless their `names` are wanted."""
        return self._decode(ids, skip_special_tokens=not names)

    def length_of(self, ids: Sequence[int]) -> int:
        """The length of the text of ids."""
        if len(ids) != 1:
            return len(self.decode(ids))
        length = self._lengths.get(ids[0])
        if length is None:
            length = self._lengths[ids[0]] = len(self.decode(ids))
        return length

    def text_of(self, token: int) -> str:
        """The text of one token within a text, "" for an end of sequence; a part of a character is a replacement character."""
        if token in self.end_ids:
            return ""
        text = self._texts.get(token)
        if text is None:
            before = self.decode(self._anchor, names=True)
            text = self._texts[token] = self.decode([*self._anchor, token], names=True)[len(before) :]
        return text


def _plain_decode(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    """The tokenizer's `decode` without clean-up. What transformers does around its Rust part takes most of the time of few ids."""
    kind = type(tokenizer)
    if (
        kind.decode is PreTrainedTokenizerBase.decode
        and getattr(kind, "_decode", None) is PreTrainedTokenizerFast._decode
    ):
        return tokenizer.backend_tokenizer.decode
    return functools.partial(tokenizer.decode, clean_up_tokenization_spaces=False)


class GrowingText:
    """The text of tokens as they come, one after another, after a prompt's."""

    def __init__(self, vocabulary: Vocabulary, prompt_ids: list[int]):
        self._vocabulary = vocabulary
        first = max(0, len(prompt_ids) - TOKENS_BEFORE)
        # Decoding begins with a whole character: of bytes that do not, some decoders lose those that follow too.
        while first and len(prompt_ids) - first < 3 * TOKENS_BEFORE:
            if not vocabulary.decode(prompt_ids[first:]).startswith(REPLACEMENT):
                break
            first -= 1
        # The text of `_old` has been given out, and of `_new` the first `_given` characters.
        self._old, self._new, self._given = prompt_ids[first:], [], 0
        self._old_length = len(vocabulary.decode(self._old))

    def add(self, *tokens: int) -> str:
        """The text that tokens add: "" for an end of sequence, for special tokens, and while a character is not whole.

        It does not matter how many come at once.
        """
        if tokens[-1] in self._vocabulary.end_ids:
            tokens = tokens[:-1]
        if not tokens:
            return ""
        text = self._vocabulary.decode(self._old + self._new + list(tokens))[self._old_length :]
        if len(tokens) > 1 and REPLACEMENT in text:
            # Some decoders take all bytes in a row for broken where one is, also those that were whole when they came.
            return "".join(self.add(token) for token in tokens)
        self._new += tokens
        whole = text.rstrip(REPLACEMENT)
        piece = whole[self._given :]
        self._given = max(self._given, len(whole))
        if text and whole == text:
            if len(tokens) > 1:
                self._new = self._last_character()
            self._old, self._new, self._given = self._new, [], 0
            self._old_length = self._vocabulary.length_of(self._old)
        return piece

    def _last_character(self) -> list[int]:
        """The tokens of `_new` that are decoded along with what comes: one, or those that are a character together."""
        ends = (self._new[-n:] for n in range(1, len(self._new)))
        return next((end for end in ends if REPLACEMENT not in self._vocabulary.decode(end)), self._new)
