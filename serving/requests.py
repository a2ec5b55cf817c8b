"""Bodies of requests to /v1/chat/completions and /v1/completions: what they may hold, and what they ask for."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from answering.conversations import Prompts
from answering.sampling import MOST_TOKENS, Asked, AskedError, check_whole
from language_models.interface import REPLACEMENT
from language_models.tokenizing import TextTokenizer
from nudged_pair import NudgedPair
from serving.errors import ApiError, unsupported
from serving.model_names import read_name
from serving.refused import refuse, refuse_tools
from utils import without_surrogates

Body = TypeVar("Body", bound=BaseModel)
MOST_CHOICES = 128
MOST_DIGITS = 400  # a larger number is above all that can be asked for, and takes long to read
MOST_ANSWERS = 1024  # of one request: choices of all prompts

# By the field where it may be of several types, else by the type of pydantic's error.
_MUST = {
    "stop": "be a text, or a list of texts",
    "tool_choice": "be a text, or an object",
    "bool_type": "be true or false",
    "int_type": "be a whole number",
    "float_type": "be a number",
    "string_type": "be a text",
    "list_type": "be a list",
    "dict_type": "be an object",
    "model_type": "be an object",
}


class StreamOptions(BaseModel):
    """`stream_options` of a request."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None


class CommonBody(BaseModel):
    """What both kinds of requests may hold; fields that are not known are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)
    prompt_field: ClassVar[str]

    model: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_token_total: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_prob_thres: float | None = None
    threshold: float | None = None
    criterion: str | None = None
    user: str | None = None


class ChatBody(CommonBody):
    """A request to /v1/chat/completions."""

    prompt_field = "messages"

    messages: Any = None
    tools: list | None = None
    tool_choice: str | dict | None = None
    response_format: dict | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class TextBody(CommonBody):
    """A request to /v1/completions."""

    prompt_field = "prompt"

    prompt: Any = None
    best_of: int | None = None


@dataclass(frozen=True)
class Request:
    """What a request asks for: `n` answers to each of the prompts."""

    model: str
    prompts: list[Prompts]
    asked: Asked
    n: int
    stream: bool
    include_usage: bool
    is_chat: bool

    @property
    def prompt_field(self) -> str:
        """The field that has the prompts."""
        return "messages" if self.is_chat else "prompt"

    @property
    def answers(self) -> list[tuple[Prompts, Asked]]:
        """What each answer is asked, and how: the choices of a prompt one after the other, each with a seed of its own."""
        own = [self.asked.choice(number) for number in range(self.n)]
        return [(prompts, asked) for prompts in self.prompts for asked in own]


def read_json(raw: bytes) -> dict:
    """The object of a body.

    Raises:
        ApiError: it is none.
    """

    def no_number(name: str):
        raise ValueError(f"{name} is no number of JSON")

    def whole(digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise ValueError("one of its numbers has too many digits")
        return int(digits)

    try:
        text = raw.decode("utf-8-sig")
        body = json.loads(text, parse_constant=no_number, parse_int=whole, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, UnicodeDecodeError):
            reason = f"it is not UTF-8 (byte {error.start})"
        raise ApiError(400, f"the body is not JSON: {reason}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return body


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"an object has the name {twice[:60]!r} twice")
    return found


def read_body(body: dict, kind: type[Body]) -> Body:
    """A body's fields, each of the type that it must have.

    Raises:
        ApiError: one is not.
    """
    try:
        # Names that are not known can be anything, which pydantic does not bear.
        return kind.model_validate({name: body[name] for name in kind.model_fields if name in body})
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        field = str(errors[0]["loc"][0])
        # Of a field that may be of several types the name of each is in its place, and an error of each: the last is the list's.
        last = [one for one in errors if one["loc"][0] == field][-1]
        names = [str(part) for part in last["loc"][1:] if isinstance(part, int) or part == "include_usage"]
        place = field + "".join(f"[{name}]" if name.isdigit() else f".{name}" for name in names)
        must = _MUST.get(place) or _MUST.get(last["type"], "be of another type")
        raise ApiError(400, f"{place} must {must}", param=place, code="invalid_type") from None


def asked_of(body: CommonBody, pair: NudgedPair, served_name: str) -> Asked:
    """How a body has its answers asked for.

    Raises:
        ApiError, AskedError: it cannot be.
    """
    served = read_name(body.model, served_name)
    for name, told in (("top_prob_thres", "threshold"), ("threshold", "threshold"), ("criterion", "criterion")):
        ours, theirs = getattr(body, name), getattr(served, told)
        if ours is not None and theirs is not None and ours != theirs:
            raise ApiError(
                400, f"{name} is {ours}, and the model's name says {theirs}", param=name, code="invalid_value"
            )
    if served.by != "pair":
        for name in ("top_prob_thres", "threshold", "criterion"):
            if getattr(body, name) is not None:
                raise ApiError(
                    400,
                    f"{name} is the pair's; {body.model} is one of its models alone",
                    param=name,
                    code="invalid_value",
                )
    stop = body.stop if body.stop is not None else ()
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if body.max_completion_tokens is not None:
        check_whole("max_completion_tokens", most, 1, MOST_TOKENS)
    asked = Asked(
        top_prob_thres=body.top_prob_thres,
        threshold=served.threshold if body.threshold is None else body.threshold,
        criterion=served.criterion if body.criterion is None else body.criterion,
        max_tokens=most,
        max_token_total=body.max_token_total,
        stop=tuple(map(without_surrogates, (stop,) if isinstance(stop, str) else stop)),
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        by=served.by,
    )
    if asked.by == "pair":
        named = Asked(threshold=served.threshold, criterion=served.criterion)
        criterion_by_name(named, pair, str(body.model))
        asked.criterion_of(pair.settings, pair.criterion)  # raises that it cannot be
    return asked


def criterion_by_name(named: Asked, pair: NudgedPair, name: str, param: str | None = "model") -> tuple:
    """The criterion and the number that a model's name asks for (ApiError: there is no such model here, and why)."""
    try:
        return named.criterion_of(pair.settings, pair.criterion)
    except AskedError as error:
        raise ApiError(
            404, f"there is no model {name[:80]!r} here: {error}", param=param, code="model_not_found"
        ) from None


