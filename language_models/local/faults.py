"""Forward passes that fail: what is said of them, and whether the device still works."""

import torch

from command.unexpected import is_ours, told_with
from language_models.interface import DeviceLostError, ModelError
from language_models.local.devices import out_of_memory
from language_models.local.loading import reason_of


def is_lost(device: torch.device) -> bool:
    """Whether nothing can be computed on a device any more by this process, as after an illegal memory access on a GPU."""
    return device.type == "cuda" and not any(_works(device) for _ in range(2))


def _works(device: torch.device) -> bool:
    # An error that concerns one call is told once; one that has ended all computing comes again and again.
    try:
        torch.cuda.synchronize(device)
        return bool(torch.ones(1, device=device).item())
    except Exception as error:
        return out_of_memory(error)


def failure_of(name: str, device: torch.device, error: BaseException) -> ModelError:
    """What is told where a pass of a model has failed: a line with its remedy."""
    if isinstance(error, ModelError):
        return error
    reason = reason_of(error)
    if not out_of_memory(error) and is_lost(device):
        return DeviceLostError(
            f"{device} has stopped computing for this process, in a forward pass of {name} ({reason}); start the command "
            "again, which goes on where it was; if that comes again, take --engine packed"
        )
    failure = ModelError(f"a forward pass of {name} failed ({reason}); if memory is short, lower --num_threads")
    return told_with(failure, error) if is_ours(error) else failure
