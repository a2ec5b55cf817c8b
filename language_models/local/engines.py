"""The two engines by their names, and which of them a model gets."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from command.unexpected import is_ours
from language_models.interface import DeviceLostError
from language_models.local.devices import devices_of, out_of_memory
from language_models.local.engine import Engine, NotTheSameError
from language_models.local.faults import is_lost
from language_models.local.graph_engine import GraphEngine, GraphsRefusedError
from language_models.local.loading import reason_of
from language_models.local.packed_engine import PackedEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENGINES: dict[str, type[Engine]] = {kind.kind: kind for kind in (GraphEngine, PackedEngine)}


def make_engine(
    model: "PreTrainedModel", *, slots: int, longest: int, kind: str = "auto", expected_tokens: int | None = None
) -> Engine:
    """The engine of a name for a model; "auto" is graphs on CUDA devices and packed elsewhere. See Engine.

    Packed passes are what a model gets where graphs were to compute it and cannot, which a line in the engine's `fallbacks` says:
    where its layers are on several devices, where the passes of fixed sizes fail or do not compute what the model computes by
    itself, and where neither a graph can be captured nor the Triton kernels be used. Where the kernels can, passes of fixed sizes
    without graphs are the better ones: packed passes start several kernels for each sample in each layer, 2,416 for eight samples
    of a model of 7 billion parameters against 1,520 for one, and their device waits for that up to nine tenths of the time.

    Raises:
        ModelError: neither engine computes what the model computes by itself.
    """
    options = {"slots": slots, "longest": longest, "expected_tokens": expected_tokens}
    name, instead = type(model).__name__, ""
    with torch.cuda.device(model.device) if model.device.type == "cuda" else nullcontext():
        if kind == "graphs" or (kind == "auto" and model.device.type == "cuda"):
            if len(devices := devices_of(model)) > 1:
                instead = f"{name} is on {len(devices)} devices"
            else:
                try:
                    return GraphEngine(model, **options)
                except GraphsRefusedError as error:
                    instead = f"{name}: no CUDA graph can be captured, and there are no Triton kernels ({error})"
                except DeviceLostError:
                    raise
                except NotTheSameError as error:
                    instead = f"passes of fixed sizes do not compute what {name} computes by itself ({error.reason})"
                except Exception as error:  # compilers and drivers raise errors of many kinds
                    if out_of_memory(error) or is_ours(error) or is_lost(model.device):
                        raise
                    instead = f"{name}: passes of fixed sizes fail ({reason_of(error)})"
        engine = PackedEngine(model, **options)
    if instead:
        engine.tell(f"{instead}; packed passes compute it")
    return engine
