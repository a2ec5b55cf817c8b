"""The two baselines of the nudging paper, over the text of tokens: average ensemble, and proxy tuning.

Proxy tuning: Liu et al., "Tuning Language Models by Proxy", COLM 2024 (arXiv 2401.08565). Both ask each model for a few tokens
at once and walk along them for as long as the models agree.
"""

import math
from dataclasses import dataclass

from language_models import Completion, ContextLengthError, LanguageModel, Token
from utils import count_tokens

TOKENS_PER_CALL = 16
ENSEMBLE_LOGPROBS = 5
PROXY_TUNING_LOGPROBS = 100


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


def proxy_tuning_choice(base: Token, chat: Token, proxy_base: Token) -> str | None:
    """The token text with the largest p_base * p_chat / p_proxy_base among those in all three top lists; None if none is."""
    p_chat, p_proxy = dict(chat.top), dict(proxy_base.top)
    scores = {t: p + p_chat[t] - p_proxy[t] for t, p in base.top if t in p_chat and t in p_proxy}
    return max(scores, key=scores.__getitem__) if scores else None


def walk_ensemble(base: Completion, chat: Completion) -> str:
    """The text that an average ensemble accepts of two completions of the same text."""
    accepted = ""
    for base_token, chat_token in zip(base.tokens, chat.tokens, strict=False):
        if base_token.text != chat_token.text:
            return accepted + ensemble_choice(base_token, chat_token)
        accepted += base_token.text
    return accepted


def walk_proxy_tuning(base: Completion, chat: Completion, proxy_base: Completion) -> str:
    """The text that proxy tuning accepts of three completions of the same text."""
    accepted = ""
    for tokens in zip(base.tokens, chat.tokens, proxy_base.tokens, strict=False):
        choice = proxy_tuning_choice(*tokens)
        if choice is None:
            return accepted + tokens[0].text
        accepted += choice
        if any(token.text != choice for token in tokens):
            return accepted
    return accepted


def _first_text(*completions: Completion) -> str:
    return next((token.text for completion in completions for token in completion.tokens if token.text), "")


def _decode(
    models: list[LanguageModel], prompts: list[str], walk, logprobs, max_token_total, temperature
) -> BaselineResult:
    result = BaselineResult()
    try:
        while count_tokens(result.text) < max_token_total:
            completions = [
                model.complete(
                    prompt + result.text, max_tokens=TOKENS_PER_CALL, temperature=temperature, logprobs=logprobs
                )
                for model, prompt in zip(models, prompts, strict=True)
            ]
            base, chat = completions[:2]
            if chat.finish_reason == "stop":
                result.text += chat.text
                result.stop_reason = "chat_model_stop"
                return result
            added = walk(*completions) or _first_text(base, chat)
            if not added:
                result.stop_reason = "no_new_text"
                return result
            result.text += added
        result.stop_reason = "length"
    except ContextLengthError:
        result.stop_reason = "context_length"
    return result


def average_ensemble(
    base: LanguageModel,
    chat: LanguageModel,
    base_prompt: str,
    chat_prompt: str,
    *,
    max_token_total: int = 512,
    temperature: float = 0.0,
) -> BaselineResult:
    """Answer one prompt with the average of two models' token probabilities (nudging paper, section 4.1).

    Args:
        base, chat: the base model and the small aligned one; both must give log-probabilities.
        base_prompt, chat_prompt: the prompt in each model's own template, before any answer text.
        max_token_total: length of the answer in cl100k_base tokens.
        temperature: of every call.

    Returns:
        The answer; stop_reason is one of chat_model_stop, length, no_new_text, context_length.

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    prompts = [base_prompt, chat_prompt]
    return _decode([base, chat], prompts, walk_ensemble, ENSEMBLE_LOGPROBS, max_token_total, temperature)


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
) -> BaselineResult:
    """Answer one prompt by proxy tuning: the base model shifted by what tuning did to a small model (Liu et al. 2024, section 2).

    Args:
        base, chat, proxy_base: the large base model, the small aligned model, and the small one before it was aligned.
        base_prompt, chat_prompt, proxy_base_prompt: the prompt in each model's own template, before any answer text.
        max_token_total: length of the answer in cl100k_base tokens.
        temperature: of every call.

    Returns:
        The answer; stop_reason as for `average_ensemble`.

    Raises:
        ModelError: a model did not answer, after all retries.
    """
    models, prompts = [base, chat, proxy_base], [base_prompt, chat_prompt, proxy_base_prompt]
    return _decode(models, prompts, walk_proxy_tuning, PROXY_TUNING_LOGPROBS, max_token_total, temperature)
