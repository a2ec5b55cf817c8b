"""How long the texts of a model may be. Importing this file imports no torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
NO_LIMIT = 1 << 30  # tokens; of models whose configuration names no longest sequence


def context_length(model: "PreTrainedModel") -> int:
    """The longest sequence of a model in tokens, prompt and answer together; NO_LIMIT where its configuration names none."""
    return config_length(model.config)


def config_length(config: "PretrainedConfig") -> int:
    """`context_length` of a model whose configuration alone is there.

    With a rotary embedding of the kind "longrope" (Phi-3 of 128k tokens) it is the length before the extension: transformers
    takes other factors for a whole pass once one of its texts is longer, which would change all texts beside it without a word.
    """
    config = config.get_text_config()
    lengths = [getattr(config, field, None) for field in (*LENGTHS, "original_max_position_embeddings")]
    named = [length for length in lengths[:-1] if isinstance(length, int) and length > 0]
    longest = named[0] if named else NO_LIMIT
    if extended_by_longrope(config) and isinstance(lengths[-1], int) and lengths[-1] > 0:
        return min(longest, lengths[-1])
    return longest


def extended_by_longrope(config: "PretrainedConfig") -> bool:
    """Whether a model's rotary embedding is of the kind "longrope"."""
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # Some models have one for each kind of layer.
    kinds = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    return any("longrope" in (one.get("rope_type"), one.get("type")) for one in kinds)
