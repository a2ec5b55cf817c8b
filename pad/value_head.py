"""The preference head of a PAD checkpoint: a linear map between the last hidden state and the output projection."""

from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from command.weights import first_of
from language_models.interface import ModelError
from language_models.local.loading import find_model

FILES = ("value_head.safetensors", "value_head.bin")
_WEIGHT, _BIAS = "v_head.summary.weight", "v_head.summary.bias"


def load_value_head(name: str, model: PreTrainedModel, say: Callable[[str], None]) -> torch.nn.Linear | None:
    """The head beside a model's weights, on its device and in its number format; None where there is none. `say` is told which.

    Raises:
        ModelError: the file is no such head, or one of another size.
    """
    path = _find(name, say)
    if path is None:
        say(f"reward model: no preference head ({FILES[0]}) beside {name}; its own logits are the reward's")
        return None
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        weight, bias = state[_WEIGHT], state[_BIAS]
    except KeyError as error:
        raise ModelError(f"{path} is no preference head: it holds no {error}") from None
    except Exception as error:  # safetensors' and pickle's errors share no base class
        raise ModelError(f"{path} cannot be read ({type(error).__name__}: {error})") from None
    if others := state.keys() - {_WEIGHT, _BIAS}:
        raise ModelError(f"{path} is another kind of head: it also holds {first_of(sorted(others))}")
    size = model.get_output_embeddings().weight.shape[1]
    if weight.shape != (size, size) or bias.shape != (size,):
        raise ModelError(
            f"{path} is the head of another model: {tuple(weight.shape)} and {tuple(bias.shape)}, not {size} x {size}"
        )
    head = torch.nn.Linear(size, size, device=model.device, dtype=model.dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    say(f"reward model: with the preference head {path}")
    return head.eval().requires_grad_(False)


def _find(name: str, say: Callable[[str], None]) -> Path | None:
    found = find_model(name)
    if Path(found).is_dir():
        return next((Path(found) / file for file in FILES if (Path(found) / file).is_file()), None)
    for file in FILES:
        try:
            return Path(hf_hub_download(found, file))
        except LocalEntryNotFoundError:
            say(f"whether {name} has a {file} cannot be known without the hub")
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise ModelError(f"{file} of {name} cannot be looked up ({error})") from None
    return None
