"""ArmoRM's 19 objective rewards without remote code: a Llama backbone and a linear layer at the last token.

Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts", 2024 (arXiv 2406.12845). The
values are the raw outputs of the regression, about 0 to 1, before the gating that makes one score of them.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from language_models.interface import ModelError
from language_models.local.loading import find_model, load_model
from pad.dimension import OBJECTIVES

HEAD = "regression_layer.weight"


def load_armorm(name: str, *, device: torch.device, dtype: torch.dtype, load_in_4bit: bool = False):
    """The backbone and the linear layer (a module from (..., H) to (..., 19)).

    Raises:
        OptionError, ModelError: they cannot be loaded.
    """
    backbone = load_model("AutoModel", name, device=device, dtype=dtype, load_in_4bit=load_in_4bit, part=True)
    weight = _read_tensor(name, HEAD)
    size = (len(OBJECTIVES), backbone.config.get_text_config().hidden_size)
    if weight.shape != size:
        raise ModelError(f"{HEAD} of {name} is {tuple(weight.shape)}, not {size}: it is another model's")
    head = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=device, dtype=dtype)
    with torch.no_grad():
        head.weight.copy_(weight)
    return backbone, head.eval().requires_grad_(False)


def _read_tensor(name: str, key: str) -> torch.Tensor:
    """One tensor of a model's safetensors files."""
    found = find_model(name)
    try:
        file = "model.safetensors"
        if index := _file(found, "model.safetensors.index.json"):
            file = json.loads(index.read_text())["weight_map"][key]
        with safe_open(_file(found, file) or "", framework="pt") as tensors:
            return tensors.get_tensor(key)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{name} has no {key} in its safetensors files ({error}); is it an ArmoRM?") from None
    except Exception as error:  # safetensors' own
        raise ModelError(f"the safetensors files of {name} cannot be read ({error})") from None


def _file(found: str, file: str) -> Path | None:
    if Path(found).is_dir():
        return Path(found) / file if (Path(found) / file).is_file() else None
    try:
        return Path(cached_file(found, file))
    except OSError:
        return None
