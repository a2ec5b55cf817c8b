"""What a person would read in an answer without a judge: a letter, yes or no, a date, a word. Rules of our own.

Each reader gives None where nothing, or two different things, can be read. A statement ("the answer is ...") counts more than
what stands beside it, and of several statements the last, since answers that reason correct themselves; not where they go to and
fro. What an answer asks, or says under a condition, is no statement, and a further question that it begins is no part of it.
Checked against answers that were labelled by hand: tests/experiment/test_labelled_answers.py.
"""

import re
from itertools import pairwise

VERSION = 3  # of all readers together, raised with what they read: scores by another version are not mixed with these

_IS = r"(?:\bis\b|\bwould be\b|\bwill be\b|\bshould be\b|\bmust be\b|:|=|\s[-–—](?=\s))\s*[:=]?\s*"
_STATEMENT = re.compile(
    r"\b(?:final answer|correct answer|right answer|best answer|answer|correct (?:option|choice|statement)|option|choice)\b"
    rf"[^.\n:;?]{{0,60}}?{_IS}|\\boxed\{{|\bI(?: would|'d)? (?:choose|pick|select|suggest|go with)\b",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|so|overall|in conclusion|to conclude|in summary)\b[,:]?\s*", re.IGNORECASE
)
OPENING = (  # possessive, since an answer may be thousands of line breaks or marks
    r"\s*+(?:[-•#>]++\s++)?+[\s*_`\"'“‘(\[{$\\]*+(?:boxed\{|text\{|(?:option|choice|letter|answer)\s++)*+[\s*_`\"'“‘(\[{]*+"
)
_REACH = 1000  # characters behind "the answer is" that are looked at
_MARKS = "*_`\"'’”)]}."  # what may close a label or a word
_NEXT_QUESTION = re.compile(r"\n\s*[*_#]*(?:Question|Q)\b[^\n:]{0,10}:")
_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-Z]|[1-9])[.):] (.*)$", re.MULTILINE)
_CORRECT = r"(?:the\s+|a\s+)?(?:most\s+)?(?:correct|right|best|accurate|appropriate|likely)"
_NEGATION = re.compile(
    r"\b(?:not|no longer|never|cannot|neither|nor|hardly|without|except|unlike)\b|n[\'’]t\b", re.IGNORECASE
)
_REJECTED = re.compile(r"\b(?:is|are|was|were)(?: not|n['’]t)\b|\b(?:incorrect|wrong)\b", re.IGNORECASE)
_CONDITION = re.compile(r"\b(?:if|whether|when|unless|assum\w+|suppos\w+|to (?:determine|decide)|how)\b", re.IGNORECASE)


def options_of(question: str) -> dict[str, str]:
    """The choices at a question's end, lines "A. text", by their labels: from the last A (or 1) on, in unbroken order."""
    options: dict[str, str] = {}
    for label, text in _OPTION_LINE.findall(question):
        if label in ("A", "1"):
            options = {}
        if label in ("A", "1") or (options and ord(label) == ord([*options][-1]) + 1):
            options[label] = text.strip()
    return options


def plain_text(text: str) -> str:
    """A text without marks of Markdown, in lower case, its blanks single: for comparing wordings."""
    return " ".join(re.sub(r"[*_`$\\{}]", "", text).casefold().split())


def own_part(answer: str) -> str:
    """An answer without the next question that it goes on to; its blanks are single, its empty lines too."""
    answer = re.sub(r"\s+", lambda blanks: "\n" * min(2, blanks[0].count("\n")) or " ", answer)
    begun = _NEXT_QUESTION.search(answer)
    return answer[: begun.start()] if begun and answer[: begun.start()].strip() else answer


def statements(answer: str, *more: re.Pattern) -> list[str]:
    """What stands behind each "the answer is", in the order of the answer."""
    ends = {found.end() for pattern in (_STATEMENT, *more) for found in pattern.finditer(answer)}
    return [answer[end : end + _REACH] for end in sorted(ends)]


def _settled(told: list):
    """The last of several statements; None where there is none, or where they go to and fro."""
    changes = sum(one != before for before, one in pairwise(told))
    return told[-1] if told and changes <= 1 else None


def _sentences(answer: str) -> list[str]:
    """The sentences that claim something: no questions, and nothing that is said under a condition."""
    parts = re.split(r"(?<=[.!?])[\s*_\"”]+|\n+", answer)
    return [part for part in parts if part and not part.rstrip(' *_"”').endswith("?") and not _CONDITION.search(part)]


def _bare(text: str) -> str:
    """An option's text for comparison: without an article and the point at its end."""
    return re.sub(r"^(?:the|a|an)\s+", "", plain_text(text).lstrip("\"'“‘([ ")).rstrip(".")


