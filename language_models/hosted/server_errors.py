"""What a server says that went wrong, wherever it says so: beside an HTTP status, in a body with status 200, in a stream."""

import re
from dataclasses import dataclass

# Retried: the server is busy, has just failed, or took too long. All others would come back.
PASSING = frozenset((408, 409, 425, 429))
# OpenAI's "too many requests" of an account that has no money left.
_NEVER_PASSES = re.compile(r"insufficient_quota|billing|exceeded your current quota", re.I)
# Names of error objects (`type`, `code`, `status`, `error_type`) that stand for a status.
_STATUS_OF_NAME = (
    (re.compile(r"rate.?limit|too.?many.?requests|resource.?exhausted|overloaded|queue.?full", re.I), 429),
    (re.compile(r"authentication|unauthenticated|invalid.?api.?key|unauthorized", re.I), 401),
    (re.compile(r"permission|forbidden", re.I), 403),
    (re.compile(r"not.?found", re.I), 404),
    (
        re.compile(
            r"validation|invalid.?(request|argument|parameter|prompt)|bad.?request|unprocessable|unsupported", re.I
        ),
        400,
    ),
    (re.compile(r"timeout|timed.?out|deadline.?exceeded", re.I), 408),
    (re.compile(r"unavailable|internal|server.?error", re.I), 500),
)
_NAMES_OF_CODE = ("code", "status_code", "status", "type", "error_type", "error_code", "http_status")
_NAMES_OF_MESSAGE = ("message", "detail", "error_description", "error_message", "msg", "reason", "title")
_CONTEXT_CODE = re.compile(
    r"context.?(length|size|window).?.{0,12}exceed|exceed.{0,12}context|string_above_max_length", re.I
)
# How engines and hosts say that prompt and answer do not fit into the context window.
_CONTEXT = re.compile(
    r"context.{0,3}(length|size|window|limit)|max(imum)? model length|max_(model_len|seq_len|input_len)|session_len"
    r"|(max_new_tokens|max_tokens).{0,20}must be <=",
    re.I,
)
# These words alone may mean other limits too, which are named below.
_TOO_LONG = re.compile(
    r"\b(prompt|inputs?|sequence|messages?|tokens?|query|text)\b.{0,60}\btoo (long|large)"
    r"|\btoo many (input |prompt )?tokens|\b(less|fewer|more) than \d+ (input |prompt )?tokens"
    r"|max(imum)? (allowed )?(prompt|input|sequence) length"
    r"|reduce the (length|size|number) of (the|your) (prompt|input|message|token)"
    r"|\b(prompt|inputs?|sequence|token|tokens|request)\b.{0,80}"
    r"\b(exceed\w*|longer than|(larger|greater|more) than|above|beyond)\b.{0,60}\b(max\w*|limit|capacity|allowed|tokens|length)"
    r"|\bexceed\w*\b.{0,60}\b(token|prompt|input)\w* (limit|length|count)|range of input length",
    re.I,
)
_OTHER_LIMIT = re.compile(
    r"per.?(minute|min|hour|day|second)\b|rate.?limit|logprobs|(completion|output) tokens|quota|entity|payload|body|batch"
    r"|\b(stop|string)\b",
    re.I,
)
# A server that fails for a while may name its context window, too; an answer must not end for that.
_FAILS_FOR_NOW = re.compile(
    r"\b(out of memory|oom|memory|alloc\w*|loading|starting|restart\w*|overloaded|unavailable|busy|timed? ?out|try again|later)\b",
    re.I,
)
_TOO_MUCH = re.compile(
    r"exceed|too (long|large|many|big)|(longer|larger|greater|more) than|maximum|max_|reduce the|not fit|beyond", re.I
)


