"""A chat model behind any OpenAI-compatible server's /v1/chat/completions, asked for JSON with the most probable words.

Not every model takes every field of such a request: what one refuses is left out, once for all questions.
"""

import itertools
import re
import threading
from collections.abc import Callable, Iterator

from language_models.hosted.http import make_client, make_http, place, request
from language_models.hosted.logprobs import UnreadableReply
from language_models.hosted.retries import LONGEST_WAIT, RetryPolicy, persist
from language_models.interface import ChatReply, ContextLengthError, ModelError, TransientError, Usage
from utils import without_surrogates

REFUSALS = (400, 422, 501)
# Some servers say so of a failure, or of a model of this kind that they do not have.
REFUSALS_BY_THEIR_MESSAGE = (404, 500)
QUESTIONS_TRIED = (
    2  # in all forms, before a server counts as refusing whatever is asked; the first may be refused for its content
)
_THOUGHTS = ("thinking", "reasoning", "thought", "redacted_thinking")  # the types of such parts
# What can be left out of a request, and how a server's message names it.
_OPTIONAL = {
    "response_format": re.compile(r"response.?format|json|grammar|guided|structured", re.IGNORECASE),
    "temperature": re.compile(r"temperature", re.IGNORECASE),
    "system role": re.compile(r"system", re.IGNORECASE),
}
_REFUSING = re.compile(
    r"support|implement|allow|accept|handle|invalid|unknown|unrecogni[sz]ed|unexpected", re.IGNORECASE
)


class HostedChatModel:
    """A chat model behind a server; it can be asked from many threads at once.

    Args:
        name: as served.
        host: base URL such as http://localhost:8000/v1; None for OpenAI itself.
        say: told, once, what the server refuses.
        schema: the JSON schema of replies, for servers that can hold a model to one; by default they are any JSON object.
        max_tokens: most tokens of a reply; by default the server's own limit.
        max_outage: seconds for which a question is asked again where the server limits the rate of requests.
    """

    def __init__(
        self,
        name: str,
        host: str | None,
        api_key: str,
        *,
        num_threads: int,
        request_timeout: float,
        max_retries: int,
        say: Callable[[str], None],
        schema: dict | None = None,
        max_tokens: int | None = None,
        max_outage: float = 300.0,
    ):
        self.name, self.num_threads, self.say = name, num_threads, say
        self.where = place(f"judge {name}", host)
        self.client = make_client(host, api_key, make_http(host, num_threads, request_timeout))
        self.retry_policy = RetryPolicy(max_retries, rate_limit_seconds=max_outage)
        form: dict = {"type": "json_object"}
        if schema:
            form = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
        self._fields = {"temperature": 0, "response_format": form} | ({"max_tokens": max_tokens} if max_tokens else {})
        self._told_to_wait = False
        self._settling = threading.Lock()
        self._left_out: tuple[str, ...] = ()
        self._taken = False  # whether the server has taken a request without what is left out
        self._hopeless = 0

    def ask(self, instructions: str, question: str) -> ChatReply:
        """The model's reply to a system message and a user's; halves of characters in them are sent as U+FFFD.

        Raises:
            ModelError: it did not answer, after all retries, or refuses the request in every form.
        """
        instructions, question = without_surrogates(instructions), without_surrogates(question)
        left_out = self._left_out
        try:
            reply = self._send(instructions, question, left_out)
        except ModelError as error:
            if not self._is_refusal(error):
                raise
            return self._ask_with_less(instructions, question, left_out, error)
        self._taken = True
        return reply

    def _ask_with_less(
        self, instructions: str, question: str, refused: tuple[str, ...], refusal: ModelError
    ) -> ChatReply:
        """Ask again without more and more of the request, until it is taken."""
        with self._settling:
            if self._taken and self._left_out == refused:
                raise refusal  # it is this question that the server refuses: others were taken in this form
            if self._taken:
                return self._send(instructions, question, self._left_out)
            for left_out in _ways(self._told(refusal)) if self._hopeless < QUESTIONS_TRIED else ():
                try:
                    reply = self._send(instructions, question, left_out)
                except ModelError as error:
                    if not self._is_refusal(error):
                        raise
                    continue
                self._left_out, self._taken = left_out, True
                self.say(
                    f"warning: {self.where} is asked without {' and '.join(left_out)}, which it refuses: {self._told(refusal)}"
                )
                return reply
            self._hopeless += 1
        raise refusal

    def _send(self, instructions: str, question: str, left_out: tuple[str, ...]) -> ChatReply:
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": question}]
        if "system role" in left_out:
            messages = [{"role": "user", "content": f"{instructions}\n\n{question}"}]
        fields = {name: value for name, value in self._fields.items() if name not in left_out}

        def call():
            return self.client.chat.completions.with_raw_response.create(model=self.name, messages=messages, **fields)

        def send() -> ChatReply:
            try:
                return request(call, read_chat, where=self.where, client=self.client, usage=Usage())
            except TransientError as error:
                if self._is_refusal(error):  # it would come back
                    raise ModelError(str(error), error.status) from None
                raise

        reply = persist(send, self.retry_policy, Usage(), self._waiting)
        self._told_to_wait = False
        return reply

    def _waiting(self, error: TransientError, seconds: float) -> None:
        """Say of a long wait that it is one: once, until the server answers again."""
        if seconds >= LONGEST_WAIT / 2 and not self._told_to_wait:
            self._told_to_wait = True
            self.say(f"warning: {error}; asking again, {self.retry_policy.in_words(error)}")

    def _told(self, error: ModelError) -> str:
        """What the server says, without its name, in which words may stand that are none of a message."""
        return str(error).removeprefix(f"{self.where}: ")

    def _is_refusal(self, error: ModelError) -> bool:
        """Whether a server refuses a request for its form, or may do so."""
        if error.status in REFUSALS_BY_THEIR_MESSAGE:
            told = self._told(error)
            parts = (*_OPTIONAL.values(), re.compile("parameter", re.IGNORECASE))
            return bool(_REFUSING.search(told)) and any(part.search(told) for part in parts)
        return error.status in REFUSALS and not isinstance(error, ContextLengthError)


def _ways(refusal: str) -> Iterator[tuple[str, ...]]:
    """What to leave out of a request, from little to much; what the refusal names goes first."""
    names = sorted(_OPTIONAL, key=lambda name: not _OPTIONAL[name].search(refusal))
    for number in range(1, len(names) + 1):
        yield from itertools.combinations(names, number)


def read_chat(body: dict) -> ChatReply:
    """The reply in a server's JSON; a refusal is a text like any other, and what a model thinks in parts of its own is left out.

    Raises:
        UnreadableReply: it is no chat completion.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content = message.get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UnreadableReply("it has no choices[0].message") from None
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"text": part} for part in content]
        parts = [part for part in parts if part.get("type") not in _THOUGHTS]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not content:
        content = message.get("refusal")
    return ChatReply(content if isinstance(content, str) else "", choice.get("finish_reason"))
