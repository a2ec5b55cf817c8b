"""What is asked as turns of a conversation: the system prompt, pairs of --few_shot, the turns of a row's messages, the question."""

from collections.abc import Sequence

from datasets_loader import DataSet, Example
from experiment.prompts import PromptBuilder
from language_models.chat_templates import Turn

PLAIN_PREFIX = "Question: "  # of pairs in plain text, where the data set has no prefix of its own


def asked_prompt(data_set: DataSet, example: Example, build: PromptBuilder) -> str:
    """One model's prompt for a question.

    Pairs of --few_shot are earlier turns in a chat template; for a model without one they are a text that goes on as it began.

    Raises:
        PromptError: it cannot be written.
    """
    user = _user(data_set, example)
    if not example.history and not example.shots and data_set.system_prompt:
        return build(data_set.system_prompt, user)
    if example.shots and build.plain:
        return build.conversation([*_system(data_set, example), Turn("user", _plain_pairs(data_set, example))])
    return build.conversation(turns_of(data_set, example))


def turns_of(data_set: DataSet, example: Example) -> list[Turn]:
    """All turns that a question is asked by; a system turn of its own row takes the place of the system prompt."""
    shots = [turn for asked, told in example.shots for turn in (Turn("user", asked), Turn("assistant", told))]
    history = [Turn(role, text) for role, text in example.history]
    return [*_system(data_set, example), *shots, *history, Turn("user", _user(data_set, example))]


def system_of(data_set: DataSet, example: Example) -> str:
    """The system prompt that a question is asked with."""
    return "\n".join(text for role, text in example.history if role == "system") or data_set.system_prompt


def messages_of(example: Example) -> list[dict[str, str]]:
    """The turns before a question, as records hold them."""
    return [{"role": role, "content": text} for role, text in example.history]


def _system(data_set: DataSet, example: Example) -> Sequence[Turn]:
    own = any(role == "system" for role, _ in example.history)
    return [] if own or not data_set.system_prompt else [Turn("system", data_set.system_prompt)]


def _user(data_set: DataSet, example: Example) -> str:
    return example.context + data_set.question_prefix + example.question


def _plain_pairs(data_set: DataSet, example: Example) -> str:
    """Pairs and the question as a text: the answer begins a line, as it does without pairs."""
    prefix = "" if data_set.question_prefix else PLAIN_PREFIX
    pairs = [f"{prefix}{asked}\nAnswer:\n{told}\n\n" for asked, told in example.shots]
    return "".join(pairs) + f"{prefix}{_user(data_set, example)}\nAnswer:"
