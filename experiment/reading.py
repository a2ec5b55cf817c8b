"""What a person would read in an answer without a judge: a letter, yes or no, a date, a word. Rules of our own.

Each reader gives None where nothing, or two different things, can be read. A statement ("the answer is ...") counts more than
what stands beside it, and of several statements the last, since answers that reason correct themselves.
"""

import re
from datetime import date

VERSION = 1  # of all readers together: scores by another version are not mixed with those of this one

_STATEMENT = re.compile(
    r"\b(?:final answer|correct answer|right answer|best answer|answer|correct (?:option|choice|statement)|option|choice)\b"
    r"[^.\n:;]{0,60}?(?:\bis\b|\bwould be\b|\bshould be\b|\bmust be\b|:|=)\s*[:=]?\s*",
    re.IGNORECASE,
)
_OPENING = r"[\s*_`\"'“‘(\[{$\\]*(?:boxed\{|text\{|option\s+|choice\s+|letter\s+|answer\s+)*[\s*_`\"'“‘(\[{]*"
_OPTION_LINE = re.compile(r"^([A-Z]|[1-9])\. (.*)$", re.MULTILINE)
_CONCLUSION = re.compile(r"\b(?:therefore|thus|hence|so|in conclusion|to conclude)\b[,:]?\s*", re.IGNORECASE)
_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" if name != "may" else "may" for name in _MONTHS)
_DATES = (
    (re.compile(r"\b(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})\b"), (0, 1, 2)),
    (re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b"), (1, 2, 0)),
    (re.compile(rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b", re.IGNORECASE), (0, 1, 2)),
    (re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})\.?,?\s+(\d{{4}})\b", re.IGNORECASE), (1, 0, 2)),
)


def options_of(question: str) -> dict[str, str]:
    """The choices at a question's end, lines "A. text", by their labels."""
    return {label: text.strip() for label, text in _OPTION_LINE.findall(question)}


def plain_text(text: str) -> str:
    """A text without marks of Markdown, in lower case, its blanks single: for comparing wordings."""
    return " ".join(re.sub(r"[*_`$\\{}]", "", text).casefold().split())


def _statements(answer: str) -> list[str]:
    """What stands behind each "the answer is", the last one first."""
    return [answer[found.end() :] for found in _STATEMENT.finditer(answer)][::-1]


def _label(text: str, labels: str) -> str | None:
    """The label that a text begins with: by itself, in brackets, or before a point; a letter that begins a word is none."""
    found = re.match(
        rf"{_OPENING}([{labels}])(?=[)\].:}},*\"'’”`]|\s*$|\s*\n|\s+(?:is|because|since|as|and|-|–)\b)", text
    )
    return found[1] if found else None


def _starts_with_option(text: str, options: dict[str, str]) -> str | None:
    """The label of the option whose text stands at a text's beginning, the longest where several do."""
    said = plain_text(text).lstrip("\"'“‘([ ")
    said = re.sub(r"^(?:the|a|an)\s+", "", said)
    fits = []
    for label, option in options.items():
        wording = re.sub(r"^(?:the|a|an)\s+", "", plain_text(option).rstrip("."))
        if wording and re.match(rf"{re.escape(wording)}(?!\w)", said):
            fits.append((len(wording), label))
    longest = max(fits, default=(0, ""))
    return longest[1] or None if sum(length == longest[0] for length, _ in fits) == 1 else None


def read_choice(answer: str, options: dict[str, str]) -> str | None:
    """The label of the option that an answer chooses.

    Args:
        options: the texts of the options by their labels; without any, labels A to E are looked for.
    """
    labels = "".join(options) or "ABCDE"
    for said in _statements(answer):
        if found := _label(said, labels) or _starts_with_option(said, options):
            return found
    if boxed := re.findall(rf"\\boxed\{{\W*(?:\\text\{{)?\W*([{labels}])\b", answer):
        return boxed[-1]
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    for line in lines[:1] + lines[-1:]:
        if found := re.match(rf"{_OPENING}([{labels}])(?:[).:\]*]|\s*$)", line):
            others = {label for label in re.findall(rf"^{_OPENING}([{labels}])[).:\]]", answer, re.MULTILINE)}
            if len(others) <= 1:  # else the options are only listed again
                return found[1]
    if len(named := {*re.findall(rf"\(([{labels}])\)", answer)}) == 1:
        return named.pop()
    said = plain_text(answer)
    written = [
        label
        for label, option in options.items()
        if (wording := plain_text(option).rstrip(".")) and re.search(rf"(?<!\w){re.escape(wording)}(?!\w)", said)
    ]
    return written[0] if len(written) == 1 else None


def _polarity(text: str, yes: str, no: str) -> bool | None:
    """Which of two kinds of words a text begins with."""
    found = re.match(rf"{_OPENING}(?:(?P<yes>{yes})|(?P<no>{no}))\b", text, re.IGNORECASE)
    return None if found is None else found["yes"] is not None


def _read_polarity(answer: str, yes: str, no: str, anywhere_yes: str = "", anywhere_no: str = "") -> bool | None:
    """Yes or no: stated, at the beginning, in a conclusion, or by the only kind of words that there is.

    Args:
        yes, no: patterns of words that are an answer by themselves.
        anywhere_yes, anywhere_no: patterns of wordings that are one anywhere, the last of which counts.
    """
    for said in _statements(answer):
        if (found := _polarity(said, yes, no)) is not None:
            return found
    if (found := _polarity(answer, yes, no)) is not None:
        return found
    for place in [found.end() for found in _CONCLUSION.finditer(answer)][::-1]:
        if (found := _polarity(answer[place:], yes, no)) is not None:
            return found
    if anywhere_yes and (wordings := [*re.finditer(rf"(?P<no>{anywhere_no})|(?P<yes>{anywhere_yes})", answer, re.I)]):
        return wordings[-1]["yes"] is not None
    alone = {
        kind
        for kind, words in ((True, yes), (False, no))
        if re.search(rf"(?:^|[.!?:\n]\s*|[\"'(*])(?:{words})(?=[.!?,;:)\"'*\n]|$)", answer, re.IGNORECASE)
    }
    return alone.pop() if len(alone) == 1 else None


def read_yes_no(answer: str) -> str | None:
    """ "yes" or "no" (also true and false)."""
    found = _read_polarity(answer, "yes|true", "no|false")
    return None if found is None else "yes" if found else "no"


def read_coin(answer: str) -> str | None:
    """ "yes" or "no": whether the coin is still heads up."""
    no = r"(?:is |be )?(?:not|no longer|isn't|never) (?:still )?(?:be )?heads[- ]?up|tails[- ]?up|(?:shows?|on|to|is) tails"
    yes = r"(?:is |be |remains? |stays? )?(?:still )?heads[- ]?up"
    found = _read_polarity(answer, "yes|true", "no|false", yes, no)
    return None if found is None else "yes" if found else "no"


def read_plausible(answer: str) -> str | None:
    """ "yes" or "no": whether a sentence is called plausible."""
    no = r"(?:not|isn't|n't|hardly|less than) (?:\w+ )?(?:plausible|possible|likely)|implausible|impossible|unlikely|nonsensical"
    yes = r"plausible|makes sense"
    found = _read_polarity(answer, "yes|true|plausible", "no|false|implausible|not plausible", yes, no)
    return None if found is None else "yes" if found else "no"


def read_date(answer: str) -> str | None:
    """A date as MM/DD/YYYY: the stated one, else the last."""
    for said in _statements(answer):
        if (found := _dates(said.split("\n")[0])) and found[0]:
            return found[0]
    found = _dates(answer)
    return found[-1] if found else None


def _dates(text: str) -> list[str]:
    """All dates of a text in their order, as MM/DD/YYYY; what is no day of a calendar is none."""
    found = []
    for pattern, (month, day, year) in _DATES:
        for match in pattern.finditer(text):
            told = match.groups()
            name = told[month].casefold()[:3]
            number = (
                next((i for i, one in enumerate(_MONTHS, 1) if one.startswith(name)), None)
                if name.isalpha()
                else int(name)
            )
            whole = int(told[year]) + (2000 if len(told[year]) == 2 else 0)
            try:
                found.append((match.start(), date(whole, number or 0, int(told[day])).strftime("%m/%d/%Y")))
            except ValueError:
                continue
    return [told for _, told in sorted(found)]


_WORD = r"[A-Za-z](?:[A-Za-z]*|(?:\s*[-,+]\s*[A-Za-z])+)"


def read_word(answer: str) -> str | None:
    """A word: the stated one, else the last in quotes, else a last line that is one word; in lower case, letters alone."""
    for said in _statements(answer):
        if found := re.match(rf"{_OPENING}({_WORD})(?=[\s.,;:!?)*\"'’”`}}\]]*(?:$|\n|[.;]))", said):
            return letters(found[1])
        if found := re.match(r"[\s*_`(\[]*[\"“‘']([A-Za-z][A-Za-z\s,+-]*)[.,]?[\"”’']", said):
            return letters(found[1])
    if quoted := re.findall(r"[\"“]([A-Za-z](?:[A-Za-z]|\s*[-,+]\s*|\s(?=[A-Za-z]\b))*)[.,]?[\"”]", answer):
        return letters(quoted[-1])
    lines = [line.strip(" .*_`") for line in answer.strip().splitlines() if line.strip()]
    if lines and re.fullmatch(_WORD, lines[-1]):
        return letters(lines[-1])
    return None


def letters(text: str) -> str:
    """The letters of a text, in lower case."""
    return "".join(re.findall("[a-z]", text.lower()))
