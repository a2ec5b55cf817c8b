"""Prompts as the models read them: preference, earlier turns, the user's words and chat template, as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from command.errors import OptionError
from pad.preferences import NO_PREFERENCE, Preference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATES = ("auto", "on", "off")
CONTEXT_TOKENS = 8  # that many tokens before an answer say how its first one is written
_NO_TEMPLATE = "the tokenizer has no chat template; --chat_template off gives prompts as they are"
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_INSTRUCTION = "[Instruction]"
Turns = list[dict[str, str]]


class UnwritablePrompt(OptionError):
    """A text that a chat template or a tokenizer fails on."""


@dataclass(frozen=True)
class Asked:
    """What is to be answered: the user's words, the turns before them as (role, text), and a preference of its own, if it has one.

    `system`: that preference is a system turn, not a text before the user's words.
    """

    words: str
    before: tuple[tuple[str, str], ...] = ()
    preference: Preference | None = None
    system: bool = False

    @property
    def instruction(self) -> str:
        """The user's words; of several turns the dialogue, as HH-RLHF writes it, which waits for the assistant's next line."""
        if not self.before:
            return self.words
        lines = [f"\n\n{_SPEAKERS[role]}: {text}" for role, text in (*self.before, ("user", self.words))]
        return "".join(lines) + "\n\nAssistant:"

    def turns(self, preference: str, system: bool) -> Turns:
        """The turns of a chat, the preference before the first words of the user, or as a system turn of its own."""
        turns = [{"role": role, "content": text} for role, text in (*self.before, ("user", self.words))]
        if system and preference.strip():
            # That mark says that the user's words follow, which stand in another turn here.
            return [{"role": "system", "content": preference.strip().removesuffix(_INSTRUCTION).rstrip()}, *turns]
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = preference + first["content"]
        return turns


@dataclass(frozen=True)
class Prompt:
    """One prompt: its number, the user's words (or dialogue), the preference text before them, and the token ids.

    `ids` is what the base LM reads and, where it has the same tokenizer, the reward model. `plain_ids` lacks the preference text.
    `rm_ids` is what a reward model with another tokenizer reads. `unwritable`: why there are no ids. Of several answers to one
    prompt each has a `sample`, from 0. `messages` are the turns of a conversation, with its own system turn.
    """

    index: int
    instruction: str
    sys_prompt: str
    ids: tuple[int, ...]
    plain_ids: tuple[int, ...] = ()
    rm_ids: tuple[int, ...] = ()
    unwritable: str = ""
    preference: Preference = NO_PREFERENCE
    sample: int = 0
    messages: Turns | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """Preference text and instruction, as one user message has them."""
        return self.sys_prompt + self.instruction

    @property
    def key(self) -> tuple[int, int]:
        """What tells its answer from others in one file."""
        return self.index, self.sample


def encode(tokenizer: "PreTrainedTokenizerBase", asked: str | Turns, template: bool) -> tuple[int, ...]:
    """Token ids of a user message or of turns through the chat template with a generation prompt, or of a text as it is.

    Raises:
        UnwritablePrompt: the template or the tokenizer fails on this text.
        OptionError: there is no chat template.
    """
    if template and not tokenizer.chat_template:
        raise OptionError(_NO_TEMPLATE)
    try:
        if not template:
            return tuple(tokenizer(asked)["input_ids"])
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
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


def writes_system_turns(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a tokenizer's chat template writes a system turn, and does not leave it out or refuse it."""
    turns = [{"role": "system", "content": "The system text."}, {"role": "user", "content": "The words of the user."}]
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except Exception:  # templates raise errors of their own
        return False
    return all(turn["content"] in text for turn in turns)


def decode_answer(tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The text of an answer's tokens, without special tokens, as it continues the prompt's text.

    Decoded by itself an answer would lose the space that its first token begins with, in SentencePiece vocabularies. The texts of
    language_models.local.vocabulary are those that a server streams: they leave out a last character that is not whole, which
    here is U+FFFD, as in the published programs' outputs.
    """
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = list(prompt[-CONTEXT_TOKENS:])
    start, both = tokenizer.decode(before, **options), tokenizer.decode(before + list(answer), **options)
    return both[len(start) :] if both.startswith(start) else tokenizer.decode(list(answer), **options)


def same_vocabulary(lm: "PreTrainedTokenizerBase", rm: "PreTrainedTokenizerBase") -> bool:
    """Whether each token of the base LM, special ones included, is the reward model's token of the same id.

    That model may know more tokens. A draft of language_models.local is made in either direction, and needs equal vocabularies.
    """
    theirs = rm.get_vocab()
    return all(theirs.get(token) == i for token, i in lm.get_vocab().items())
