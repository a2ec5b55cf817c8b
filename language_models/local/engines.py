"""The two engines by their names, and which of them a model gets."""

from typing import TYPE_CHECKING

from language_models.local.engine import Engine
from language_models.local.graph_engine import GraphEngine
from language_models.local.packed_engine import PackedEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENGINES: dict[str, type[Engine]] = {kind.kind: kind for kind in (GraphEngine, PackedEngine)}


def make_engine(
    model: "PreTrainedModel", *, slots: int, longest: int, kind: str = "auto", expected_tokens: int | None = None
) -> Engine:
    """The engine of a name for a model; "auto" is graphs on CUDA devices and packed elsewhere. See Engine.

    Raises:
        ModelError: the engine does not compute what the model computes by itself.
    """
    if kind == "auto":
        kind = "graphs" if model.device.type == "cuda" else "packed"
    return ENGINES[kind](model, slots=slots, longest=longest, expected_tokens=expected_tokens)
