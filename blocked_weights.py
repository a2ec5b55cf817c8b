"""Linear layers on a CPU with their weights in the order in which oneDNN reads them ("blocked" or prepacked weights).

torch brings plain weights into that order anew in every call. Done once, when a model is loaded, a pass over 4 to 16 tokens, as in
decoding, is 1.3 to 1.6 times as fast in bfloat16 and 2.5 to 2.9 times in float32 (benchmarks/cpu_passes.py); what it computes is
the same. (torch.compile does this too, for those who have a C++ compiler and minutes.)
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# For so many rows the order is chosen; it was found to be a good one from 1 to 512.
ROWS = 16
# Share of the largest value by which others may differ: they are sums in another order.
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


class BlockedLinear(nn.Module):
    """A linear layer (inference only) whose weights oneDNN has put into its own order; the bias stays as it is.

    It cannot be copied with `copy.deepcopy`. A model that reads a layer's `weight` by itself gets a copy, made anew each time.
    """

    def __init__(self, layer: nn.Linear, blocked: Tensor | None = None):
        """`blocked`: the weights in oneDNN's order, where they are another layer's too."""
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        if blocked is None:
            blocked = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().contiguous(), ROWS)
        self.register_buffer("blocked", blocked, persistent=False)

    @property
    def weight(self) -> Tensor:
        """A copy of the weights in the usual order, (out, in)."""
        return self.blocked.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.blocked, self.bias, "none", [], "")

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight


@torch.no_grad()
def block_weights(model: nn.Module, keep: nn.Module | None = None) -> int:
    """Give a model's linear layers blocked weights, where this CPU and this torch can; they then take no gradients.

    A head that shares its weights with the embedding gets a copy of its own, which is memory on top.

    Args:
        model: a model in evaluation mode; its layers are replaced.
        keep: a layer that is left as it is.

    Returns:
        How many layers were changed: 0 on other devices, with adapters, and where oneDNN does not do it or not rightly.
    """
    if not _possible(model):
        return 0
    # Names, not layers: the plain weights of each go before the next ones are made. Weights that layers share stay shared.
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, layer in parent._modules.items():
            if _is_plain_linear(layer) and layer is not keep:
                places.setdefault(id(layer.weight), []).append((parent, name))
    one_of_each = {getattr(*same[0]).weight.shape: same[0] for same in places.values()}
    if not all(_right(getattr(*place)) for place in one_of_each.values()):
        return 0
    for same in places.values():
        blocked = None
        for parent, name in same:
            layer = BlockedLinear(getattr(parent, name), blocked)
            blocked = layer.blocked
            setattr(parent, name, layer)
    # Weights as they are loaded are views of the file in memory, all of which stays as long as one of them is left.
    for weight in model.parameters():
        weight.data = weight.data.clone()
    return sum(map(len, places.values()))


def can_block(dtype: torch.dtype) -> bool:
    """Whether this processor and this torch have blocked weights of a number format."""
    operations = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    return (
        dtype in CLOSE
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operations)
        and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def weight_bytes(model: nn.Module) -> int:
    """The memory of a model's weights in bytes, shared ones counted once."""
    plain = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    blocked = {id(x.blocked): x.blocked for x in model.modules() if isinstance(x, BlockedLinear)}
    return sum(plain.values()) + sum(weight.numel() * weight.element_size() for weight in blocked.values())


def _possible(model: nn.Module) -> bool:
    weights = list(model.parameters())
    return (
        {weight.device.type for weight in weights} == {"cpu"}
        and not hasattr(model, "peft_config")  # adapters look into the layers that they change
        and all(can_block(dtype) for dtype in {weight.dtype for weight in weights})
    )


def _is_plain_linear(layer: nn.Module | None) -> bool:
    # Quantised layers may be nn.Linear with weights of a type of their own; hooks would be lost.
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter and not layer._forward_hooks


def _right(layer: nn.Linear) -> bool:
    """Whether a blocked layer computes what the layer computes."""
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight.dtype)
    expected = linear(x, layer.weight, layer.bias).float()
    try:
        found = BlockedLinear(layer)(x).float()
    except (RuntimeError, TypeError):
        return False
    return (found - expected).abs().max().item() <= CLOSE[layer.weight.dtype] * expected.abs().max().item()