def _starts_with_option(text: str, options: dict[str, str]) -> str | None:
    """The label of the option whose text stands at a text's beginning, the longest where several do."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    said, fits = _bare(line), []
    for label, option in options.items():
        wording = _bare(option)
        follows = r"(?=[\s\"'’”)\]]*(?:$|[,;:!?(]|\.(?!\d))|\s+(?:because|since|as|is|which|and|due|in|[-–—])(?!\w))"
        if wording and re.match(re.escape(wording) + follows, said):
            fits.append((len(wording), label))
    longest = max(fits, default=(0, ""))
    return longest[1] or None if sum(length == longest[0] for length, _ in fits) == 1 else None


def _chosen(text: str, options: dict[str, str], labels: str) -> set[str]:
    """The labels that a text begins with, by themselves or as an option's text: several where it says two different things."""
    follows = (
        r"(?=[)\]:},*\"’”`]|\.(?!\d)|'(?!\w)|\s*$|\s*\n|\s*\(|\s+(?:(?:is|because|since|as|and|or|with)\b|[-–—&/]))"
    )
    label = re.match(rf"{OPENING}([{labels}]){follows}", text)
    if label is None and (small := re.match(rf"[\s*_`\"'“‘]*(?:option\s+)?\(([{labels.lower()}])\)", text)):
        return {small[1].upper()}
    option = _starts_with_option(text, options)
    if option and (label is None or len(_bare(options[option])) > 1):  # a text may begin with a label: "A and B"
        return {option}
    if label is None:
        return set()
    rest = text[label.end() :]
    told = {label[1]}
    if another := re.match(
        rf"[{re.escape(_MARKS)}]*\s*(?:,?\s*\b(?:and|or)\b|[,/&])\s*\(?([{labels}])(?![\w'’]| [a-z])", rest
    ):
        told.add(another[1])
    text_of = _starts_with_option(rest.lstrip(f" ,:{_MARKS}").split("\n")[0], options)
    own = _bare(options.get(label[1], ""))
    if text_of and not (own and _bare(rest.lstrip(f" ,:{_MARKS}")).startswith(own)):
        told.add(text_of)
    return told


def read_choice(answer: str, options: dict[str, str]) -> str | None:
    """The label of the option that an answer chooses; None also where it gives one option's label with another's text.

    Args:
        options: the texts of the options by their labels; without any, labels A to E are looked for.
    """
    answer, labels = own_part(answer), "".join(options) or "ABCDE"
    called = re.compile(
        rf"(?<![\w/])(?<!and )(?<!or )(?=[*(\"']*[{labels}][)*\"'.:]*\s+(?:is|seems|would be)\s+{_CORRECT}\b)"
    )
    if told := [found for said in statements(answer, _CONCLUSION, called) if (found := _chosen(said, options, labels))]:
        found = _settled(told)
        return min(found) if found and len(found) == 1 else None
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    option_line = re.compile(rf"{OPENING}([{labels}])(?:[):\]*}}]|\.(?!\d)|\s*$)")
    listed = {found[1] for line in lines if (found := option_line.match(line))}
    # Several at the beginning, or before the end: the options are only listed again.
    first = lines[:1] if len(listed) == 1 or not any(map(option_line.match, lines[1:2])) else []
    for line in first + (lines[-1:] if len(listed) == 1 else []):
        if option_line.match(line):
            found = _chosen(line, options, labels)
            return min(found) if len(found) == 1 and not _REJECTED.search(line) else None
    if len(named := {*re.findall(rf"\(([{labels}])\)", answer)}) == 1:
        return named.pop()
    parts = [part for part in re.split(r"(?<=[.!?])\s+|\n+", answer.strip()) if part]
    if not parts or (len(parts) > 1 and not _CONCLUSION.match(parts[-1])) or _NEGATION.search(parts[-1]):
        return None
    said = plain_text(parts[-1])
    written = [
        label
        for label, option in options.items()
        if (wording := _bare(option)) and re.search(rf"(?<![\w.,]){re.escape(wording)}(?![\w]|[.,]\d)", said)
    ]
    return written[0] if len(written) == 1 else None


_OF_NO = (  # behind "no": else it belongs to a noun, as in "no one"
    r"(?=\s*(?:[.,;:!?)\]}*\"'’”`\n–—-]|$)|\s+(?:because|since|as|it|he|she|they|the|there|this|that|its|you|we|in|for|but)\b)"
)
_OTHER = r"(?!\s*(?:,?\s*(?:and|or)|/)\s*(?:no|false|implausible|yes|true|plausible)\b)"


