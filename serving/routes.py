"""The routes of serve_nudged.py."""

import time
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from answering.sampling import Asked
from command.provenance import version_and_commit
from experiment.model_settings import DEFAULT_CRITERION
from language_models.interface import ModelError
from nudged_pair import NudgedPair
from serving.errors import ApiError, JsonResponse, api_error, error_response
from serving.guard import read_all
from serving.health import Health
from serving.metrics import Metrics
from serving.model_names import listed_names, read_name
from serving.page import page
from serving.replies import Reply
from serving.requests import Request as Wanted
from serving.requests import chat_request, criterion_by_name, read_json, text_request
from serving.settings import ServeSettings
from serving.slots import Slots
from serving.streaming import EventStream, first_events, until_gone, whole_answers
from serving.tokenizing import detokenize, tokenize, tokenizer_info

Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes over one pair."""

    def __init__(self, pair: NudgedPair, settings: ServeSettings, slots: Slots, metrics: Metrics):
        self.pair, self.settings, self.slots, self.metrics = pair, settings, slots, metrics
        self.health = Health(pair, lambda: slots.wrote_at)
        self.created = int(time.time())
        self.version = version_and_commit()

    @property
    def routes(self) -> list[Route]:
        """What is served, and by what."""
        return [
            Route("/", self.show_page),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/health", self.check_health),
            Route("/version", self.tell_version),
            Route("/metrics", self.tell_metrics),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
            Route("/tokenizer_info", self.tokenizer_info),
        ]

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        name, tools = self.settings.served_model_name, self.settings.ignore_tools
        return await self._answer(request, "messages", lambda body: chat_request(body, self.pair, name, tools))

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        name = self.settings.served_model_name
        return await self._answer(request, "prompt", lambda body: text_request(body, self.pair, name))

    async def _answer(self, request: Request, prompt_field: str, read: Callable[[dict], Wanted]) -> Response:
        raw = await read_all(request)

        try:
            # Templates and tokenizers take time, which is not the event loop's.
            asked = await run_in_threadpool(lambda: read(read_json(raw)))
            answers = self.slots.begin(asked, count=not asked.stream or asked.include_usage)
        except Exception as error:
            raise api_error(error, prompt_field) from None
        reply = Reply(asked)
        number = asked.n * len(asked.prompts)
        try:
            if asked.stream:
                first = await first_events(answers, request.receive)
                if first is None:
                    raise ClientDisconnect
                stream = EventStream(answers, reply, first, number)
                answers = None  # which it closes
                return stream
            ended = await until_gone(whole_answers(answers, number), request.receive)
        finally:
            if answers is not None:
                answers.close()
        if ended is None:
            raise ClientDisconnect
        for one in ended:
            reply.count(one)
        return JsonResponse(reply.whole([one.answer for one in ended]))

    def _entry(self, name: str) -> dict:
        served = read_name(name, self.settings.served_model_name, None)
        asked = Asked(threshold=served.threshold, criterion=served.criterion)
        criterion, threshold = criterion_by_name(asked, self.pair, name, None)
        nudging = {
            "base_model": self.settings.base_model,
            "nudging_model": self.settings.nudging_model,
            "kind": served.by,
            "criterion": criterion if isinstance(criterion, str) else "own",
            "criteria": list(self.settings.usable_criteria),
            "threshold": threshold,
        } | ({"top_prob_thres": threshold} if criterion == DEFAULT_CRITERION else {})
        nudging |= {"blend": self.settings.blend_weight} if self.settings.blend else {}
        return {"id": name, "object": "model", "created": self.created, "owned_by": "nudging", "nudging": nudging}

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        names = listed_names(self.settings.served_model_name, self.settings.criterion, self.settings.usable_criteria)
        return JsonResponse({"object": "list", "data": [self._entry(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{name}."""
        return JsonResponse(self._entry(request.path_params["name"]))

    async def check_health(self, request: Request) -> Response:
        """GET /health: 200 only if both models answer."""
        try:
            await run_in_threadpool(self.health.check)
        except ModelError as error:
            raise ApiError(503, str(error), code="unhealthy") from None
        return JsonResponse({"status": "ok"})

    async def tell_version(self, request: Request) -> Response:
        """GET /version."""
        return JsonResponse({"version": self.version})

    async def tell_metrics(self, request: Request) -> Response:
        """GET /metrics."""
        self.metrics.writing.set(self.slots.answers)
        text, content_type = self.metrics.text()
        return Response(text, headers={"Content-Type": content_type})

    async def show_page(self, request: Request) -> Response:
        """GET /."""
        text, headers = page(self.settings.served_model_name)
        return Response(text, headers={"Content-Type": "text/html; charset=utf-8"} | headers)

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        return await self._with_tokenizer(request, tokenize)

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        return await self._with_tokenizer(request, detokenize)

    async def tokenizer_info(self, request: Request) -> Response:
        """GET /tokenizer_info."""
        return await self._with_tokenizer(request, lambda pair, body: tokenizer_info(pair))

    async def _with_tokenizer(self, request: Request, work: Callable[[NudgedPair, dict], dict]) -> Response:
        raw = await read_all(request) if request.method == "POST" else b"{}"

        def do() -> dict:
            if not self.pair.has_own_tokenizer:
                raise ApiError(
                    501,
                    "the base model's server says nothing of its tokenizer; send texts, not ids",
                    code="no_tokenizer",
                )
            return work(self.pair, read_json(raw))

        try:
            return JsonResponse(await run_in_threadpool(do))
        except Exception as error:
            raise api_error(error, "prompt") from None


async def on_api_error(request: Request, error: Exception) -> Response:
    """The response to a request that gets an error."""
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """The response where there is no such route, or not with this method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return error_response(ApiError(error.status_code, message, code=code, headers=dict(error.headers or {})))


async def on_disconnect(request: Request, error: Exception) -> Response:
    """What nobody reads."""
    return Response(status_code=499)


async def on_any_error(request: Request, error: Exception) -> Response:
    """The response where something went wrong that nobody expected."""
    return error_response(api_error(error, "messages"))
