"""The two baselines of the nudging paper, over the text of tokens: average ensemble, and proxy tuning.

Proxy tuning: Liu et al., "Tuning Language Models by Proxy", COLM 2024 (arXiv 2401.08565). Both ask each model for a few tokens
at once and walk along them for as long as the models agree.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from language_models.interface import (
    END_OF_SEQUENCE,
    ContextLengthError,
    LanguageModel,
    SamplingParams,
    Token,
    whole_characters,
)
from language_models.readers import READERS, Reader, Writer, reader_at
from utils import count_tokens

TOKENS_PER_CALL = 16
ENSEMBLE_LOGPROBS = 5
PROXY_TUNING_LOGPROBS = 100
CHAT = 1  # the chat model's place among the models


@dataclass
class BaselineResult:
    """An answer, and why it ended."""

    text: str = ""
    stop_reason: str = ""


def ensemble_choice(base: Token, chat: Token) -> str:
    """The token text with the largest sum of probabilities over both models' top lists (absent from a list = 0)."""
    sums: dict[str, float] = {}
    for token in (base, chat):
        for text, logprob in token.top:
            sums[text] = sums.get(text, 0.0) + math.exp(logprob)
    return max(sums, key=sums.__getitem__)


def proxy_tuning_score(base: float, chat: float, proxy_base: float) -> float | None:
    """p_base * p_chat / p_proxy_base of a token, in the published program's arithmetic, of log-probabilities.

    None where a small model's probability is not a number to divide by: servers write -inf, -9999 or -3.4e38 for a token that a
    model excludes, which is no measure of how far tuning has moved it, and the quotient must be a number too.
    """
    p_chat, p_proxy_base = math.exp(chat), math.exp(proxy_base)
    if not (p_chat > 0 and p_proxy_base > 0):  # NaN is not either
        return None
    score = math.exp(base) * p_chat / p_proxy_base
    return score if math.isfinite(score) else None


def proxy_tuning_choice(base: Token, chat: Token, proxy_base: Token) -> str | None:
    """The token text with the largest `proxy_tuning_score` among those in all three top lists; None if none has one."""
    of_chat, of_proxy_base = dict(chat.top), dict(proxy_base.top)
    scores = {
        text: score
        for text, logprob in base.top
        if text in of_chat
        and text in of_proxy_base
        and (score := proxy_tuning_score(logprob, of_chat[text], of_proxy_base[text])) is not None
    }
    return max(scores, key=scores.__getitem__) if scores else None


def walk_ensemble(base: Iterable[Token], chat: Iterable[Token]) -> str:
    """The text that an average ensemble accepts of two models' tokens after the same text."""
    accepted = ""
    for base_token, chat_token in zip(base, chat, strict=False):
        if base_token.text != chat_token.text:
            return accepted + whole_characters(ensemble_choice(base_token, chat_token), (base_token, chat_token))
        accepted += base_token.text
    return accepted


def walk_proxy_tuning(base: Iterable[Token], chat: Iterable[Token], proxy_base: Iterable[Token]) -> str:
    """The text that proxy tuning accepts of three models' tokens after the same text."""
    accepted = ""
    for tokens in zip(base, chat, proxy_base, strict=False):
        choice = proxy_tuning_choice(*tokens)
        if choice is None:
            return accepted + tokens[0].text
        accepted += whole_characters(choice, tokens)
        if any(token.text != choice for token in tokens):
            return accepted
    return accepted


class _Turns:
    """One model's tokens, turn by turn; those of a turn are the tokens of one call, read as far as the walk looks at them."""

    def __init__(self, writer: Writer, request_mode: str):
        self._writer, self._kind = writer, READERS[request_mode]
        self._reader: Reader | None = None
        self._read: list[Token] = []

    def go_to(self, text: str) -> None:
        """Have the next turn begin after an answer text: where what was accepted is what the model has written, it goes on."""
        self._reader = reader_at(text, self._reader, self._read, lambda text: self._kind(self._writer, text))
        self._read = []

    def begin(self) -> None:
        """Have the turn's tokens come."""
        self._reader.begin_call()

    def tokens(self) -> Iterator[Token]:
        """The turn's tokens, from its first."""
        n = 0
        while True:
            if n == len(self._read):
                # A call without a token counts as an end of sequence.
                token = self._reader.read() or (None if self._read else END_OF_SEQUENCE)
                if token is None:
                    return
                self._read.append(token)
            yield self._read[n]
            n += 1

    def last_words(self) -> str | None:
        """The turn's whole text where it ends with the end of sequence."""
        text = "".join(token.text for token in self.tokens())
        return text if self._reader.ended else None

    def close(self) -> None:
        """End the writing."""
        if self._reader is not None:
            self._reader.close()


