"""The chat template of a tokenizer in the transformers format."""

from typing import TYPE_CHECKING

from command.errors import OptionError
from command.paths import expanded
from language_models.chat_templates import PromptWriter, jinja_renderer, prompt_writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_prompt_writer(tokenizer: "PreTrainedTokenizerBase", name: str) -> PromptWriter | None:
    """Writes prompts in a tokenizer's chat template; None where it has none.

    The BOS is left out where the tokenizer itself puts it in front of a prompt, as servers do with it.

    Args:
        name: what the tokenizer is called in messages.

    Raises:
        OptionError: the template cannot be used.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    first = tokenizer("a")["input_ids"][:1]
    adds = tokenizer.bos_token is not None and first == [tokenizer.bos_token_id]
    try:
        # Not by apply_chat_template, which would write the day of today.
        render = jinja_renderer(tokenizer.get_chat_template(), tokenizer.special_tokens_map)
        return prompt_writer(render, tokenizer.bos_token if adds else "")
    except ValueError as error:
        raise OptionError(f"the chat template of {name!r} cannot be used ({error})") from None


def named_prompt_writer(name: str) -> PromptWriter:
    """Writes prompts in the chat template of a hub id or a folder; transformers alone is needed, no torch.

    Raises:
        OptionError: transformers is missing, the tokenizer cannot be loaded, or its template cannot be used or is not there.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise OptionError("the template `tokenizer` needs transformers: pip install transformers") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(expanded(name))
    except Exception as error:  # transformers' and the hub client's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OptionError(
            f"the tokenizer of {name!r} cannot be loaded ({reason}); "
            "name a folder, a hub id or a GGUF file with `tokenizer:NAME`, or choose another template"
        ) from None
    writer = tokenizer_prompt_writer(tokenizer, name)
    if writer is None:
        raise OptionError(f"the tokenizer of {name!r} has no chat template; choose a template by name")
    return writer
