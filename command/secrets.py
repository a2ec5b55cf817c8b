"""Keys and passwords that this process was given, so that nothing it says or writes shows them.

They are registered where they are read: options, environment variables, URLs. What others may repeat of them is masked by `hide`,
in whatever way it is written (percent-encoded, with escapes of JSON or HTML, in Base64), and also where it was cut off. A secret of
fewer than six characters is no more than a word: it is masked in URLs alone. What a model answers is never changed.
"""

import base64
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import parse_qsl, unquote

MASK = "***"
NEUTRAL_API_KEY = "EMPTY"  # what servers without keys are given
SHORTEST = 6
AS_PART = 8  # from here on it is masked inside of words, too
# What stands for one host in a list of them: a password may hold commas.
_BETWEEN_URLS = re.compile(r",(?=\s*[A-Za-z][\w+.-]*:/)")
_SCHEME = re.compile(r"\s*(?:[A-Za-z][\w+.-]*:(?=/))?/*")
_NO_PORT = re.compile(r"^([^/:\[\]@]*):(?!\d{1,5}(?:/|$))[^/]+")
_NAMES_A_SECRET = re.compile(
    r"(^|_)(api_?keys?|keys?|secret|passw\w*|passphrase|bearer|authorization)(_|$)|(^|(?<!max_new)_)token$",
    re.IGNORECASE,
)
# Names of variables are written so, and no key is: words in capitals, with a digit or two behind them at most.
_NAME_OF_A_VARIABLE = re.compile(r"_?[A-Z]{1,16}[0-9]{0,2}(_[A-Z]{1,16}[0-9]{0,2}|_[0-9]{1,2})+|[A-Z]{0,16}(KEY|TOKEN)")
# One character in the ways of URLs (encoded once or more often), of JSON, Python and JavaScript, and of HTML.
_ESCAPED = re.compile(
    r"(?P<percent>%(?:25)*[0-7][0-9a-f]|%(?:25)*[c-f][0-9a-f](?:%(?:25)*[89ab][0-9a-f]){1,3})"
    r"|\\+(?:u(?=[0-9a-f]{4})|x(?=[0-9a-f]{2}(?![0-9a-f]{2})))(?P<code>[0-9a-f]{2,4})|\\+"
    r"|&(?:#\d{1,7}|#x[0-9a-f]{1,6}|amp|lt|gt|quot|apos);",
    re.IGNORECASE,
)
_known: dict[str, str] = {}  # how a secret is shown, by the secret with its escapes undone


def register(secret: str) -> None:
    """Have `hide` mask a secret."""
    for form in {secret.strip(), secret.strip().replace(" ", "+"), unquote(secret).strip()} - {NEUTRAL_API_KEY}:
        mixed = not form.isalpha() and not form.isdigit()
        if len(form) >= SHORTEST or (len(form) >= 4 and mixed):
            _add(form, MASK)


def register_url(url: str) -> None:
    """Have `hide` mask what a base URL, or a list of them, may hold of secrets: user and password, and a query's values."""
    for one in _BETWEEN_URLS.split(url):
        userinfo, _, behind = one[_SCHEME.match(one).end() :].rpartition("@")
        _, _, query = behind.partition("?")
        for _, value in parse_qsl(query):
            register(value)
        if not userinfo:
            continue
        for form in {userinfo, unquote(userinfo)}:
            user, mark, password = form.partition(":")
            register(password if mark else user)
            register(base64.b64encode(form.encode("utf-8", "surrogatepass")).decode())
            _add(f"{form}@", f"{MASK}@")


def _add(secret: str, shown: str) -> None:
    global _known
    # The longest first: one may be a part of another. Replaced as a whole, as other threads read it.
    forms = {_lower(_plain(secret)[0]), _lower(secret.replace("\\", ""))} - {""}
    known = _known | dict.fromkeys(forms, shown)
    _known = dict(sorted(known.items(), key=lambda item: -len(item[0])))


def hide(text: str) -> str:
    """A text with `***` for every secret that is known."""
    if not _known:
        return text
    plain, starts = _plain(text)
    plain = _lower(plain)
    found, taken = [], bytearray(len(plain))
    for secret, shown in _known.items():
        for start, end in _places(plain, secret, as_part=len(secret) >= AS_PART and shown == MASK):
            if not any(taken[start:end]):
                taken[start:end] = b"x" * (end - start)
                found.append((start, end, shown))
    pieces, at = [], 0
    for start, end, shown in sorted(found):
        pieces += [text[at : starts[start]], shown]
        at = starts[end]
    return "".join(pieces) + text[at:]


