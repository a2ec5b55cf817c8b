"""Server-sent events, as they come: their data one by one, and an end to what has none."""

import re
import time
from collections.abc import Iterable, Iterator

from language_models.hosted.bounds import check_size

DONE = b"[DONE]"
_LINE_END = re.compile(rb"\r\n|\r|\n")


class SilentServer(Exception):
    """A server sends, but nothing of what was asked for."""


def events(content: Iterable[bytes], silence: float) -> Iterator[bytes]:
    """The data of server-sent events, one per event (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    Lines end as any of the three systems end them. Servers that put no blank line between events are understood too, and a body
    that is no event stream is one event: a whole reply, or an error.

    Args:
        content: the body's parts.
        silence: seconds without an event that are waited for; comments are none.

    Raises:
        FaultyReply: the body is too long.
        SilentServer: only comments come.
    """
    begun: list[bytes] = []  # a line that is not over
    data: list[bytes] = []  # the data of an event that is not over
    other: list[bytes] = []  # lines before the first event that are none of such a stream
    size, any_event, after_return = 0, False, False
    waited_since = time.monotonic()
    for part in content:
        size += len(part)
        check_size(size)
        if time.monotonic() - waited_since > silence:
            raise SilentServer
        if after_return and part.startswith(b"\n"):
            part = part[1:]
        after_return = part.endswith(b"\r")
        first, *rest = _LINE_END.split(part) if b"\r" in part else part.split(b"\n")
        begun.append(first)
        if not rest:
            continue
        lines = [b"".join(begun), *rest]
        begun = [lines.pop()]
        for line in lines:
            if found := _event_of_line(line, data, None if any_event else other):
                any_event = True
                yield found
                waited_since = time.monotonic()
    last = begun[0] if len(begun) == 1 else b"".join(begun)
    for line in (last, b""):
        if found := _event_of_line(line, data, None if any_event else other):
            any_event = True
            yield found
    if not any_event and (text := b"\n".join(other).strip()):
        yield text


def _is_whole(value: bytes) -> bool:
    return value == DONE or (value[:1] == b"{" and value[-1:] == b"}")


def _event_of_line(line: bytes, data: list[bytes], other: list[bytes] | None) -> bytes:
    """The event that a line ends, b"" for none; what it begins is added to `data`, what is no line of events to `other`."""
    if not line:
        event = b"\n".join(data).strip()
        data.clear()
        return event
    name, _, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
    if name == b"data":
        if not data and _is_whole(value.strip()):
            return value.strip()  # no blank line need follow
        if value.strip() or data:
            data.append(value)
    elif other is not None and name not in (b"", b"event", b"id", b"retry"):
        other.append(line)
    return b""
