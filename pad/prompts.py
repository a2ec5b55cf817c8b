"""Prompts as the models read them: preference text, instruction and chat template, as token ids."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from command.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATES = ("auto", "on", "off")
CONTEXT_TOKENS = 8  # that many tokens before an answer say how its first one is written
_PRINCIPLES = re.compile(r"(\[Principles\]\s*)(.*?)(\s*\[Instruction\])", re.DOTALL)


class UnwritablePrompt(OptionError):
    """A text that a chat template or a tokenizer fails on."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: its number, the user's words, the preference text before them, and the token ids.

    `ids` is what the base LM reads and, where it has the same tokenizer, the reward model. `plain_ids` lacks the preference text.
    `rm_ids` is what a reward model with another tokenizer reads. `unwritable`: why there are no ids.
    """

    index: int
    instruction: str
    sys_prompt: str
    ids: tuple[int, ...]
    plain_ids: tuple[int, ...] = ()
    rm_ids: tuple[int, ...] = ()
    unwritable: str = ""

    @property
    def text(self) -> str:
        """Preference text and instruction, as one user message has them."""
        return self.sys_prompt + self.instruction


def with_perspective(sys_prompt: str, perspective: str | None) -> str:
    """The preference text with other principles: what stands between [Principles] and [Instruction] is replaced.

    Raises:
        OptionError: there is no such place.
    """
    if perspective is None:
        return sys_prompt
    if not _PRINCIPLES.search(sys_prompt):
        raise OptionError(
            "a configuration's perspective replaces what stands between [Principles] and [Instruction] in --sys_prompt, "
            "which has no such place"
        )
    return _PRINCIPLES.sub(lambda found: found[1] + perspective + found[3], sys_prompt, count=1)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str, template: bool) -> tuple[int, ...]:
    """Token ids of a user message: through the chat template with a generation prompt, or as it is.

    Raises:
        UnwritablePrompt: the template or the tokenizer fails on this text.
        OptionError: there is no chat template.
    """
    if template and not tokenizer.chat_template:
        raise OptionError("the tokenizer has no chat template; --chat_template off gives prompts as they are")
    turns = [{"role": "user", "content": text}]
    try:
        if not template:
            return tuple(tokenizer(text)["input_ids"])
        ids = tuple(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False))
    except Exception as error:  # templates raise errors of their own
        what = "the chat template cannot be used" if template else "the tokenizer cannot read it"
        way_out = "; --chat_template off does without it" if template else ""
        raise UnwritablePrompt(f"{what} ({str(error) or type(error).__name__}){way_out}") from None
    if not ids:
        raise UnwritablePrompt(
            "the chat template cannot be used (it gives no text); --chat_template off does without it"
        )
    return ids


def decode_answer(tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The text of an answer's tokens, without special tokens, as it continues the prompt's text.

    Decoded by itself an answer would lose the space that its first token begins with, in SentencePiece vocabularies.
    """
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = list(prompt[-CONTEXT_TOKENS:])
    start, both = tokenizer.decode(before, **options), tokenizer.decode(before + list(answer), **options)
    return both[len(start) :] if both.startswith(start) else tokenizer.decode(list(answer), **options)


def same_vocabulary(lm: "PreTrainedTokenizerBase", rm: "PreTrainedTokenizerBase") -> bool:
    """Whether each token of the base LM, special ones included, is the reward model's token of the same id."""
    theirs = rm.get_vocab()
    return all(theirs.get(token) == i for token, i in lm.get_vocab().items())
