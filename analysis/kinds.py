"""What kind of token stands at a place: a simple classification by the text alone, with word lists that anybody can check.

English alone: words of other languages count as content words.
"""

import re

# In this order: the first that holds.
KINDS = (
    "newline",
    "blank",
    "digits",
    "punctuation",
    "inside a word",
    "discourse word",
    "first word of a sentence",
    "function word",
    "content word",
)
DISCOURSE = frozenset(
    """also accordingly actually additionally afterwards alternatively anyway because besides but certainly consequently conversely
    finally first firstly further furthermore great hello hence here hi however if in instead lastly let let's likewise meanwhile
    moreover nevertheless next nonetheless now okay ok otherwise overall rather second secondly similarly since so step still sure
    then thereafter therefore third thirdly though thus ultimately well yes no""".split()
) - {"in", "here"}
FUNCTION = frozenset(
    """a about above across after against all along among an and any are around as at be been before being below between both by can
    could did do does doing down during each either every few for from had has have having he her hers him his how i in into is it
    its many may me might more most much must my neither nor not of off on one only or other our out over own shall she should some
    such than that the their them there these they this those through to too under until up upon us was we were what when where
    which while who whom whose why will with without would you your""".split()
)
_ENDS_SENTENCE = re.compile(r"(?:[.!?:][\"')\]*]*|\n)\s*\Z")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
# A unit of a text: a run of newlines with the blanks around it, a word, a number, other blanks, or one sign.
_UNIT = re.compile(r"\s*\n\s*|[^\W\d_]+(?:['’][^\W\d_]+)*|\d[\d.,]*\d|\d|\s+|[^\s]")


def kind_of(text: str, start: int, end: int) -> str:
    """The kind, one of KINDS, of the characters `start` to `end` of a text, at least one.

    A piece of a word is classified by the whole word where it begins it. The text's beginning begins a sentence.
    """
    piece = text[start:end]
    shown = piece.strip()
    if not shown:
        return "newline" if "\n" in piece else "blank"
    if "\n" in piece:
        return "newline"
    if any(character.isdigit() for character in shown):
        return "digits"
    begin = start + len(piece) - len(piece.lstrip())
    word = _WORD.match(text, begin)
    if word is None:
        return "punctuation" if not any(character.isalpha() for character in shown) else "inside a word"
    if (begin and text[begin - 1].isalpha()) or re.search(r"[^\W\d_]['’]\Z", text[:begin]):
        return "inside a word"
    lowered = word[0].lower().replace("’", "'")
    if lowered in DISCOURSE:
        return "discourse word"
    if not text[:begin].strip() or _ENDS_SENTENCE.search(text[:begin]):
        return "first word of a sentence"
    return "function word" if lowered in FUNCTION else "content word"


def units_of(text: str) -> list[tuple[int, int]]:
    """The words, numbers, signs and newlines of a text as (start, end); blanks between them are left out."""
    found = [(match.start(), match.end()) for match in _UNIT.finditer(text)]
    return [(start, end) for start, end in found if text[start:end].strip() or "\n" in text[start:end]]
