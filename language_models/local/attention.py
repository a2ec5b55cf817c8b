"""Attention over the new tokens of several samples, as transformers' layers ask for it; a pass says how it is computed."""

from typing import Protocol

from torch import Tensor
from transformers import AttentionInterface

OWN_ATTENTION = "packed_samples"
# What some architectures hand to their attention (sinks, relative positions); it would be left out without a word.
ADDED_TO_SCORES = ("s_aux", "position_bias")


class Pass(Protocol):
    """One forward pass, as the attention of each layer sees it."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None, cap: float | None
    ) -> Tensor:
        """The attention of one layer, whose new keys and values are stored in the cache.

        Args:
            layer: its number.
            query: [1, heads, tokens, size].
            key, value: [1, key-value heads, tokens, size]; the sizes of keys and values may differ.
            scale: factor of the scores.
            window: how many tokens back a token sees, itself included; None: all.
            cap: scores are kept between -cap and cap, as in Gemma 2 (arXiv 2408.00118, section 2).

        Returns:
            [1, tokens, heads, size of a value].
        """


def _attend(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: Pass | None = None,
    **more,
):
    """The attention of one layer, in the form that transformers' AttentionInterface asks for.

    Raises:
        NotImplementedError: the layer adds something to its scores that is not known here.
    """
    if unknown := [name for name in ADDED_TO_SCORES if more.get(name) is not None]:
        raise NotImplementedError(f"attention with {unknown[0]}")
    window = sliding_window if sliding_window is not None else getattr(module, "sliding_window", None)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return packed.attend(module.layer_idx, query, key, value, scale, window, softcap), None


AttentionInterface.register(OWN_ATTENTION, _attend)
