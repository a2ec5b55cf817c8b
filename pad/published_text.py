"""The text that the published programs give to their reward models, flaws included, for comparison with published numbers.

Two programs: PAD's (Chen et al., ICLR 2025, arXiv 2410.04070), `--format upstream`, and ARGS's (Khanov et al., ICLR 2024,
arXiv 2402.01694), `--format args`. Each function is one of their rules. Where a mark that they search for is missing, Python's
`find` gives -1 and they go on with it: so do these.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

GUIDELINES, INSTRUCTION = "[Guidelines]", "[Instruction]"
ROLE_WORDS = "system\n\nuser\n\n"  # of a Llama-3 chat whose special tokens were dropped
ANSWER_HEADER = "assistant\n\n"
_HUMAN = re.compile("human:", re.IGNORECASE)


@dataclass(frozen=True)
class PublishedFormat:
    """One program's rules: fields in the order in which they are looked for, and how many tokens are too many."""

    fields: tuple[str, ...]
    too_long: int  # rows of that many tokens are skipped
    empty_twice_in_patterns: (
        bool  # an empty text counts 0.0; whether it is scored as well where files are given by a pattern
    )


PUBLISHED_FORMATS = {
    "upstream": PublishedFormat(("result", "output", "response"), 1024, False),
    "args": PublishedFormat(("response", "output"), 1334, True),
}
HUMOR_LENGTH = 512  # tokens that PAD's humor classifier reads


def pad_text(text: str, prompt: str, experiment: str) -> str:
    """PAD's text of a row: its `result`, else `output`, else `response`.

    In "hhrlhf" a rest behind the prompt that begins with ": " is taken without it, else the text is whole, prompt included; then
    the role words of a chat with an empty system turn are removed. In "shp" the text is as it is.
    """
    if experiment == "shp":
        return text
    rest = text.removeprefix(prompt)
    return (rest[2:] if rest.startswith(": ") else text).replace(ROLE_WORDS, "")


def args_text(text: str, prompt: str, experiment: str) -> str:
    """ARGS's text of a row: its `response`, else `output`.

    In "hhrlhf" the prompt and what stands behind it, up to the first "human:" in any case; no blank is removed. In "shp" the text
    is as it is.
    """
    if experiment == "shp":
        return text
    return prompt + _HUMAN.split(text.removeprefix(prompt), maxsplit=1)[0]


def without_preference(text: str) -> str:
    """A text without what stands from [Guidelines] up to [Instruction], that one included, wherever it occurs; PAD's.

    Without either mark nothing is removed.
    """
    start, end = text.find(GUIDELINES), text.find(INSTRUCTION)
    if start == end == -1:
        return text
    return text.replace(text[start : end + len(INSTRUCTION)], "")


def transcript(text: str) -> str:
    """What PAD's scorers but ArmoRM read: the first "assistant" is " Assistant:", the first "user" is "Human:", in words too."""
    return without_preference(text.replace("assistant", " Assistant:", 1).replace("user", "Human:", 1))


def armorm_turns(text: str) -> tuple[str, str]:
    """Query and answer as PAD's program cuts them for ArmoRM's chat template, at the first "assistant" with an empty line behind.

    The query loses its beginning up to [Instruction], and that text wherever it occurs again; without the mark it loses its
    first 12 characters.
    """
    cut = text.find(ANSWER_HEADER)
    query, answer = text[:cut].strip(), text[cut + len(ANSWER_HEADER) :].strip()
    beginning = query[: query.find(INSTRUCTION) + len(INSTRUCTION)]
    return query.replace(beginning, ""), answer


def row_text(row: Mapping[str, str], text_format: str, experiment: str, field: str | None = None) -> str:
    """The text of a row by a program's rules, before it is made into what a model reads.

    Args:
        row: `prompt`, and the texts that it has of `result`, `output` and `response`.
        text_format: one of PUBLISHED_FORMATS.
        field: the field of the answers, where it is none of the program's.

    Raises:
        KeyError: the row has no such text.
    """
    names = (field,) if field else PUBLISHED_FORMATS[text_format].fields
    name = next((name for name in names if name in row), names[-1])
    rule = args_text if text_format == "args" else pad_text
    return rule(row[name], row["prompt"], experiment)
