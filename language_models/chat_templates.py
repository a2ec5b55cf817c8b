"""Chat templates that models carry: how a system and a user text become a prompt behind which the answer is written.

A template is a small Jinja program from whoever made the model, so it runs in Jinja's sandbox, as in transformers
(https://huggingface.co/docs/transformers/chat_templating_writing).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

Turns = list[dict[str, object]]
Render = Callable[[Turns], str]


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class PromptWriter:
    """Writes a prompt behind which the answer is written.

    `conversation` makes it of the turns so far, of which one at least is the user's; it raises errors of its own and any of
    Python's where the template refuses them.
    """

    conversation: Callable[[Sequence[Turn]], str]

    def __call__(self, system: str, user: str) -> str:
        """The prompt of a system and a user text."""
        return self.conversation([Turn("system", system), Turn("user", user)])


# Some templates write the day. The published program's is always this one, so that a prompt is the same tomorrow.
TODAY = datetime(2024, 7, 26)
SYSTEM, USER = "The system text.", "The question of the user."


def strftime_now(form: str) -> str:
    """What templates call for the day."""
    return TODAY.strftime(form)


# What a template is told beside the turns. Models that can think before they answer write their answer at once.
TOLD = {"add_generation_prompt": True, "enable_thinking": False, "strftime_now": strftime_now}


class _Generation(Extension):
    """`{% generation %}`, which marks the text that a model was trained to write."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str):
    raise jinja2.TemplateError(message)


def _tojson(value: object, ensure_ascii: bool = False, **form) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **form)


def jinja_renderer(source: str, special_tokens: Mapping[str, str]) -> Render:
    """Renders turns by a template's source.

    Args:
        special_tokens: texts by the names that templates have for them, such as `bos_token`.

    Raises:
        ValueError: the source is no template.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"it is no Jinja template ({error})") from None
    told = {"tools": None, "documents": None} | dict(special_tokens) | TOLD
    return lambda turns: template.render(told, messages=turns)


def _as_text(text: str) -> object:
    return text


def _as_parts(text: str) -> object:
    return [{"type": "text", "text": text}]


def _messages(turns: Sequence[Turn], merged: bool, content: Callable[[str], object]) -> Turns:
    """Turns as templates read them; `merged`: the system's stand in front of the user's that follow them."""
    found, before = [], ""
    for turn in turns:
        if merged and turn.role == "system":
            before += f"{turn.text}\n"
            continue
        text = turn.text
        if turn.role == "user":
            text, before = before + text, ""
        found.append({"role": turn.role, "content": content(text)})
    if before:
        raise ValueError("a system turn has no turn of the user behind it")
    return found


def prompt_writer(render: Render, added_bos: str = "") -> PromptWriter:
    """What writes prompts by a template, before any answer text.

    A template that refuses or drops a system turn gets its text in front of the user's, as the published program does for Gemma.

    Args:
        render: turns to text, with the beginning of the assistant's turn.
        added_bos: the beginning-of-sequence token that whoever reads the prompt puts in front of it; a template's own is left out.

    Raises:
        ValueError: the template fails in every form, or leaves a text out.
    """
    reason = ""
    example = [Turn("system", SYSTEM), Turn("user", USER)]
    for content in (_as_text, _as_parts):  # templates of models that also read images may know lists of parts alone
        for merged in (False, True):
            try:
                sample = render(_messages(example, merged, content))
            except Exception as error:  # a template raises errors of its own and any of Python's
                reason = reason or (str(error).strip().splitlines() or [type(error).__name__])[0]
                continue
            if -1 < sample.find(SYSTEM) < sample.find(USER):
                bos = added_bos if added_bos and sample.startswith(added_bos) else ""
                return PromptWriter(_conversation_writer(render, bos, merged, content))
    raise ValueError(reason or "it leaves the question out")


def _conversation_writer(
    render: Render, bos: str, merged: bool, content: Callable[[str], object]
) -> Callable[[Sequence[Turn]], str]:
    def write(turns: Sequence[Turn]) -> str:
        prompt = render(_messages(turns, merged, content))
        # Assistants' turns may lose what they have thought; the form of system and user was tried at the beginning.
        at = 0
        for turn in turns if len(turns) > 2 else ():
            if turn.role != "assistant" and (at := prompt.find(turn.text.strip(), at)) < 0:
                raise ValueError(f"it leaves a turn of the {turn.role} out")
        return prompt.removeprefix(bos)

    return write
