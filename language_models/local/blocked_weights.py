"""Linear layers on a CPU with their weights in the order in which oneDNN reads them ("blocked" or prepacked weights).

torch brings plain weights into that order anew in every call. Done once, when a model is loaded, a pass over 4 to 16 tokens, as in
decoding, is 1.3 to 1.6 times as fast in bfloat16 and 2.5 to 2.9 times in float32 (benchmarks/cpu_passes.py); what it computes is
the same.

The operations behind it, torch.ops.mkldnn._reorder_linear_weight and _linear_pointwise, are those by which torch.compile itself
replaces linear layers, and no documented part of torch. So nothing rests on them: a layer is changed only where they are there and
compute, when the model is loaded, what the plain layer computes; else it stays plain. What is documented is slower: a layer of
torch.utils.mkldnn.to_mkldnn converts every input and output, and a pass in float32 takes 1.1 to 1.8 times as long with it (the same
benchmark); torch.compile takes a C++ compiler and minutes.
"""

import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# For that many rows the order is chosen; it was found to be a good one from 1 to 512.
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
    places: dict[int, list[str]] = {}
    for name, layer in model.named_modules(remove_duplicate=False):
        if name and _is_plain_linear(layer) and layer is not keep:
            places.setdefault(id(layer.weight), []).append(name)
    one_of_each = {model.get_submodule(same[0]).weight.shape: same[0] for same in places.values()}
    if not all(_right(model.get_submodule(name)) for name in one_of_each.values()):
        return 0
    layer = None  # or the last of them would stay
    for same in places.values():
        blocked = None
        for name in same:
            layer = model.get_submodule(name)
            if type(layer) is nn.Linear:  # not where a parent has two names, and has been seen by the other one
                layer = BlockedLinear(layer, blocked)
                blocked = layer.blocked
                parent, _, own_name = name.rpartition(".")
                setattr(model.get_submodule(parent), own_name, layer)
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
        and not has_adapter(model)
        and all(can_block(dtype) for dtype in {weight.dtype for weight in weights})
    )


def has_adapter(model: nn.Module) -> bool:
    """Whether layers of peft's stand in a model: they look into the layers that they change."""
    if "peft" not in sys.modules:
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(layer, BaseTunerLayer) for layer in model.modules())


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
