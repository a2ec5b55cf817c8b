"""What a GGUF file says of its model, read without loading it (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

The package gguf makes an object of every word of the vocabulary, which takes 4 to 20 s per file; this takes a tenth of a second.
"""

import mmap
import struct
from pathlib import Path

from command.errors import UserError
from language_models.chat_templates import PromptWriter, jinja_renderer, prompt_writer

# By the number of a value's type; 8 is a text, 9 a list.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
# Files that do not say whether a BOS goes in front of a prompt: llama.cpp goes by the kind of tokenizer (src/llama-vocab.cpp).
_BOS_BY_MODEL = ("llama", "bert")
_BOS_BY_PRE = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
    *("tekken", "chameleon"),
)


class GGUFError(UserError):
    """A file is no GGUF file, or what it says cannot be used; the message says which and what to do."""


class _Reader:
    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 8  # behind "GGUF" and the version

    def number(self, form: str):
        (found,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return found

    def text(self) -> bytes:
        length = self.number("Q")
        found = self.data[self.at : self.at + length]
        if len(found) < length:
            raise ValueError("it ends within a text")
        self.at += length
        return found

    def value(self, kind: int):
        if kind == _TEXT:
            return self.text().decode("utf-8", "replace")
        if kind != _LIST:
            return self.number(_NUMBERS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind == _TEXT:
            return [self.text() for _ in range(count)]
        if kind == _LIST:
            return [self.value(kind) for _ in range(count)]
        self.at += count * struct.calcsize(f"<{_NUMBERS[kind]}")
        return None  # lists of numbers are scores and kinds of words, which nobody here asks for


def read_metadata(path: Path) -> dict:
    """The keys and values at a file's beginning: numbers, texts, and lists of texts as bytes; other lists are None.

    Raises:
        GGUFError: it is no GGUF file, or cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            version = struct.unpack_from("<I", data, 4)[0]
            if data[:4] != b"GGUF" or version not in (2, 3):
                raise ValueError("not of version 2 or 3")
            reader = _Reader(data)
            _, count = reader.number("Q"), reader.number("Q")
            return {reader.text().decode(): reader.value(reader.number("I")) for _ in range(count)}
    except (OSError, ValueError, KeyError, struct.error, MemoryError, OverflowError) as error:
        raise GGUFError(f"{path} cannot be read ({error}); is it a GGUF file, and whole?") from None


def gguf_prompt_writer(path: Path) -> PromptWriter | None:
    """Writes prompts in the chat template that a GGUF file carries; None where it carries none.

    The BOS is left out where llama.cpp puts it in front of a prompt.

    Raises:
        GGUFError: the file cannot be read, or its template cannot be used.
    """
    found = read_metadata(path)
    source = found.get("tokenizer.chat_template")
    if not source:
        return None
    tokens = found.get("tokenizer.ggml.tokens") or []

    def text(name: str) -> str:
        number = found.get(f"tokenizer.ggml.{name}_token_id")
        known = isinstance(number, int) and 0 <= number < len(tokens)
        return tokens[number].decode("utf-8", "replace") if known else ""

    special = {f"{name}_token": text(name) for name in ("bos", "eos")}
    special |= {"unk_token": text("unknown"), "pad_token": text("padding")}
    model, pre = found.get("tokenizer.ggml.model"), found.get("tokenizer.ggml.pre")
    adds = found.get("tokenizer.ggml.add_bos_token", model in _BOS_BY_MODEL or pre in _BOS_BY_PRE)
    try:
        return prompt_writer(jinja_renderer(source, special), special["bos_token"] if adds else "")
    except ValueError as error:
        raise GGUFError(f"the chat template of {path} cannot be used ({error}); choose a template by name") from None
