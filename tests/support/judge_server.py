import json
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from waiting import wait_until

RIGHT = '{"reason": "the same", "correct": 1}'
WRONG = '{"reason": "another", "correct": 0}'
GARBLED = "Well, I would say that it is right."
Reply = str | dict | tuple[int, dict] | tuple[int, dict, str]


def ratings(**scores: object) -> str:
    """A reply with just-eval's aspects."""
    return json.dumps({aspect: {"reason": f"on {aspect}", "score": score} for aspect, score in scores.items()})


FIVE_ASPECTS = ("helpfulness", "clarity", "factuality", "depth", "engagement")


def record(index: int = 0, **more) -> dict:
    texts = {"question": f"question {index}?", "raw_answer": f"answer {index}", "gold_answer": f"gold {index}"}
    return {"index": index} | texts | more


class JudgeServer:
    """A real HTTP server that gives the scripted replies in turn, the last one for ever, and keeps the requests.

    A reply is the text of a chat completion, its choice, a status with headers (and the message of the error), or what a function
    makes of the request.
    """

    def __init__(self):
        self.replies: list[Reply | Callable[[dict], Reply]] = []
        self.requests: list[dict] = []
        app = Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])
        self.uvicorn = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self.thread = threading.Thread(target=self.uvicorn.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.uvicorn.started or not self.thread.is_alive(), "the server starts")
        port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.host = f"http://127.0.0.1:{port}/v1"

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body | {"authorization": request.headers.get("authorization")})
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        reply = reply(body) if callable(reply) else reply
        if isinstance(reply, tuple):
            status, headers, *message = reply
            return JSONResponse({"error": {"message": "".join(message) or f"scripted {status}"}}, status, headers)
        choice = {"message": {"role": "assistant", "content": reply}} if isinstance(reply, str) else reply
        return JSONResponse({"choices": [choice]})

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join()