def _places(plain: str, secret: str, as_part: bool) -> Iterator[tuple[int, int]]:
    """Where a secret stands in a text, or so much of it that the rest must have been cut off."""
    head = secret[: max(AS_PART, len(secret) // 3)] if as_part and len(secret) >= 2 * AS_PART else secret
    at = plain.find(head)
    while at >= 0:
        end = at + len(head)
        while end < len(plain) and end - at < len(secret) and plain[end] == secret[end - at]:
            end += 1
        whole_word = not plain[at - 1 : at].isalnum() and (secret[-1] == "@" or not plain[end : end + 1].isalnum())
        if as_part or whole_word:
            yield at, end
        at = plain.find(head, end if as_part or whole_word else at + 1)


def _lower(text: str) -> str:
    lower = text.lower()
    return lower if len(lower) == len(text) else text


def _plain(text: str) -> tuple[str, Sequence[int]]:
    """A text with its escapes undone, and for each of its characters (and its end) where it begins in the text.

    It has no backslashes: they are doubled by one level of escapes after the other.
    """
    if not _ESCAPED.search(text):
        return text, range(len(text) + 1)
    plain, starts, at = [], [], 0
    for escaped in _ESCAPED.finditer(text):
        found = _unescaped(escaped)
        plain.append(text[at : escaped.start()] + found)
        starts += range(at, escaped.start() + len(found))
        at = escaped.end()
    return "".join(plain) + text[at:], [*starts, *range(at, len(text) + 1)]


def _unescaped(escaped: re.Match) -> str:
    """The character that an escape stands for."""
    if escaped["percent"]:
        found = unquote(re.sub("%(?:25)+", "%", escaped["percent"]), errors="replace")
    elif escaped["code"]:
        found = chr(int(escaped["code"], 16))
    else:
        found = html.unescape(escaped[0])
    return "" if found.startswith("\\") else found[:1]


def hide_in(value: object) -> object:
    """What JSON can hold, with `***` for the secrets in all of its texts; keys of objects are this program's own."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {key: hide_in(item) for key, item in value.items()}
    return [hide_in(item) for item in value] if isinstance(value, list | tuple) else value


def without_password(url: str) -> str:
    """A base URL, or a list of them, as it may be shown, however it is wrong: without user, password, query and fragment."""
    return ",".join(map(_shown_url, _BETWEEN_URLS.split(url)))


def _shown_url(url: str) -> str:
    at = _SCHEME.match(url).end()
    scheme, rest = url[:at], url[at:]
    userinfo, mark, rest = rest.rpartition("@")
    rest = _NO_PORT.sub(rf"\1:{MASK}", rest)  # a password without its host, perhaps
    rest = re.sub(r"([?#]).+", rf"\1{MASK}", rest, count=1, flags=re.DOTALL)
    return scheme + (MASK + mark if userinfo else mark) + rest


def is_name_of_a_variable(word: str) -> bool:
    """Whether a word can be shown as the name of an environment variable; any other may be a key."""
    return word in os.environ or _NAME_OF_A_VARIABLE.fullmatch(word) is not None


def register_arguments(words: Iterable[str]) -> None:
    """Register keys and passwords that stand in a command line, whether its options take them or not."""
    name = ""
    for word in words:
        if word.startswith("-") and " " not in word:
            name, mark, value = word.partition("=")
            _register_named(name.lstrip("-").replace("-", "_"), value)
            name = "" if mark else name
            continue
        if " " in word and "-" in word:
            register_arguments(word.split())  # options of another program, as one word
        _register_named(name.lstrip("-").replace("-", "_"), word)
        name = name if word.lower() in ("bearer", "basic") else ""


def register_table(table: object, name: str = "") -> None:
    """Register keys and passwords that stand in a table of a config file."""
    if isinstance(table, Mapping):
        for key, value in table.items():
            register_table(value, str(key))
    elif isinstance(table, list):
        for value in table:
            register_table(value, name)
    elif isinstance(table, str):
        _register_named(name, table)


def _register_named(name: str, value: str) -> None:
    if "@" in value and ("://" in value or name.endswith("host")):
        register_url(value)
    if name.endswith("host") and "?" in value:
        register_url(value)
    if _NAMES_A_SECRET.search(name) and not is_name_of_a_variable(value):
        register(value)


def register_environment() -> None:
    """Register the passwords of proxies, and what variables hold whose names say that it is a key, a token or a password."""
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy"):
            register_url(value)
        elif _NAMES_A_SECRET.search(name):
            register(value)
