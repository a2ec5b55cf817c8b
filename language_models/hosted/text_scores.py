"""Scores of texts by a server's model: the log-probabilities of an echoed prompt in one request, or a request for each place.

`echo` with `logprobs` is of OpenAI's completions API as it was (vLLM and SGLang have it; llama.cpp looks past it). Whether a server
has it is found out by a request. Without it a text is cut into tokens by the server's tokenizer routes, and each place is asked.
"""

import threading
from collections.abc import Sequence

from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.logprobs import UnreadableReply
from language_models.hosted.refused_fields import NOT_IMPLEMENTED, REFUSALS
from language_models.hosted.replicas import Replicas
from language_models.hosted.retries import persist
from language_models.hosted.token_texts import TextMismatch, TokenReader, align, token_slices
from language_models.interface import ContextLengthError, ModelError, SamplingParams, Usage
from language_models.scored_text import (
    ScoredToken,
    cut_together,
    most_probable,
    place_by_place,
    tokens_of,
    without_empty,
)
from language_models.tokenizing import TextTokenizer

SAMPLE = "The capital of France", " is Paris, and it lies on the Seine."
NO_ECHO = (*REFUSALS, NOT_IMPLEMENTED)


class ServerScorer:
    """See TextScorer. Of several servers the texts are shared out among all.

    `requests` counts those that were sent for texts, the try for `echo` not.
    """

    def __init__(self, model: Replicas, echo: bool | None = None):
        """`echo`: whether the servers echo log-probabilities; None: that is found out by a request before the first text."""
        self.model, self.name = model, model.name
        self.requests = 0
        self._echo = echo
        self._texts: dict[int, str] = {}  # of single tokens, as the server's tokenizer writes them
        self._next = 0
        self._lock, self._asking = threading.Lock(), threading.Lock()

    @property
    def how(self) -> str:
        """See TextScorer."""
        return (
            "echo, one request for each text"
            if self.echoes
            else "place by place, one request of one token for each place"
        )

    @property
    def echoes(self) -> bool:
        """Whether the servers echo a prompt's log-probabilities; asked once.

        Raises:
            ModelError: a server does not answer.
        """
        with self._asking:
            if self._echo is None:
                self._echo = all(self._try(endpoint) for endpoint in self.model.endpoints)
            return self._echo

    def _try(self, endpoint: OpenAIEndpoint) -> bool:
        try:
            return bool(self._echoed(endpoint, *SAMPLE, 1, Usage()))
        except ModelError as error:
            if error.status in NO_ECHO and not isinstance(error, ContextLengthError):
                return False
            raise

    def score(self, prompt: str, text: str, logprobs: int) -> tuple[ScoredToken, ...]:
        """See TextScorer."""
        if not self.echoes:
            tokens = self._tokens(prompt, text)
            with self._lock:
                self.requests += sum(bool(piece) for _, piece in tokens)
            return place_by_place(self.model.for_sample(prompt), prompt, tokens, text, logprobs)
        with self._lock:
            self.requests += 1
            self._next = (self._next + 1) % len(self.model.endpoints)
            endpoint = self.model.endpoints[self._next]
        usage = Usage()
        try:
            found = self._echoed(endpoint, prompt, text, logprobs, usage)
        finally:
            endpoint.count(usage)
        if found is None:
            raise ModelError(
                f"{endpoint.where}: it has echoed a short text with its log-probabilities, and this one not"
            )
        return found

    def _echoed(
        self, endpoint: OpenAIEndpoint, prompt: str, text: str, logprobs: int, usage: Usage
    ) -> tuple[ScoredToken, ...] | None:
        """The tokens of a text as one request tells them; None where the reply does not begin with what was sent, or lacks them."""
        whole = prompt + text

        def read(body: dict) -> tuple[ScoredToken, ...] | None:
            choices = body.get("choices")
            choice = choices[0] if isinstance(choices, list) and choices else None
            if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
                raise UnreadableReply("it has no text")
            return echoed_tokens(endpoint.reader, choice, len(prompt), whole, logprobs)

        def ask() -> tuple[ScoredToken, ...] | None:
            return endpoint.ask(whole, SamplingParams(1, logprobs=logprobs), usage, read, echo=True)

        return persist(ask, endpoint.retry_policy, usage)

    def _tokens(self, prompt: str, text: str) -> list[tuple[int, str]]:
        """The tokens that begin in the text, by the server's tokenizer: offset and slice.

        Raises:
            ModelError: it has none, or it does not give the text back.
        """
        tokenizer = self.model.tokenizer()
        if tokenizer is None:
            raise ModelError(
                f"{self.model.endpoints[0].where}: it neither echoes a prompt with its log-probabilities nor has routes for its "
                "tokenizer, so that texts cannot be scored by it; serve the model with vLLM, or load it into this process (no host)"
            )
        whole = prompt + text
        shown = [self._text_of(tokenizer, token) for token in tokenizer.encode(whole)]
        try:
            slices = _slices(shown, whole, ended=False)
        except UnreadableReply as error:
            raise ModelError(f"{self.name}: its tokenizer does not give the text back as it is: {error}") from None
        return [(start, piece) for start, piece, _ in tokens_of(cut_together(slices, shown), len(prompt))]

    def _text_of(self, tokenizer: TextTokenizer, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = tokenizer.decode([token])
        return text


def echoed_tokens(
    reader: TokenReader, choice: dict, begin: int, whole: str, logprobs: int
) -> tuple[ScoredToken, ...] | None:
    """The tokens of an echoed text behind a prompt; None where they are not there.

    Args:
        reader: reads the server's forms.
        choice: of the reply: its text is what was sent and a token more.
        begin: where the text begins in `whole`, which was sent.
        logprobs: how many of each place are wanted.

    Raises:
        UnreadableReply: tokens and text do not fit together, or a place lacks its log-probabilities.
    """
    told, shown = choice.get("logprobs"), choice["text"]
    if not shown.startswith(whole) or not isinstance(told, dict) or not isinstance(told.get("tokens"), list):
        return None
    names, own, tops = told["tokens"], told.get("token_logprobs"), told.get("top_logprobs")
    if not isinstance(own, list) or not isinstance(tops, list) or not len(names) == len(own) == len(tops):
        return None
    if not all(isinstance(name, str) for name in names):
        return None
    slices = _slices(names, shown, ended=choice.get("finish_reason") == "stop", offsets=told.get("text_offset"))
    slices = cut_together(slices, names)
    tokens = [token for token in tokens_of(slices, begin) if token[0] < len(whole) - begin]
    if not any(own[number] is not None for *_, number in tokens):
        return None  # the words are echoed, and nothing is said of them
    if not tokens or sum(len(piece) for _, piece, _ in tokens) != len(whole) - begin - tokens[0][0]:
        raise UnreadableReply("a token lies both in what was sent and in what was written")
    found = []
    for start, piece, number in tokens:
        one = {
            "tokens": [names[number]],
            "text_offset": [0],
            "token_logprobs": [own[number]],
            "top_logprobs": [tops[number]],
        }
        if own[number] is None and not number:
            continue  # the first token of all has nothing before it
        token = reader.read(piece, one, "length")[0]
        found.append(ScoredToken(start, piece, own[number], _listed(token.top, tops[number], logprobs)))
    return tuple(found)


def _listed(top: Sequence[tuple[str, float]], told: dict | None, logprobs: int) -> tuple[tuple[str, float], ...]:
    """The most probable tokens. vLLM prints a token that is a part of a character as "" in an echo, and ends by their names."""
    return without_empty(most_probable(top, logprobs)) if "" in (told or ()) else most_probable(top, logprobs)


def _slices(shown: Sequence[str], text: str, *, ended: bool, offsets: Sequence[int] | None = None) -> list[str]:
    """As `token_slices`, also where SentencePiece has put a space before a text that begins without one."""
    try:
        return token_slices(shown, text, ended=ended, offsets=offsets)
    except TextMismatch:
        spaced = align(shown, " " + text)
        if spaced is None:
            raise
    first = next(number for number, piece in enumerate(spaced) if piece)
    spaced[first] = spaced[first][1:]
    return spaced
