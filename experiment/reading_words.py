"""Dates and words in an answer, as experiment/reading.py reads the other kinds."""

import re
from datetime import date

from experiment.reading import OPENING, own_part, statements

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" if name != "may" else "may" for name in _MONTHS)
_LAST_OF_2000 = 68  # years of two digits, as POSIX has them
_DATES = (
    (re.compile(r"(?<![\d/-])(\d{1,2})[/-](\d{1,2})[/-](\d{4}|\d{2})(?![\d/]|-\d)"), (0, 1, 2)),
    (re.compile(r"(?<![\d/-])(\d{4})[/-](\d{1,2})[/-](\d{1,2})(?!\w|[/-]\d)"), (1, 2, 0)),
    (re.compile(rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?,?(?:\s+of)?\s+(\d{{4}})\b", re.IGNORECASE), (0, 1, 2)),
    (
        re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?[\s-]+(?:of\s+)?({_MONTH})\.?,?[\s-]+(\d{{4}})\b", re.IGNORECASE),
        (1, 0, 2),
    ),
)


def read_date(answer: str) -> str | None:
    """A date as MM/DD/YYYY: the one that is stated last, else the last of all."""
    answer = own_part(answer)
    for said in reversed(statements(answer)):
        first = said.lstrip().split("\n")[0]
        if (found := _dates(first)) and not re.match(r"[\s*_]*not\b", first):
            return found[0]
    found = _dates(answer)
    return found[-1] if found else None  # also where the last is no day: a calculation that went wrong has no date


def _dates(text: str) -> list[str | None]:
    """All dates of a text in their order, as MM/DD/YYYY; None for what has their form and is no day of a calendar."""
    found = []
    for pattern, (month, day, year) in _DATES:
        for match in pattern.finditer(text):
            told = match.groups()
            name = told[month].casefold()[:3]
            number = int(name) if name.isdecimal() else next(i for i, one in enumerate(_MONTHS, 1) if one[:3] == name)
            whole = int(told[year])
            if len(told[year]) == 2:
                whole += 1900 if whole > _LAST_OF_2000 else 2000
            try:
                day_told = date(whole, number, int(told[day]))
            except ValueError:
                found.append((match.start(), None))
            else:
                found.append((match.start(), f"{day_told:%m/%d}/{day_told.year:04}"))
    return [told for _, told in sorted(found, key=lambda one: one[0])]


_LETTERS = r"[A-Za-z](?:\s*[-,+.]\s*[A-Za-z]\b|\s[A-Za-z]\b)+"  # one by one
_WORD = rf"(?:{_LETTERS}|[A-Za-z]{{2,}})"
_RESULT = re.compile(
    r"\b(?:result\w*|concatenat\w+|combin\w+|output|together|final (?:string|word))\b[^.\n:;?\"“]{0,60}?"
    r"(?:\bis\b|\bare\b|\bgives?\b|\bbecomes\b|\bwould be\b|\bwill be\b|:|=)\s*[:=]?\s*",
    re.IGNORECASE,
)
_GIVES = (
    r"(?:\b(?:is|gives?|gets?|becomes?|forms?|yields?|makes?|spells?|into|have|as)\b|[:=])\s*"
    r"(?:\b(?:the|a)\s+)?(?:[a-z]+\s+){0,2}"
)
_NO_OTHER = r"(?!\s*(?:,|and\b|or\b)\s*[\"“‘'])"  # of two words, neither is the answer


def read_word(answer: str) -> str | None:
    """A word: the one that is stated last, else the last result in quotes, else a last line that is one word.

    In lower case, letters alone. Letters may be given one by one; several words are no word, and one letter only in quotes.
    """
    answer = own_part(answer)
    for said in reversed(statements(answer, _RESULT)):
        ends = r"(?=[\s,:!?)*\"'’”`}\]]*(?:$|\n|[.;]))"
        if found := re.match(rf"{OPENING}({_WORD}){ends}", said):
            return letters(found[1])
        if found := re.match(rf"[\s*_`(\[]*[\"“‘']({_WORD}|[A-Za-z])[.,]?[\"”’']{_NO_OTHER}", said):
            return letters(found[1])
    if quoted := re.findall(rf"{_GIVES}[*_]*[\"“]({_WORD})[.,]?[\"”]{_NO_OTHER}", answer):
        return letters(quoted[-1])
    lines = [line.strip(' .*_`"') for line in answer.strip().splitlines() if line.strip()]
    if lines and re.fullmatch(_WORD, lines[-1]):
        return letters(lines[-1])
    return None


def letters(text: str) -> str:
    """The letters of a text, in lower case."""
    return "".join(re.findall("[a-z]", text.lower()))