def _polarity(text: str, yes: str, no: str) -> bool | None:
    """Which of two kinds of words a text begins with; None where it goes on to the other."""
    found = re.match(rf"{OPENING}(?:(?P<yes>{yes})\b|(?P<no>{no})\b{_OF_NO}){_OTHER}", text, re.IGNORECASE)
    return None if found is None else found["yes"] is not None


def _read_polarity(answer: str, yes: str, no: str, claim=lambda sentence: None) -> str | None:
    """Yes or no: at the beginning, stated or concluded; else claimed in other words; else by the only such word that there is.

    Args:
        yes, no: patterns of words that are an answer by themselves.
        claim: what a sentence says in other words, True, False or None.
    """
    answer = own_part(answer)
    said = [_polarity(one, yes, no) for one in (answer, *statements(answer, _CONCLUSION))]
    if told := [one for one in said if one is not None]:
        found = _settled(told)
    elif told := [one for sentence in _sentences(answer) if (one := claim(sentence)) is not None]:
        found = _settled(told)
    else:
        alone = {
            kind
            for kind, words in ((True, yes), (False, no))
            if re.search(rf"(?:^|[.!:\n]\s*|[\"'(*])(?:{words})(?=[.!,;:)\"'*\n]|$)", answer, re.IGNORECASE)
        }
        found = alone.pop() if len(alone) == 1 else None
    return None if found is None else "yes" if found else "no"


def read_yes_no(answer: str) -> str | None:
    """ "yes" or "no" (also true and false)."""
    return _read_polarity(answer, "yes|true", "no|false|not (?:really|entirely|exactly|at all)")


_SIDE = re.compile(
    r"\b(?:heads?|tails?)(?:[- ]side)?[- ]?up\b"
    r"|\b(?:is|be|not|shows?|showing|on|now|to|lands?|ended|up|still|again|remains?|back|becomes?)\s+(?:heads?|tails?)\b",
    re.IGNORECASE,
)
_OUTCOME = re.compile(  # without one, "the coin is heads up" is but what the question says
    r"\b(?:still|now|remain\w*|stay\w*|end\w*|land\w*|final\w*|after|so|therefore|thus|hence|will|back|shows?|becom\w+)\b",
    re.IGNORECASE,
)


def _claimed_side(sentence: str) -> bool | None:
    """Whether a sentence says that the coin shows heads in the end."""
    sides = [*_SIDE.finditer(sentence)]
    if not sides or re.search(
        r"\b(?:probability|chance|likely|outcomes?|either|question)\b|%", sentence, re.IGNORECASE
    ):
        return None
    named = [match[0].lower() for match in re.finditer(r"\b(?:head|tail)", sentence, re.IGNORECASE)]
    if len({*named}) > 1 and not re.search(r"\bto (?:heads?|tails?)\b", sentence, re.IGNORECASE):
        return None
    heads, negations = "head" in sides[-1][0].lower(), len(_NEGATION.findall(sentence[: sides[-1].end()]))
    if heads and negations == 1:
        return False
    return None if negations or (heads and not _OUTCOME.search(sentence)) else heads


def read_coin(answer: str) -> str | None:
    """ "yes" or "no": whether the coin is still heads up."""
    claims = [one for sentence in _sentences(own_part(answer)) if (one := _claimed_side(sentence)) is not None]
    # Flips are told one after another: the last is the outcome, however often it changed before.
    return _read_polarity(answer, "yes|true", "no|false", lambda _: claims[-1] if claims else None)


def _claimed_plausible(sentence: str) -> bool | None:
    """Whether a sentence calls something plausible."""
    if re.search(r"plausible\W+(?:or|nor|and)?\W*(?:implausible|not)", sentence, re.IGNORECASE):
        return None
    sentence = re.sub(
        r"(?:\bnothing|\bnot|n['’]t)\s+(?:\w+\s+){0,2}implausible", "plausible", sentence, flags=re.IGNORECASE
    )
    no = r"implausible|impossible|unlikely|nonsensical|makes no sense"
    no += r"|(?:\bnot|n[\'’]t|\bhardly|\bless than)\s+(?:\w+\s+){0,2}(?:plausible|possible|likely|makes? sense)"
    if re.search(no, sentence, re.IGNORECASE):
        return False
    return True if re.search(r"\bplausible|\bmakes sense", sentence, re.IGNORECASE) else None


def read_plausible(answer: str) -> str | None:
    """ "yes" or "no": whether a sentence is called plausible."""
    return _read_polarity(answer, "yes|true|plausible", "no|false|implausible|not plausible", _claimed_plausible)
