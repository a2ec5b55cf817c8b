"""The sizes of passes that an engine has used, and the capture of their CUDA graphs."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from language_models.local.devices import out_of_memory
from language_models.local.faults import failure_of, is_lost
from language_models.local.fixed_sizes import FixedSize, Shape
from language_models.local.loading import reason_of

if TYPE_CHECKING:
    from language_models.local.graph_engine import GraphEngine

TRIES = 2  # sizes that may fail to be captured before no more are tried, where none could


class FixedSizes:
    """Shapes by need, each captured when it is first used, where graphs are `wanted`.

    `made` counts the shapes that were made, captured or not; `uncaptured` has those that could not be, with the reason. Graphs
    share the memory of a `pool`, of `pool_bytes`: they are replayed one after another.

    Args:
        tell: told once of what runs without a graph, and why.
    """

    def __init__(self, engine: "GraphEngine", wanted: bool, tell: Callable[[str], None]):
        self.engine, self.wanted, self._tell = engine, wanted, tell
        self.made, self.seconds = 0, 0.0
        self._succeeded = False
        self.uncaptured: dict[Shape, str] = {}
        self._shapes: dict[Shape, FixedSize] = {}
        self.pool, self.pool_bytes = None, 0
        self._new_pool()

    def of(self, shape: Shape) -> FixedSize:
        """The shape's buffers, with a graph if it can have one.

        Raises:
            Exception: there is no memory for the pass itself.
            DeviceLostError: the capture has ended all computing.
        """
        fixed = self._shapes.get(shape)
        if fixed is None:
            fixed = FixedSize(self.engine, shape)
            self.made += 1
            if self.wanted and shape not in self.uncaptured:
                self._capture(fixed)
            self._shapes[shape] = fixed
        return fixed

    def plain(self, shape: Shape) -> FixedSize:
        """The shape for one pass without a graph."""
        return FixedSize(self.engine, shape)

    @property
    def captured(self) -> int:
        """How many shapes have graphs."""
        return sum(fixed.graph is not None for fixed in self._shapes.values())

    def drop(self) -> None:
        """Give back the memory of all sizes; they are captured again when they are used. The passes must be over."""
        self._shapes.clear()
        self._new_pool()
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()

    def _new_pool(self) -> None:
        # torch refuses to capture into a pool whose graphs are all gone.
        if self.engine.device.type == "cuda":
            self.pool = torch.cuda.graph_pool_handle()
        self.pool_bytes = 0

    def _capture(self, fixed: FixedSize) -> None:
        device, began = self.engine.device, time.perf_counter()
        fixed.warm_up()
        reserved = _reserved(device)
        try:
            fixed.capture()
        except Exception as error:
            if not out_of_memory(error) and is_lost(device):
                raise failure_of(self.engine.name, device, error) from None
            reason = f"{type(error).__name__}: {reason_of(error)}"
        except BaseException:  # somebody has said to stop; other samples may go on
            self._new_pool()
            raise
        else:
            self._succeeded, reason = True, ""
        self.seconds += time.perf_counter() - began
        self.pool_bytes += max(0, _reserved(device) - reserved)
        if reason:
            self._without(fixed.shape, reason)

    def _without(self, shape: Shape, reason: str) -> None:
        """Go on without a graph for a shape, or for all where none could be captured."""
        self.uncaptured[shape] = reason
        self._new_pool()  # the one of the capture that failed may not be in order; the other graphs keep it
        name = self.engine.name
        if self._succeeded or len(self.uncaptured) < TRIES:
            self._tell(f"{name}: passes of {shape} run without a CUDA graph ({reason})")
        else:
            self.wanted = False
            self._tell(f"{name}: no CUDA graph can be captured ({reason}); passes run without")
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
