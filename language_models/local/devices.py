"""Where models of this process lie: one device or several, and what is said where their memory does not suffice.

Importing this file imports no torch.
"""

import os
from typing import TYPE_CHECKING

from language_models.interface import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ENGINE_CHOICES = ("auto", "graphs", "packed")  # see engines.make_engine
DEVICE_MAPS = ("none", "auto")
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")


class DoesNotFitError(ModelError):
    """The weights of a model are too large for its device. `facts` says so alone, without what can be done about it."""

    def __init__(self, facts: str):
        super().__init__(f"{facts}; try --load_in_4bit, --dtype bfloat16 or another GPU")
        self.facts = facts


def gpus() -> "list[torch.device]":
    """The CUDA devices of this machine."""
    import torch

    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def with_number(device: "torch.device") -> "torch.device":
    """The same device by its full name: "cuda" is "cuda:0"."""
    import torch

    return torch.device(device.type, 0) if device.type != "cpu" and device.index is None else device


def devices_of(model: "PreTrainedModel") -> "list[torch.device]":
    """The devices on which a model's weights are, the first layer's first."""
    return list(dict.fromkeys(parameter.device for parameter in model.parameters()))


def device_name(device: "torch.device") -> str | None:
    """What a GPU calls itself; None for other devices."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a GPU or in the machine."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


def free_memory(device: "torch.device") -> int | None:
    """Bytes that new tensors may take on a device; None where it cannot be known."""
    import torch

    try:
        if device.type == "cuda":
            kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return torch.cuda.mem_get_info(device)[0] + kept
        if device.type == "mps":
            return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError, RuntimeError):  # no such figure here
        return None


def memory_words(devices: "list[torch.device]") -> str:
    """How much memory is free on devices: "10.1 GB are free on cuda:0"."""
    free = [free_memory(device) for device in devices]
    where = " and ".join(map(str, devices)) if len(devices) < 3 else f"{devices[0]} to {devices[-1]}"
    if None in free:
        return f"how much is free on {where} is not known"
    return f"{sum(free) / 1e9:.1f} GB are free on {where}" + " together" * (len(devices) > 1)


def does_not_fit(
    name: str, size: int | None, dtype: "torch.dtype", devices: "list[torch.device]", free: str
) -> DoesNotFitError:
    """What is wrong where a model's weights, of `size` bytes, are too large; `free` is `memory_words` from before they came."""
    where = str(devices[0]) if len(devices) == 1 else f"{len(devices)} GPUs"
    needed = f"its weights take {size / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and " if size else ""
    return DoesNotFitError(f"{name} does not fit on {where}: {needed}{free}")
