"""The tokenizer of a server's model, by the server's own routes, and how long its texts may be.

Three engines have such routes: vLLM (https://docs.vllm.ai/en/latest/api/vllm/entrypoints/serve/tokenize/protocol/), SGLang, which
is asked as vLLM is and replies otherwise, and llama.cpp (https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md).
Which of them a server speaks is found out by a try.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import httpx2

from language_models.hosted.http import checked, request
from language_models.hosted.logprobs import UnreadableReply
from language_models.interface import ModelError, TransientError, Usage

if TYPE_CHECKING:
    from language_models.hosted.endpoint import OpenAIEndpoint

T = TypeVar("T")
# What every tokenizer keeps as it is.
SAMPLE = "How many days are in two weeks? 2 times 7 are 14."
TRY_SECONDS = 5.0  # that a server may take for each answer of a try
SPECIAL_TOKENS = ("eos_token", "bos_token", "pad_token")


@dataclass(frozen=True)
class Form:
    """How an engine is asked for ids and for texts, and in which field of its reply the text is."""

    encode: Callable[[str, str, bool], dict]
    decode: Callable[[str, list[int]], dict]
    text: str
    facts: str  # where it tells its template and special tokens


# To add one: an entry here.
FORMS = (
    Form(
        lambda model, text, special: {"model": model, "prompt": text, "add_special_tokens": special},
        lambda model, ids: {"model": model, "tokens": ids},
        "prompt",
        "/tokenizer_info",
    ),
    Form(
        lambda model, text, special: {"model": model, "prompt": text, "add_special_tokens": special},
        lambda model, ids: {"model": model, "tokens": ids, "skip_special_tokens": False},
        "text",
        "/tokenizer_info",
    ),
    Form(
        lambda model, text, special: {"content": text, "add_special": special},
        lambda model, ids: {"tokens": ids},
        "content",
        "/props",
    ),
)


class ServerTokenizer:
    """A TextTokenizer of one server, asked once for each text; safe to use from many threads.

    Args:
        endpoint: of the server.
        form: how it is asked.
        seconds: that it may take, if not as long as ever.
    """

    def __init__(self, endpoint: "OpenAIEndpoint", form: Form, seconds: float | None = None):
        self.name, self._endpoint, self._form, self._seconds = endpoint.name, endpoint, form, seconds
        self.special_tokens: dict[str, str] = {}
        self.chat_template: str | None = None
        self._extra_space = False  # whether texts come back with a space in front that they did not have

    def encode(self, text: str, special: bool = False) -> list[int]:
        """See TextTokenizer."""

        def read(body: dict) -> list[int]:
            ids = body.get("tokens")
            if not isinstance(ids, list) or not all(type(token) is int for token in ids):
                raise UnreadableReply("it has no list of ids")
            return ids

        return self._ask("/tokenize", self._form.encode(self.name, text, special), read)

    def decode(self, ids: list[int]) -> str:
        """See TextTokenizer."""

        def read(body: dict) -> str:
            text = body.get(self._form.text)
            if not isinstance(text, str):
                raise UnreadableReply("it has no text")
            return text.removeprefix(" ") if self._extra_space else text

        return self._ask("/detokenize", self._form.decode(self.name, list(ids)), read)

    def count(self, text: str) -> int:
        """See TextTokenizer."""
        return len(self.encode(text))

    def is_right(self) -> bool:
        """Whether a text comes back as it was.

        Raises:
            ModelError: it does not come back at all.
        """
        ids = self.encode(SAMPLE)
        back = self.decode(ids)
        self._extra_space = back == " " + SAMPLE
        return bool(ids) and back.removeprefix(" ") == SAMPLE

    def learn_facts(self) -> None:
        """Note the chat template and the special tokens, as far as the server tells them."""
        told = tell(self._endpoint, self._form.facts)
        if not isinstance(told, dict):
            return
        if isinstance(template := told.get("chat_template"), str) and template:
            self.chat_template = template
        for name in SPECIAL_TOKENS:
            token = told.get(name)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token:
                self.special_tokens[name] = token

    def _ask(self, path: str, body: dict, read: Callable[[dict], T]) -> T:
        endpoint = self._endpoint

        def call() -> httpx2.Response:
            url, timeout = root(endpoint) + path, endpoint.timeout(self._seconds)
            return checked(endpoint.http.send(endpoint.http.build_request("POST", url, json=body, timeout=timeout)))

        return request(call, read, where=f"the tokenizer of {endpoint.where}", client=endpoint.client, usage=Usage())


class AnyTokenizer:
    """The TextTokenizer of a model that several servers have: the first that answers is asked; safe to use from many threads.

    Args:
        servers: the tokenizers of those that have one.
    """

    def __init__(self, servers: Sequence[ServerTokenizer]):
        self._servers = servers
        first = servers[0]
        self.name, self.special_tokens, self.chat_template = first.name, first.special_tokens, first.chat_template

    def encode(self, text: str, special: bool = False) -> list[int]:
        """See TextTokenizer."""
        return self._first(lambda server: server.encode(text, special))

    def decode(self, ids: list[int]) -> str:
        """See TextTokenizer."""
        return self._first(lambda server: server.decode(ids))

    def count(self, text: str) -> int:
        """See TextTokenizer."""
        return len(self.encode(text))

    def _first(self, ask: Callable[[ServerTokenizer], T]) -> T:
        # An only server is asked twice, for a kept connection may have been closed. No more: ids that it cannot read are an
        # internal error to some.
        *others, last = self._servers if len(self._servers) > 1 else 2 * list(self._servers)
        for server in others:
            try:
                return ask(server)
            except TransientError as error:
                if server is last and not error.unreachable:
                    raise
        return ask(last)


def find_tokenizer(endpoint: "OpenAIEndpoint") -> ServerTokenizer | None:
    """The tokenizer of an endpoint's model; None where the server has none."""
    for form in FORMS:
        try:
            if ServerTokenizer(endpoint, form, TRY_SECONDS).is_right():
                break
        except TransientError as error:
            if error.status is None and not error.unreadable:  # it does not answer at all
                return None
        except ModelError:
            continue
    else:
        return None
    found = ServerTokenizer(endpoint, form)
    found.is_right()
    found.learn_facts()
    return found


