"""Errors as OpenAI's API has them: {"error": {"message", "type", "param", "code"}} with a status."""

import json
import logging
from typing import Any

from starlette.responses import Response

from answering.conversations import ConversationError
from answering.sampling import AskedError
from command.console import visible
from command.errors import UserError
from command.secrets import hide
from command.unexpected import traceback_of
from experiment.prompts import PromptError
from language_models.interface import ContextLengthError, DeviceLostError, ModelError

LOG = logging.getLogger("serve_nudged")
LONGEST_MESSAGE = 1000
RETRY_SECONDS = 1


class ApiError(Exception):
    """A request that gets an error; `param` names the field that is wrong, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}
        self.message = visible(hide(message))[:LONGEST_MESSAGE]

    @property
    def body(self) -> dict[str, Any]:
        """What the client is told."""
        kind = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


STOPPED = ApiError(503, "the server was told to stop", code="stopped", headers={"Connection": "close"})


def unsupported(param: str, message: str) -> ApiError:
    """The error of a field that cannot be defined for a pair."""
    return ApiError(400, message, param=param, code="unsupported_parameter")


def api_error(error: BaseException, prompt_field: str) -> ApiError:
    """What a client is told of an error; one that nobody expected is logged with its traceback.

    Args:
        prompt_field: messages or prompt, whichever the request has.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), param=prompt_field, code="context_length_exceeded")
    if isinstance(error, ConversationError | AskedError):
        return ApiError(400, str(error), param=error.param, code="invalid_value")
    if isinstance(error, PromptError):
        return ApiError(400, str(error), param=prompt_field, code="invalid_value")
    if isinstance(error, DeviceLostError):
        return ApiError(503, str(error), code="model_failed")
    if isinstance(error, ModelError):
        return ApiError(502, str(error), code="upstream_error")
    if isinstance(error, UserError):
        return ApiError(500, str(error), code="internal_error")
    LOG.error("unexpected error\n%s", hide(traceback_of(error)))
    return ApiError(500, f"unexpected error: {type(error).__name__}", code="internal_error")


def json_bytes(value: object) -> bytes:
    """A value as JSON in UTF-8; half a character stands as an escape."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


class JsonResponse(Response):
    """A response of JSON."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """See Starlette's Response."""
        return json_bytes(content)


def error_response(error: ApiError) -> JsonResponse:
    """The response of an error."""
    return JsonResponse(error.body, error.status, error.headers)
