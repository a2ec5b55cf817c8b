"""The prompts of models: which template a model is asked in, and what that makes of a question or a conversation."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from command.errors import OptionError, UserError
from demo.catalogue import DEMO_MODELS
from experiment.command_line import COMMAND
from experiment.model_settings import ModelSettings, PairSettings, SettingsError
from language_models.chat_templates import PromptWriter, Turn
from language_models.hosted.gguf_file import gguf_prompt_writer
from language_models.hosted.http import shorten
from language_models.hosted.llama_cpp import gguf_path, is_gguf
from language_models.local.chat_template import named_prompt_writer, tokenizer_prompt_writer
from language_models.local.loading import load_tokenizer
from utils import apply_conversation_template, recognise_family, without_surrogates

# A base model is asked in plain text; these are asked in the template that they were trained on.
ALIGNED_ROLES = ("nudging", "proxy_chat", "aligned")


class PromptError(UserError):
    """A prompt cannot be written; the message says in which template, and why."""


@dataclass(frozen=True)
class PromptBuilder:
    """Writes a model's prompt before any answer text; half a character in it is U+FFFD.

    `template` says for people which one, and why; `packages` have a part in it. `plain`: there is none, turns are lines of text.
    Raises PromptError where nothing can be written.
    """

    write: PromptWriter
    template: str
    packages: tuple[str, ...] = ()
    plain: bool = False

    def __call__(self, system: str, user: str) -> str:
        return self._written(lambda: self.write(system, user))

    def conversation(self, turns: Sequence[Turn]) -> str:
        """The prompt of a conversation, of whose turns one at least is the user's (PromptError: it cannot be written)."""
        return self._written(lambda: self.write.conversation(turns))

    def _written(self, write: Callable[[], str]) -> str:
        try:
            prompt = write()
        except Exception as error:  # a template raises errors of its own and any of Python's
            reason = f"{type(error).__name__}: {error}" if str(error).strip() else type(error).__name__
            raise PromptError(self._cannot(reason)) from None
        if not isinstance(prompt, str) or not prompt.strip():
            hint = "; is there any text to ask?" if isinstance(prompt, str) else ""
            raise PromptError(self._cannot(f"it gives {prompt!r}{hint}"))
        return without_surrogates(prompt)

    def _cannot(self, reason: str) -> str:
        return f"the prompt cannot be written in the template {self.template} ({shorten(reason)})"


def family_name(model_name: str) -> str:
    """The name that a model's family is recognised by: its own, or the file name of a bundled model."""
    return DEMO_MODELS[model_name].file if model_name in DEMO_MODELS else model_name


def prompt_builders(settings: PairSettings, say: Callable[[str], None] = COMMAND.note) -> dict[str, PromptBuilder]:
    """For each model what writes its prompts; `say` is told of a template that may not be meant.

    Raises:
        SettingsError: an aligned model would be asked in plain text that nobody named.
        UserError: a template cannot be read.
    """
    builders = {role: _prompt_builder(model) for role, model in settings.models.items()}
    for role, builder in builders.items():
        with contextlib.suppress(PromptError):  # each sample tells by itself
            if builder("S", "U").rstrip().endswith("<think>"):
                say(
                    f"warning: the template of --{role}_model ({builder.template}) opens a block of thoughts, "
                    "which will count as the answer"
                )
    return builders


def _prompt_builder(model: ModelSettings) -> PromptBuilder:
    name, template = family_name(model.name), model.template
    aligned = model.role in ALIGNED_ROLES
    if template.split(":")[0] == "tokenizer":
        return _named_template(model, template.partition(":")[2])
    if template == "auto" and aligned and not model.host and (own := _own_template(model)):
        return PromptBuilder(own, "the model's own", ("jinja2",))
    by_name = template == "auto"
    family = recognise_family(name) if by_name else template
    if by_name and aligned and family == "plain":
        why = "its name tells no instruct template that is known here"
        way_out = (
            "tokenizer takes its tokenizer's chat template (tokenizer:FOLDER_OR_HUB_ID where that has another name)"
        )
        if not model.host:
            why = f"it carries no chat template, and {why}"
            way_out = "tokenizer:FOLDER_OR_HUB_ID takes the chat template of another tokenizer"
        raise SettingsError(
            f"--{model.role}_model {model.name}: {why}; --nudging_template {way_out}, --nudging_template plain asks without one"
        )
    writer = PromptWriter(lambda turns: apply_conversation_template([(turn.role, turn.text) for turn in turns], family))
    return PromptBuilder(writer, f"{family} (by name)" if by_name else family, plain=family == "plain")


def _named_template(model: ModelSettings, named: str) -> PromptBuilder:
    """The chat template of a tokenizer or a GGUF file, by its name or, without one, the model's."""
    source = named or model.name
    if not is_gguf(source):
        packages = ("jinja2", "transformers", "tokenizers")
        return PromptBuilder(named_prompt_writer(source), f"of the tokenizer of {source}", packages)
    if model.host and not named:
        raise SettingsError(
            f"--{model.role}_model {source} is behind a server: name a file or hub id with its chat template by tokenizer:NAME"
        )
    writer = gguf_prompt_writer(gguf_path(source))
    if writer is None:
        raise SettingsError(f"{source} carries no chat template; choose a template by name")
    return PromptBuilder(writer, f"of {source}", ("jinja2",))


def _own_template(model: ModelSettings) -> PromptWriter | None:
    """The chat template that a GGUF file or a model of this process carries."""
    if is_gguf(model.name):
        return gguf_prompt_writer(gguf_path(model.name))
    try:
        return tokenizer_prompt_writer(load_tokenizer(model.name), model.name)
    except OptionError as error:
        raise SettingsError(
            f"--{model.role}_model {model.name} has no --{model.role}_host, so it is loaded into this process: {error}"
        ) from None