def find_context_length(endpoint: "OpenAIEndpoint") -> int | None:
    """How many tokens prompt and answer may have together, as far as a server tells it."""
    models = tell(endpoint, "/models", below_v1=True)
    listed = models.get("data") if isinstance(models, dict) else None
    listed = [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []
    named = [model for model in listed if model.get("id") == endpoint.name] or (listed if len(listed) == 1 else [])
    found = [model.get("max_model_len") for model in named]  # vLLM, SGLang
    if not any(is_length(length) for length in found):
        for path, keys in (("/props", ("default_generation_settings", "n_ctx")), ("/info", ("max_total_tokens",))):
            told: object = tell(endpoint, path)  # llama.cpp (of each slot), TGI
            for key in keys:
                told = told.get(key) if isinstance(told, dict) else None
            found.append(told)
    return next((length for length in found if is_length(length)), None)


def is_length(value: object) -> bool:
    """Whether a server's word is a number of tokens."""
    return type(value) is int and value > 0


def root(endpoint: "OpenAIEndpoint") -> str:
    """The URL beside whose /v1 an engine has its own routes."""
    return str(endpoint.client.base_url).rstrip("/").removesuffix("/v1")


def tell(endpoint: "OpenAIEndpoint", path: str, below_v1: bool = False) -> object:
    """The JSON object at a path; None where there is none."""
    url = (str(endpoint.client.base_url).rstrip("/") if below_v1 else root(endpoint)) + path

    def call() -> httpx2.Response:
        return checked(
            endpoint.http.send(endpoint.http.build_request("GET", url, timeout=endpoint.timeout(TRY_SECONDS)))
        )

    try:
        return request(call, lambda body: body, where=endpoint.where, client=endpoint.client, usage=Usage())
    except ModelError:
        return None
