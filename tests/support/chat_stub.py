"""A stand-in for serve_nudged.py, for what a well-behaved server does not do: broken streams, refusals, answers that never end."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from waiting import wait_until

from serving.page import page

DONE = b"data: [DONE]\n\n"
MODELS = {"base_model": "demo-base", "nudging_model": "demo-aligned", "criterion": "top_prob", "top_prob_thres": 0.4}
# Bytes to send, an event to wait for, or None: silence until the client leaves.
Part = bytes | threading.Event | None


def event(data: object) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(*pieces: tuple[str, str, float | None], delta: dict | None = None, **more) -> bytes:
    """A chunk of a stream with these pieces (text, by, top_prob)."""
    content = {"content": "".join(text for text, _, _ in pieces)} if pieces else {}
    told = {"pieces": [dict(zip(("text", "by", "top_prob"), piece, strict=True)) for piece in pieces]}
    choice = {"index": 0, "delta": delta or content, "logprobs": None, "finish_reason": None}
    return event({"object": "chat.completion.chunk", "choices": [choice], "usage": None, "nudging": told, **more})


def end(rate: float = 0.25, tokens: int = 12, stop_reason: str = "nudging_model_stop") -> list[bytes]:
    """What comes after an answer's text."""
    figures = {
        "words": [],
        "rate": rate,
        "rounds": 2,
        "requests": {"base": 1, "nudging": 2},
        "stop_reason": stop_reason,
    }
    last = [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    return [
        event({"choices": last, "usage": None, "nudging": figures}),
        event({"choices": [], "usage": usage}),
        DONE,
    ]


def answer(*pieces: tuple[str, str, float | None], **figures) -> list[bytes]:
    """A whole answer, a chunk for each piece."""
    return [chunk(delta={"role": "assistant", "content": ""}), *(chunk(piece) for piece in pieces), *end(**figures)]


class ChatStub:
    """A server in a thread. `reply` makes of a request's body what is answered: a response, or the parts of a stream."""

    def __init__(self):
        self.stopping = threading.Event()  # streams wait no longer
        self.forget()
        routes = [
            Route("/", self.page),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        self.uvicorn = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="error"))
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.uvicorn.started or not self.thread.is_alive(), "the server starts")
        self.url = f"http://127.0.0.1:{self.uvicorn.servers[0].sockets[0].getsockname()[1]}/"

    def forget(self) -> None:
        self.name, self.key, self.about = "pair", "", MODELS
        self.requests: list[dict] = []
        self.left: list[str] = []  # the models whose streams the client has closed
        self.reply: Callable[[dict], Response | Iterable[Part]] = lambda body: answer(("Yes.", "base", 0.9))

    def stop(self) -> None:
        self.stopping.set()
        self.uvicorn.should_exit = True
        self.thread.join()

    async def page(self, request: Request) -> Response:
        text, headers = page(self.name)
        return Response(text, headers=headers)

    def refused(self, request: Request) -> Response | None:
        if not self.key or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": {"message": "no valid API key", "type": "t", "param": None, "code": None}}, 401)

    async def models(self, request: Request) -> Response:
        about = self.about | {"kind": "pair"}
        return self.refused(request) or JSONResponse({"object": "list", "data": [{"id": self.name, "nudging": about}]})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        if refused := self.refused(request):
            return refused
        self.requests.append(body)
        reply = self.reply(body)
        if isinstance(reply, Response):
            return reply
        return StreamingResponse(self.stream(body["model"], reply), media_type="text/event-stream")

    async def stream(self, model: str, parts: Iterable[Part]) -> AsyncIterator[bytes]:
        try:
            for part in parts:
                if isinstance(part, bytes):
                    yield part
                    await asyncio.sleep(0)
                else:
                    while not (self.stopping.is_set() or (part and part.is_set())):
                        await asyncio.sleep(0.005)
        except (asyncio.CancelledError, GeneratorExit):
            self.left.append(model)
            raise