def chat_request(raw: dict, pair: NudgedPair, served_name: str, ignore_tools: bool) -> Request:
    """What a body of /v1/chat/completions asks for.

    Raises:
        ApiError, AskedError, ConversationError, PromptError: it cannot be.
    """
    body = read_body(raw, ChatBody)
    asked = asked_of(body, pair, served_name)
    refuse(raw)
    refuse_tools(body, ignore_tools)
    prompts = [pair.prompts(_messages(body), continued=bool(body.continue_final_message))]
    return _request(body, prompts, asked, is_chat=True)


def _messages(body: ChatBody) -> list:
    if not isinstance(body.messages, list):
        raise ApiError(400, "messages must be a list with one message at least", param="messages", code="invalid_type")
    return body.messages


def text_request(raw: dict, pair: NudgedPair, served_name: str) -> Request:
    """What a body of /v1/completions asks for.

    Raises:
        ApiError, AskedError: it cannot be.
    """
    body = read_body(raw, TextBody)
    asked = asked_of(body, pair, served_name)
    refuse(raw)
    if body.best_of not in (None, body.n or 1):
        raise unsupported("best_of", "best_of is not supported: answers of a pair have no probability to choose by")
    texts = _texts(body.prompt, pair.tokenizer if pair.has_own_tokenizer else None)
    return _request(body, [Prompts(text, text) for text in texts], asked, is_chat=False)


def _request(body: CommonBody, prompts: list[Prompts], asked: Asked, is_chat: bool) -> Request:
    n = 1 if body.n is None else body.n
    if not 1 <= n <= MOST_CHOICES:
        raise ApiError(400, f"n must be from 1 to {MOST_CHOICES}; it is {n}", param="n", code="invalid_value")
    if n * len(prompts) > MOST_ANSWERS:
        raise ApiError(
            400, f"a request can have {MOST_ANSWERS} answers at most", param=body.prompt_field, code="invalid_value"
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options are for streams: set stream", param="stream_options", code="invalid_value")
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return Request(body.model, prompts, asked, n, bool(body.stream), usage, is_chat)


def _texts(prompt: object, tokenizer: TextTokenizer | None) -> list[str]:
    """The texts of a prompt: a text or a list of texts, ids or a list of ids."""

    def wrong(message: str) -> ApiError:
        return ApiError(400, message, param="prompt", code="invalid_value")

    if isinstance(prompt, str):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise wrong("prompt must be a text, a list of texts, or ids of the base model's tokenizer")
    if _are_ids(prompt):
        prompt = [prompt]
    texts = []
    for one in prompt:
        if isinstance(one, str):
            text = without_surrogates(one)
        elif not isinstance(one, list) or not _are_ids(one):
            raise wrong("prompt must be a text, a list of texts, or ids of the base model's tokenizer")
        elif tokenizer is None:
            raise wrong(
                "prompt must be text: the base model's server says nothing of its tokenizer, so ids mean nothing here"
            )
        else:
            text = _decoded(one, tokenizer)
        if not text:
            raise wrong("a prompt must not be empty")
        texts.append(text)
    return texts


def _are_ids(value: list) -> bool:
    return bool(value) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def _decoded(ids: list[int], tokenizer: TextTokenizer) -> str:
    if min(ids) < 0 or max(ids) >= 2**31:
        raise ApiError(
            400, "ids of a prompt must be those of the base model's tokenizer", param="prompt", code="invalid_value"
        )
    text = tokenizer.decode(ids)
    if REPLACEMENT in text:
        raise ApiError(
            400,
            "the ids of the prompt do not stand for a whole text in the base model's tokenizer",
            param="prompt",
            code="invalid_value",
        )
    return text
