"""The one choice of a reply or a chunk: its text, why it ended, and whether it is as long as asked for."""

from collections.abc import Sequence

from language_models.hosted.logprobs import FaultyReply, UnreadableReply, has_tokens
from language_models.interface import Token

# Together AI, TGI and others have names of their own; what else there is (abort, error, content_filter) is no completion.
FINISH_REASONS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_of_text", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_length"), "length"),
}

CHAT_FIELDS = ("delta", "message")  # what choices of chats have where those of completions have `text`
# Of one token, at most; the longest are runs of blanks, or of dots between blanks. By its length a text is found to be too long
# where the server does not count.
LONGEST_TOKEN = 512  # characters
WORDS_OF_TOKEN = 16


def completion_choice(body: dict, max_tokens: int | None = None) -> tuple[str, str, dict]:
    """The text, the finish reason ("stop" or "length") and the whole of a reply's only choice.

    Args:
        max_tokens: what was asked for; by it a server is understood that gives no reason.

    Raises:
        UnreadableReply: there is none, or it was broken off.
    """
    choice, text, reason = _only_choice(body)
    if text is None or "finish_reason" not in choice:
        raise UnreadableReply(f"it has no choices[0] with text and finish_reason, only {sorted(map(str, choice))}")
    return text, reason or unsaid_reason(*_tokens_told(body, choice, text), max_tokens), choice


def chunk_choice(event: dict) -> tuple[str, str | None, dict]:
    """The same of one chunk of a stream: its text may be missing, and its finish reason is None until the last one.

    Raises:
        UnreadableReply: it is of no single choice, or the server breaks off.
    """
    choice, text, reason = _only_choice(event)
    for name in CHAT_FIELDS:
        if not text and isinstance(said := choice.get(name), dict) and any(isinstance(v, str) for v in said.values()):
            raise UnreadableReply(f"it is of a chat ({name}), and a completion was asked for")
    return text or "", reason, choice


def unsaid_reason(tokens: int | None, last_is_text: bool, max_tokens: int | None) -> str:
    """Why a completion ended that is over without a reason.

    Args:
        tokens: how many were written; None where it is not known.
        last_is_text: whether the last of them is surely no end of sequence.
        max_tokens: how many were asked for.

    Raises:
        UnreadableReply: it cannot be known.
    """
    if tokens is not None and max_tokens is not None:
        if tokens < max_tokens:
            return "stop"
        if last_is_text:
            return "length"
    raise UnreadableReply("it does not say why it ended (finish_reason), so that an end of the answer cannot be known")


def check_count(body: dict, text: str, tokens: Sequence[Token], max_tokens: int) -> None:
    """See that a whole completion is not longer than asked for, which would be another answer.

    Args:
        text: of the completion.
        tokens: those that were read; empty where no log-probabilities were asked for, and the server's count has to do.

    Raises:
        FaultyReply: it is.
    """
    # Some servers count an end of sequence that they do not list, or list one that they do not count.
    written = len(tokens) - (not tokens[-1].text) if tokens else (_tokens_told(body, {}, "")[0] or 1) - 1
    too_long = len(text) > LONGEST_TOKEN * max_tokens or len(text.split()) > WORDS_OF_TOKEN * max_tokens
    if written > max_tokens or (too_long and not tokens):
        raise too_many_tokens(max_tokens)


def too_many_tokens(max_tokens: int) -> FaultyReply:
    """What is wrong with a server that does not keep to max_tokens."""
    return FaultyReply(f"it writes more than the {max_tokens} tokens that max_tokens asks for")


def _only_choice(body: dict) -> tuple[dict, str | None, str | None]:
    """The only choice of a reply or chunk, its text and its finish reason, where it has them."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise UnreadableReply(f"it has no choices[0], only {sorted(map(str, body))}")
    choice = choices[0]
    if len(choices) > 1 or choice.get("index") not in (0, None):
        raise UnreadableReply("it has several choices where one was asked for")
    text, reason = choice.get("text"), choice.get("finish_reason")
    if not isinstance(text, str | None):
        raise UnreadableReply("its text is no string")
    if reason not in (None, "") and (not isinstance(reason, str) or reason not in FINISH_REASONS):
        raise UnreadableReply(f"the server broke the completion off (finish_reason {reason!r})")
    return choice, text, FINISH_REASONS[reason] if reason else None


def _tokens_told(body: dict, choice: dict, text: str) -> tuple[int | None, bool]:
    """How many tokens a whole completion has, and whether the last is surely none that ends the sequence.

    By its log-probabilities, or else by its usage, which counts such a token; None where neither tells.
    """
    logprobs, usage = choice.get("logprobs"), body.get("usage")
    if has_tokens(logprobs) and isinstance(listed := logprobs.get("content") or logprobs.get("tokens"), list):
        last = listed[-1].get("token") if isinstance(listed[-1], dict) else listed[-1]
        return len(listed), isinstance(last, str) and last != "" and text.endswith(last)
    told = usage.get("completion_tokens") if isinstance(usage, dict) else None
    # Some write 0 where they do not count.
    return (told if isinstance(told, int) and (told > 0 or not text) else None), False
