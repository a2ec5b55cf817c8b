"""What requests cannot ask of a pair: fields of OpenAI's and vLLM's APIs that are refused, each with a sentence that says why."""

from typing import TYPE_CHECKING

from serving.errors import unsupported

if TYPE_CHECKING:
    from serving.requests import ChatBody

_TEXT_ONLY = "the models of the pair read and write text alone"
_NO_PROBABILITY = (
    "an answer that two models write has no log-probabilities: each of its tokens is from one of them, given both"
)
_NO_GRAMMAR = "the answer of a pair follows no grammar"
_NO_DIAL = "the models of the pair know no such setting"
_TOKEN_IDS = "the tokens of two models are not the same, so that none can be named by their ids"
_NOT_PASSED_ON = "it is no part of nudging, and would change the probabilities by which the base model hands over"
# Fields that cannot be defined for a pair: the values beside None that ask for nothing, and why others are refused.
REFUSED: dict[str, tuple[tuple, str]] = {
    "logprobs": ((False,), _NO_PROBABILITY),
    "top_logprobs": ((0,), _NO_PROBABILITY),
    "prompt_logprobs": ((), _NO_PROBABILITY),
    "echo": ((False,), "the probabilities of a prompt, which echo is for, are not those of a pair; leave it out"),
    "functions": (([],), f"{_TEXT_ONLY}, and call no functions"),
    "function_call": (("none",), f"{_TEXT_ONLY}, and call no functions"),
    "audio": ((), _TEXT_ONLY),
    "modalities": ((["text"],), _TEXT_ONLY),
    "web_search_options": ((), _TEXT_ONLY),
    "suffix": (("",), "both models continue a text, and fill no gap in it"),
    "presence_penalty": ((0,), _NOT_PASSED_ON),
    "frequency_penalty": ((0,), _NOT_PASSED_ON),
    "repetition_penalty": ((1,), _NOT_PASSED_ON),
    "logit_bias": (({},), "the tokens of two models are not the same, so that no bias can be given by their ids"),
    "min_p": ((0,), _NOT_PASSED_ON),
    "top_k": ((0, -1), _NOT_PASSED_ON),
    "min_tokens": ((0,), "an answer ends where the nudging model ends it"),
    "ignore_eos": ((False,), "an answer ends where the nudging model ends it"),
    "use_beam_search": ((False,), "nudging writes one answer, token by token"),
    "guided_json": ((), _NO_GRAMMAR),
    "guided_regex": ((), _NO_GRAMMAR),
    "guided_choice": ((), _NO_GRAMMAR),
    "guided_grammar": ((), _NO_GRAMMAR),
    "structured_outputs": ((), _NO_GRAMMAR),
    "reasoning_effort": (("none",), _NO_DIAL),
    "verbosity": (("medium",), _NO_DIAL),
    "bad_words": (([],), _NOT_PASSED_ON),
    "stop_token_ids": (([],), _TOKEN_IDS),
    "allowed_token_ids": ((), _TOKEN_IDS),
    "typical_p": ((1,), _NOT_PASSED_ON),
    "length_penalty": ((1,), "nudging writes one answer, token by token"),
    "truncate_prompt_tokens": ((), "a prompt that is too long is refused, not cut"),
    "include_stop_str_in_output": ((False,), "an answer ends before the stop sequence"),
    "skip_special_tokens": ((True,), "an answer is text, without special tokens"),
}


def refuse(body: dict) -> None:
    """Raise ApiError if a body asks for what cannot be defined for a pair."""
    for name, (neutral, why) in REFUSED.items():
        value = body.get(name)
        if value is not None and not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral
        ):
            raise unsupported(name, f"{name} is not supported: {why}")


def refuse_tools(body: "ChatBody", ignored: bool) -> None:
    """Raise ApiError where a chat is to call tools, or to answer in another form than text.

    Args:
        ignored: tools that may be used, but need not be, are left unused.
    """
    kind = (body.response_format or {}).get("type", "text")
    if kind != "text":
        raise unsupported(
            "response_format", f"response_format can be text only: {_TEXT_ONLY}, without a grammar for it"
        )
    needs = body.tool_choice not in (None, "none", "auto")
    if (body.tools and body.tool_choice != "none" and not ignored) or needs:
        way_out = "" if needs else " (serve_nudged.py --ignore_tools leaves them unused)"
        raise unsupported(
            "tool_choice" if needs else "tools", f"tools are not supported: {_TEXT_ONLY}, and call no tools{way_out}"
        )
    if body.add_generation_prompt is False and not body.continue_final_message:
        raise unsupported(
            "add_generation_prompt", "add_generation_prompt cannot be false: the answer is the assistant's turn"
        )
