"""Linear layers on a CPU with their weights in the order in which oneDNN reads them ("blocked" or prepacked weights).

torch brings plain weights into that order anew in every call, for which a pass over few tokens, as in decoding, pays up to three
quarters of its time. Done once, when a model is loaded, a pass over 4 to 16 tokens takes about half the time in bfloat16 and less
in float32; what it computes is the same. (torch.compile does this too, for those who have a C++ compiler and minutes.)
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# For so many rows the order is chosen; it was found to be a good one from 1 to 512.
ROWS = 16
# Of a value of deviation 1, summed up in another order.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


class BlockedLinear(nn.Module):
    """A linear layer (inference only) whose weights oneDNN has put into its own order; the bias stays as it is."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        weight = layer.weight.detach().contiguous()
        self.register_buffer("blocked", torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weights in the usual order, (out, in): a copy, for the few layers whose weights a model reads by itself."""
        return self.blocked.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.blocked, self.bias, "none", [], "")


@torch.inference_mode()
def block_weights(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Give a model's linear layers blocked weights, where this CPU and this torch can; they then take no gradients.

    A head that shares its weights with the embedding gets a copy of its own, which is memory on top.

    Args:
        keep: a layer that is left as it is.

    Returns:
        How many layers were changed: 0 on other devices, with adapters, and where oneDNN does not do it or not rightly.
    """
    if not _possible(model):
        return 0
    # Names, not layers: the plain weights of each go before the next ones are made.
    found = [
        (parent, name)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and layer is not keep
    ]
    if not found or not _right(getattr(*found[0])):
        return 0
    for parent, name in found:
        setattr(parent, name, BlockedLinear(getattr(parent, name)))
    return len(found)


def weight_bytes(model: nn.Module) -> int:
    """The memory of a model's weights, shared ones counted once."""
    plain = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    blocked = [layer.blocked for layer in model.modules() if isinstance(layer, BlockedLinear)]
    return sum(plain.values()) + sum(weight.numel() * weight.element_size() for weight in blocked)


def _possible(model: nn.Module) -> bool:
    dtypes = {p.dtype for p in model.parameters()}
    operations = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return (
        {p.device.type for p in model.parameters()} == {"cpu"}
        and dtypes <= set(CLOSE)
        and not hasattr(model, "peft_config")  # adapters look into the layers that they change
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operations)
        and (torch.bfloat16 not in dtypes or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _right(layer: nn.Linear) -> bool:
    """Whether a blocked layer computes what the layer computes."""
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight.dtype)
    expected = linear(x, layer.weight, layer.bias).float()
    try:
        found = BlockedLinear(layer)(x).float()
    except RuntimeError:
        return False
    return (found - expected).abs().max().item() <= CLOSE[layer.weight.dtype] * max(1.0, expected.std().item())
