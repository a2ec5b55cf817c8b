"""/tokenize, /detokenize and /tokenizer_info in vLLM's shapes, which evaluation harnesses ask: the base model's tokenizer."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from nudged_pair import NudgedPair
from serving.errors import ApiError
from serving.requests import read_body
from utils import without_surrogates

MOST_IDS = 1_000_000


class TokenizeBody(BaseModel):
    """A request to /tokenize."""

    model_config = ConfigDict(extra="allow", strict=True)

    prompt: str | None = None
    messages: Any = None
    add_special_tokens: bool = True


class DetokenizeBody(BaseModel):
    """A request to /detokenize."""

    model_config = ConfigDict(extra="allow", strict=True)

    tokens: list[int]


def tokenize(pair: NudgedPair, raw: dict) -> dict[str, Any]:
    """The ids of a prompt, or of a conversation's prompt for the base model.

    Raises:
        ApiError, ConversationError, PromptError, ModelError: it cannot be.
    """
    body = read_body(raw, TokenizeBody)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "there must be a prompt, or messages", param="prompt", code="missing_required_parameter")
    text = pair.prompts(body.messages).base if body.prompt is None else without_surrogates(body.prompt)
    tokens = pair.tokenizer.encode(text, body.add_special_tokens)
    return {"tokens": tokens, "count": len(tokens), "max_model_len": pair.context_length, "token_strs": None}


def detokenize(pair: NudgedPair, raw: dict) -> dict[str, Any]:
    """The text of ids.

    Raises:
        ApiError, ModelError: it cannot be.
    """
    tokens = read_body(raw, DetokenizeBody).tokens
    if len(tokens) > MOST_IDS or any(not 0 <= token < 2**31 for token in tokens):
        raise ApiError(400, "tokens must be ids of the base model's tokenizer", param="tokens", code="invalid_value")
    return {"prompt": pair.tokenizer.decode(tokens) if tokens else ""}


def tokenizer_info(pair: NudgedPair) -> dict[str, Any]:
    """The special tokens of the base model, and no chat template: the pair's conversations go through /v1/chat/completions."""
    special = pair.tokenizer.special_tokens
    names = ("eos_token", "bos_token", "pad_token")
    return (
        {"tokenizer_class": pair.tokenizer.name}
        | {name: special.get(name) for name in names}
        | {"chat_template": pair.tokenizer.chat_template}
    )
