"""Server-sent events: what an answer comes to is sent as it comes, silence is filled, and a client that leaves ends the writing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import STOPPED, json_bytes
from serving.replies import Reply
from serving.slots import Answers, Ended, Event, Failed, Wrote

T = TypeVar("T")
KEEP_ALIVE_SECONDS = 10.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
# How long an error is waited for that has a status of its own: afterwards it comes as an event.
FIRST_EVENT_SECONDS = 10.0
LAST_WORD_SECONDS = 0.5


def event_bytes(value: object) -> bytes:
    """One event."""
    return b"data: " + json_bytes(value) + b"\n\n"


async def first_events(answers: Answers, receive: Receive) -> list[Event] | None:
    """The first that answers come to; empty where that takes long, None where the client has left.

    Raises:
        ApiError: the first of them is a failure.
    """
    events = await until_gone(answers.channel.read(), receive, FIRST_EVENT_SECONDS)
    for event in events or ():
        if isinstance(event, Failed):
            raise event.error
    return events


async def until_gone(
    work: Coroutine[None, None, list[T]], receive: Receive, seconds: float | None = None
) -> list[T] | None:
    """What some work comes to; empty where it takes longer than some seconds, None where the client leaves before."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        return None if gone.done() else []
    finally:
        for one in (task, gone):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """The response of a stream."""

    media_type = "text/event-stream"

    def __init__(self, answers: Answers, reply: Reply, first: list[Event], choices: int):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._answers, self._reply, self._first, self._open = answers, reply, first, choices
        self._choices, self._has_begun = choices, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except asyncio.CancelledError:
            if not self._has_begun or (sending.done() and not sending.cancelled()):
                raise
            sending.cancel()
            await _end(event_bytes(STOPPED.body), send)
        finally:
            self._answers.close()
            for one in (sending, gone):
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one

    async def _send(self, send: Send) -> None:
        self._has_begun = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        reply, events = self._reply, self._first
        if reply.request.is_chat:
            yield b"".join(event_bytes(reply.role(index)) for index in range(self._choices))
        while True:
            sent = []
            for event in events:
                match event:
                    case Wrote():
                        sent.append(reply.piece_event(event.choice, event.piece))
                    case Ended():
                        self._open -= 1
                        reply.count(event)
                        sent.append(event_bytes(reply.end(event.choice, event.answer)))
                    case Failed():
                        yield b"".join([*sent, event_bytes(event.error.body)])
                        return
            if not self._open:
                sent += [event_bytes(reply.usage_chunk())] if reply.request.include_usage else []
                yield b"".join([*sent, DONE])
                return
            if sent:
                yield b"".join(sent)
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    events = await self._answers.channel.read(self._answers.pause)
            except TimeoutError:
                events = []
                yield KEEP_ALIVE


async def _end(last: bytes, send: Send) -> None:
    """End a response with some last bytes, if the client reads them at once."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LAST_WORD_SECONDS):
            await send({"type": "http.response.body", "body": last, "more_body": False})


async def whole_answers(answers: Answers, number: int) -> list[Ended]:
    """All answers, by their choices.

    Raises:
        ApiError: one has failed.
    """
    ended: dict[int, Ended] = {}
    while len(ended) < number:
        for event in await answers.channel.read():
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Ended):
                ended[event.choice] = event
    return [ended[choice] for choice in range(number)]
