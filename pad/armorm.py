"""ArmoRM's 19 objective rewards without remote code: a Llama backbone and a linear layer at the last token.

Wang et al., "Interpretable Preferences via Multi-Objective Reward Modeling and Mixture-of-Experts", 2024 (arXiv 2406.12845). The
values are the raw outputs of the regression, about 0 to 1, before the gating that makes one score of them.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from command.errors import OptionError
from language_models.interface import ModelError
from language_models.local.loading import find_model, load_model

OBJECTIVES = (
    *("helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence", "helpsteer-complexity"),
    *("helpsteer-verbosity", "ultrafeedback-overall", "ultrafeedback-instruction-following"),
    *("ultrafeedback-truthfulness", "ultrafeedback-honesty", "ultrafeedback-helpfulness", "beavertails-is_safe"),
    *("prometheus-score", "argilla-overall-quality", "argilla-judge-lm", "code-complexity", "code-style"),
    *("code-explanation", "code-instruction-following", "code-readability"),
)
HEAD = "regression_layer.weight"


def is_armorm(config) -> bool:
    """Whether a configuration is of this kind of model."""
    return any("RewardModelWithGating" in name for name in config.architectures or [])


def objective(dimension: str | None) -> int:
    """The number of an objective, by number or name.

    Raises:
        OptionError: there is no such objective, or none is named.
    """
    if dimension is None:
        raise OptionError(
            f"--dimension is needed for this model: 0 to {len(OBJECTIVES) - 1}, or a name such as {OBJECTIVES[0]} "
            "(its gated overall score needs the model's own code, which is not run)"
        )
    names = {name: i for i, name in enumerate(OBJECTIVES)} | {str(i): i for i in range(len(OBJECTIVES))}
    if dimension not in names:
        raise OptionError(
            f"--dimension has no choice {dimension!r}; choose 0 to {len(OBJECTIVES) - 1}, or one of: {', '.join(OBJECTIVES)}"
        )
    return names[dimension]


def load_armorm(name: str, *, device: torch.device, dtype: torch.dtype, load_in_4bit: bool = False):
    """The backbone and the linear layer (a module from (..., H) to (..., 19)).

    Raises:
        OptionError, ModelError: they cannot be loaded.
    """
    backbone = load_model("AutoModel", name, device=device, dtype=dtype, load_in_4bit=load_in_4bit, part=True)
    weight = _read_tensor(name, HEAD)
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