def _decode(
    models: list[LanguageModel], prompts: list[str], walk, logprobs, max_token_total, temperature, request_mode, seed
) -> BaselineResult:
    params = SamplingParams(TOKENS_PER_CALL, temperature, logprobs=logprobs, seed=seed)
    turns = [
        _Turns(Writer(model, prompt, params, max_token_total), request_mode)
        for model, prompt in zip(models, prompts, strict=True)
    ]
    result = BaselineResult()

    try:
        while count_tokens(result.text) < max_token_total:
            for one in turns:
                one.go_to(result.text)
            for one in turns:
                one.begin()  # all models before the first is waited for
            last_words = turns[CHAT].last_words()
            if last_words is not None:
                result.text += last_words
                result.stop_reason = "chat_model_stop"
                return result
            added = walk(*(one.tokens() for one in turns))
            added = added or _first_text(turns[0].tokens(), turns[CHAT].tokens())
            if not added:
                result.stop_reason = "no_new_text"
                return result
            result.text += added
        result.stop_reason = "length"
    except ContextLengthError:
        result.stop_reason = "context_length"
    finally:
        for one in turns:
            one.close()
    return result


def _first_text(*tokens: Iterator[Token]) -> str:
    return next((token.text for source in tokens for token in source if token.text), "")


def average_ensemble(
    base: LanguageModel,
    chat: LanguageModel,
    base_prompt: str,
    chat_prompt: str,
    *,
    max_token_total: int = 512,
    temperature: float = 0.0,
    request_mode: str = "published",
    seed: int | None = None,
) -> BaselineResult:
    """Answer one prompt with the average of two models' token probabilities (nudging paper, section 4.1).

    Args:
        base, chat: the base model and the small aligned one; both must give log-probabilities.
        base_prompt, chat_prompt: the prompt in each model's own template, before any answer text.
        max_token_total: length of the answer in cl100k_base tokens.
        temperature: of every call.
        request_mode: "published" or "streamed", how the models are asked; the answer does not depend on it.
        seed: of the sampling of all models; None for none.

    Returns:
        The answer; stop_reason is one of chat_model_stop, length, no_new_text, context_length.

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    prompts = [base_prompt, chat_prompt]
    return _decode(
        [base, chat], prompts, walk_ensemble, ENSEMBLE_LOGPROBS, max_token_total, temperature, request_mode, seed
    )


def proxy_tuning(
    base: LanguageModel,
    chat: LanguageModel,
    proxy_base: LanguageModel,
    base_prompt: str,
    chat_prompt: str,
    proxy_base_prompt: str,
    *,
    max_token_total: int = 512,
    temperature: float = 0.0,
    request_mode: str = "published",
    seed: int | None = None,
) -> BaselineResult:
    """Answer one prompt by proxy tuning: the base model shifted by what tuning did to a small model (Liu et al. 2024, section 2).

    Args:
        base, chat, proxy_base: the large base model, the small aligned model, and the small one before it was aligned.
        base_prompt, chat_prompt, proxy_base_prompt: the prompt in each model's own template, before any answer text.
        max_token_total: length of the answer in cl100k_base tokens.
        temperature: of every call.
        request_mode: "published" or "streamed", how the models are asked; the answer does not depend on it.
        seed: of the sampling of all models; None for none.

    Returns:
        The answer; stop_reason as for `average_ensemble`.

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    models, prompts = [base, chat, proxy_base], [base_prompt, chat_prompt, proxy_base_prompt]
    return _decode(
        models, prompts, walk_proxy_tuning, PROXY_TUNING_LOGPROBS, max_token_total, temperature, request_mode, seed
    )