@dataclass(frozen=True)
class ServerError:
    """An error in a server's words.

    `code` is all of its codes, `status` what they stand for (400 to 599, or None), `has_number` whether one of them is a number.
    """

    message: str
    status: int | None
    code: str
    has_number: bool = False

    @property
    def is_context_length(self) -> bool:
        """Whether prompt and answer do not fit into the model's context window."""
        if _CONTEXT_CODE.search(self.code):
            return True
        if self.status == 429 or (_OTHER_LIMIT.search(self.message) and not _CONTEXT.search(self.message)):
            return False
        if self.passes and (_FAILS_FOR_NOW.search(self.message) or not _TOO_MUCH.search(self.message)):
            return False
        return bool(_CONTEXT.search(self.message) or _TOO_LONG.search(self.message))

    @property
    def passes(self) -> bool:
        """Whether asking again may help; of an error without any code this is assumed."""
        if _NEVER_PASSES.search(f"{self.code} {self.message}"):
            return False
        return self.status is None or self.status in PASSING or self.status >= 500


class ServerFailure(Exception):
    """An error that came without an HTTP status of its own; `in_words` says where."""

    def __init__(self, error: ServerError, in_words: str):
        super().__init__(error.message)
        self.error, self.in_words = error, in_words


def error_in(body: object) -> ServerError | None:
    """The error that a reply, or an event of a stream, is; None where it is none.

    Args:
        body: the JSON value.
    """
    if not isinstance(body, dict):
        return None
    inner = body.get("error") or body.get("errors") or _of_choice(body)
    if inner and inner is not True:
        if isinstance(inner, list):
            inner = inner[0]
        return _read(inner if isinstance(inner, dict) else {"message": inner}, body)
    if inner or body.get("object") == "error" or body.get("type") == "error" or body.get("success") is False:
        return _read(body, {})
    # OpenAI's replies have `choices` with every chunk, or `usage` alone in the last one.
    if "choices" not in body and "usage" not in body and any(body.get(name) for name in _NAMES_OF_MESSAGE):
        return _read(body, {})
    return None


def error_of_reply(body: object, status: int, text: str) -> ServerError:
    """The error that comes beside an HTTP status, by its own code where it has one.

    Args:
        body: the JSON value, None where the body is none.
        status: of the reply.
        text: the body, which speaks for itself where it is no error object.
    """
    told = error_in(body) or (_read(body, {}) if isinstance(body, dict) and body else None)
    if told is None or not told.message:
        return ServerError(text.strip() or "no word of why", status, told.code if told else "")
    # A gateway may put a status of its own in front of what the server behind it says. Names are less exact than a status: most of
    # OpenAI's refusals are called invalid_request_error.
    believed = told.has_number or (told.status is not None and (told.status == 429 or status >= 500))
    return ServerError(told.message, told.status if believed else status, told.code)


def _of_choice(body: dict) -> object:
    """The error that OpenRouter puts into a choice."""
    choices = body.get("choices")
    return choices[0].get("error") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _read(inner: dict, outer: dict) -> ServerError:
    codes = [part[name] for part in (inner, outer) for name in _NAMES_OF_CODE if isinstance(part.get(name), str | int)]
    messages = (_words(part[name]) for part in (inner, outer) for name in _NAMES_OF_MESSAGE if part.get(name))
    message = next((words for words in messages if words), "") or _words(inner)
    number = next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", str(code))), None)
    # Particular names go before general ones, whichever field they stand in.
    names = (status for pattern, status in _STATUS_OF_NAME if any(pattern.search(str(code)) for code in codes))
    return ServerError(message, number or next(names, None), " ".join(map(str, codes)), number is not None)


def _words(value: object) -> str:
    """What stands in a message, in whatever shape (FastAPI's validation errors are a list of objects)."""
    if isinstance(value, list):
        return "; ".join(filter(None, map(_words, value[:5])))
    if isinstance(value, dict):
        told = next((value[name] for name in (*_NAMES_OF_MESSAGE, "error") if value.get(name)), None)
        place = value.get("loc")
        where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
        return where + _words(told) if told is not None else str(value)
    return "" if value is None else str(value)
