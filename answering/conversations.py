"""What a pair is asked: a conversation, and the prompt that each model gets of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from command.errors import UserError
from experiment.prompts import PromptBuilder
from language_models.chat_templates import Turn
from utils import without_surrogates

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class ConversationError(UserError):
    """A conversation that cannot be answered; the message says why, `param` in which field of it."""

    def __init__(self, message: str, param: str = "messages"):
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Prompts:
    """What each of the two models is asked, before any answer text."""

    base: str
    nudging: str


def turns_of(messages: object) -> list[Turn]:
    """A conversation's turns, of messages as OpenAI's API has them: {"role", "content"}, the content a text or parts of text.

    Raises:
        ConversationError: they are no conversation that a pair of text models can answer.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise ConversationError("messages must be a list with one message at least")
    turns = [_turn(message, f"messages[{i}]") for i, message in enumerate(messages)]
    if all(turn.role != "user" for turn in turns):
        raise ConversationError("messages must have one of the role user at least, which is answered")
    return turns


def _turn(message: object, place: str) -> Turn:
    if not isinstance(message, dict):
        raise ConversationError(f"{place} must be an object with role and content", place)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ConversationError(
            f"{place}.role is {_shown(role)}; a pair of text models answers the roles {', '.join(ROLES)}",
            f"{place}.role",
        )
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise ConversationError(f"{place}.{name}: the models of the pair read text alone", f"{place}.{name}")
    return Turn(ROLES[role], without_surrogates(_text(message.get("content"), f"{place}.content")))


def _text(content: object, place: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ConversationError(f"{place} must be a text, or a list of parts of text; it is {_shown(content)}", place)
    found = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = (part.get("refusal") if kind == "refusal" else part.get("text")) if isinstance(part, dict) else None
        if kind not in TEXT_PARTS:
            raise ConversationError(
                f"{place}[{i}].type is {_shown(kind)}; the models of the pair read text alone", f"{place}[{i}].type"
            )
        if not isinstance(text, str):
            raise ConversationError(f"{place}[{i}] must have a text", f"{place}[{i}]")
        found.append(text)
    return "\n".join(found)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def write_prompts(turns: Sequence[Turn], builders: dict[str, PromptBuilder], continued: bool = False) -> Prompts:
    """The prompts of a conversation: each model's in its own template.

    Args:
        turns: see `turns_of`; the last is the user's, or with `continued` the assistant's.
        builders: by role, base and nudging.
        continued: the answer goes on with the last turn's text.

    Raises:
        ConversationError: the last turn is another one.
        PromptError: a template refuses the turns.
    """
    last, said = turns[-1], ""
    if continued and last.role != "assistant":
        raise ConversationError(
            "continue_final_message goes on with the assistant's last message, which must be the last of all",
            "continue_final_message",
        )
    if continued:
        turns, said = turns[:-1], last.text
        if not turns or turns[-1].role != "user":
            raise ConversationError("before the assistant's message that is to be continued there must be the user's")
    elif last.role != "user":
        raise ConversationError(
            f"the last message must be the user's, which is answered; it is of the role {last.role}"
            + (" (continue_final_message: true has it continued)" if last.role == "assistant" else "")
        )
    written = {role: builders[role].conversation(turns) + said for role in ("base", "nudging")}
    return Prompts(**written)
