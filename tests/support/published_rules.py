"""The published programs' rules of text once more, by another route than pad/published_text.py: cases in words, and pieces.

Nothing here calls find, replace or removeprefix: a mark is searched for by regular expressions, a text removed by splitting at it,
and what Python makes of a missing mark is written out case by case.
"""

import re


def _place(mark: str, text: str) -> int | None:
    found = re.search(re.escape(mark), text)
    return found.start() if found else None


def _without(text: str, part: str) -> str:
    return "".join(text.split(part)) if part else text


def _first_as(text: str, word: str, other: str) -> str:
    before, *after = re.split(re.escape(word), text, maxsplit=1)
    return before + other + after[0] if after else before


def _behind(text: str, prompt: str) -> str:
    return text[len(prompt) :] if text[: len(prompt)] == prompt else text


def field_of(row: dict, program: str) -> str:
    if program == "args":
        return row["response"] if "response" in row else row["output"]
    return row["result"] if "result" in row else row["output"] if "output" in row else row["response"]


def of_pad(row: dict, experiment: str) -> str:
    text = field_of(row, "pad")
    if experiment == "shp":
        return text
    rest = _behind(text, row["prompt"])
    if rest[:2] == ": ":
        text = rest[2:]
    return _without(text, "system\n\nuser\n\n")


def of_args(row: dict, experiment: str) -> str:
    text = field_of(row, "args")
    if experiment == "shp":
        return text
    rest = _behind(text, row["prompt"])
    for i in range(len(rest)):
        if rest[i : i + 6].lower() == "human:" and len(rest[i : i + 6]) == 6:
            rest = rest[:i]
            break
    return row["prompt"] + rest


def transcript(text: str) -> str:
    text = _first_as(_first_as(text, "assistant", " Assistant:"), "user", "Human:")
    start, end = _place("[Guidelines]", text), _place("[Instruction]", text)
    if start is None and end is None:
        return text
    if start is None:  # from the last character on, which is there if the text ends in [Instruction]
        return _without(text, "]" if len(text) == end + 13 else "")
    if end is None:  # up to the 12th character
        return _without(text, text[start:12] if start < 12 else "")
    return _without(text, text[start : end + 13] if start < end + 13 else "")


def armorm(text: str) -> tuple[str, str]:
    cut = _place("assistant\n\n", text)
    if cut is None:
        query, answer = text[: max(0, len(text) - 1)], text[10:]
    else:
        query, answer = text[:cut], text[cut + 11 :]
    query, answer = query.strip(), answer.strip()
    mark = _place("[Instruction]", query)
    return _without(query, query[: 12 if mark is None else mark + 13]), answer
