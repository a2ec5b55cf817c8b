"""Loading of models into this process with transformers: devices, number formats, tokenizers, weights, and plain errors.

Shared by the in-process engine of nudging and by reward-guided decoding (pad/). Importing this file imports no torch.
"""

import contextlib
import importlib.util
import inspect
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from command.errors import OptionError
from command.paths import is_file, is_folder, user_path
from command.weights import loading_report, wrong_weights
from demo.catalogue import DEMO_MODELS, demo_transformers_path
from language_models.interface import ModelError
from language_models.local.devices import DoesNotFitError, devices_of, does_not_fit, gpus, memory_words, out_of_memory

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

INSTALL = "pip install -r requirements-torch.txt"
DTYPES = ("auto", "float32", "float16", "bfloat16")
ADAPTER = "adapter_config.json"


def require_torch() -> None:
    """Raise OptionError, saying what to install, where torch or transformers is missing."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"models in this process need {' and '.join(missing)}: {INSTALL}")


def pick_device(device: str = "auto") -> "torch.device":
    """The device of a name: "cuda", "cuda:1", "mps", "cpu", or "auto" for the best of these that is there.

    Raises:
        OptionError: there is no such device here, or no such name.
    """
    require_torch()
    import torch

    if device == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(gpu)
    try:
        found = torch.device(device)
    except RuntimeError:
        raise OptionError(f"no device is called {device!r}; name auto, cuda, cuda:0, mps or cpu") from None
    if found.type == "cuda":
        count = torch.cuda.device_count()
        there = (found.index or 0) < count
        has = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
    else:
        there = found.type == "cpu" or (found.type == "mps" and torch.backends.mps.is_available())
        has = f"no {found.type}"
    if not there:
        raise OptionError(f"device {device!r} is not there: this machine has {has}; name another one, or auto")
    return found


def pick_dtype(dtype: str, device: "torch.device") -> "torch.dtype":
    """The number format of weights by its name; "auto" is bfloat16 on a GPU that has it, else float16, and float32 on a CPU.

    Raises:
        OptionError: there is no such name.
    """
    import torch

    if dtype not in DTYPES:
        raise OptionError(f"--dtype has no choice {dtype!r}; choose one of: {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def find_model(name: str) -> str:
    """What transformers is told to load: a folder, the converted folder of a demo model, or a hub id.

    Raises:
        OptionError: it is none of these.
    """
    if name in DEMO_MODELS:
        try:
            return str(demo_transformers_path(name))
        except FileNotFoundError as error:
            raise OptionError(str(error)) from None
    path = user_path(name)
    if name and is_folder(path):
        if not any((path / file).is_file() for file in ("config.json", ADAPTER, "tokenizer.json")):
            raise OptionError(f"the folder {name} holds no model: there is no config.json in it")
        return str(path)
    if is_file(path) or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip("/"):
        raise OptionError(f"{name!r} is no folder with a model; name one in the transformers format, or a hub id")
    return name


def is_transformers_model(name: str) -> bool:
    """Whether a name stands for a model in the transformers format: a folder of one, or a hub id such as google/gemma-3-270m."""
    if is_folder(name):
        return any(is_file(user_path(name) / file) for file in ("config.json", ADAPTER))
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)) and not name.lower().endswith(".gguf")


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder, hub id or demo model.

    Raises:
        OptionError, ModelError: it is not there, or cannot be loaded.
    """
    require_torch()
    from transformers import AutoTokenizer

    base = adapter_base(name)  # adapters are often saved without a tokenizer
    without = (
        base and Path(find_model(name)).is_dir() and not (Path(find_model(name)) / "tokenizer_config.json").is_file()
    )
    return _from_pretrained(AutoTokenizer, base if without else name, "tokenizer")


def load_config(name: str) -> "PretrainedConfig":
    """The configuration of a folder, hub id or demo model, of an adapter its base model's: no weights are read.

    Raises:
        OptionError, ModelError: it is not there, or cannot be loaded.
    """
    require_torch()
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, adapter_base(name) or name, "configuration")


def adapter_base(name: str) -> str | None:
    """The name of the base model of a LoRA adapter in a folder or on the hub; None for a whole model."""
    from huggingface_hub import hf_hub_download

    found = find_model(name)
    if (Path(found) / "config.json").is_file():
        return None
    try:
        file = Path(found) / ADAPTER if Path(found).is_dir() else hf_hub_download(found, ADAPTER)
        return json.loads(Path(file).read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError):  # no such file at the hub is an OSError, no such name a ValueError
        return None  # loading it will say what is wrong


def load_causal_lm(
    name: str,
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    load_in_4bit: bool = False,
    device_map: str | dict | None = None,
) -> "PreTrainedModel":
    """A language model on a device, ready to generate: in evaluation mode, without gradients.

    A folder with a LoRA adapter gives the base model with the adapter on (needs peft).

    Args:
        name: a folder, a hub id or a demo model.
        load_in_4bit: keep the weights in 4 bits (needs bitsandbytes); they compute in `dtype`.
        device_map: "auto" spreads the layers over all GPUs, and `device` is not used; or each part's device, see transformers.

    Raises:
        OptionError, ModelError: it is not there, a package for it is missing, or it cannot be loaded.
    """
    how = {"device": device, "dtype": dtype, "load_in_4bit": load_in_4bit, "device_map": device_map}
    return load_model("AutoModelForCausalLM", name, **how)


def load_model(auto_class: str, name: str, **how) -> "PreTrainedModel":
    """A model by one of transformers' auto classes, such as AutoModelForSequenceClassification; `how`: see `load_with_adapter`."""
    return load_with_adapter(auto_class, name, **how)[0]


def load_with_adapter(
    auto_class: str,
    name: str,
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    load_in_4bit: bool = False,
    device_map: str | dict | None = None,
    may_lack: str | None = None,
    part: bool = False,
    **more,
) -> "tuple[PreTrainedModel, PeftModel | None]":
    """`load_causal_lm`'s or another kind of model, and peft's for its adapter, by which that can be switched off.

    Every load of weights in this process goes through here: a checkpoint that lacks some of them, or holds others, is refused.

    Args:
        auto_class: the name of one of transformers' auto classes.
        may_lack: a pattern of the weights that the caller sets or does not use.
        part: only a part of the checkpoint is wanted: others than its weights are no fault.
        more: for the auto class, such as num_labels.

    Returns:
        The model, and None for a whole model's adapter.

    Raises:
        OptionError: it is not there, a package for it is missing, or two models lie in its folder.
        ModelError: it cannot be loaded, or its weights are not those of its kind.
    """
    require_torch()
    import torch
    import transformers

    base = adapter_base(name)
    if base is not None and importlib.util.find_spec("peft") is None:
        raise OptionError(f"{name} is an adapter, which needs peft: {INSTALL}")
    if base is None and (Path(find_model(name)) / ADAPTER).is_file():
        # transformers would put the adapter on, and say nothing of the weights below it: perhaps they are merged already.
        raise OptionError(
            f"the folder {name} holds a whole model (config.json) and an adapter ({ADAPTER}); move one of them elsewhere"
        )
    options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True} | more
    if load_in_4bit:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise OptionError("--load_in_4bit needs bitsandbytes: pip install bitsandbytes")
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_quant_type="nf4",
            llm_int8_skip_modules=["lm_head", "embed_out", "score", "classifier"],  # heads are small and decide
        )
        options["device_map"] = {"": device}
    where = [device]
    if device_map:
        options["device_map"], where = device_map, gpus() or [device]
    free = memory_words(where)
    try:
        with _own_report():
            model, info = _from_pretrained(getattr(transformers, auto_class), base or name, "model", **options)
    except DoesNotFitError:
        if "device_map" not in options:  # weights come into the machine's memory first
            where = [torch.device("cpu")]
            free = memory_words(where)
        raise does_not_fit(name, _size(auto_class, base or name, dtype), dtype, where, free) from None
    except OptionError as error:
        if base is None:
            raise
        raise OptionError(f"the adapter {name} was made for {base}: {error}") from None
    if device_map == "auto" and gpus() and {place.type for place in devices_of(model)} & {"cpu", "meta"}:
        # It would be brought to the GPUs layer by layer in every pass.
        raise does_not_fit(name, _size(auto_class, base or name, dtype), dtype, where, free)
    adapter, report = None, loading_report(info)
    if base is not None:
        adapter, brought = _with_adapter(model, name)
        report["missing"] = set(report["missing"]) - brought
    if fault := wrong_weights(base or name, type(model).__name__, **report, may_lack=may_lack, part=part):
        raise ModelError(fault)
    if not load_in_4bit and not device_map:
        model = _moved(model, name, device, free)
    return model.eval().requires_grad_(False), adapter


@contextlib.contextmanager
def _own_report() -> Iterator[None]:
    """Keep back transformers' table of weights that are missing or left over: `wrong_weights` judges the same.

    The table calls weights that a caller leaves out on purpose UNEXPECTED, such as ArmoRM's head. Conversion errors are let through.
    """

    def wanted(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return "LOAD REPORT" not in text or "CONVERSION" in text

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _with_adapter(model: "PreTrainedModel", name: str) -> "tuple[PeftModel, set[str]]":
    """Put an adapter's layers into a model, which stays itself; also the names of the model's own weights that it brings."""
    import peft

    found, kind = find_model(name), type(model).__name__
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found missing adapter keys")  # said below
            adapter = peft.PeftModel.from_pretrained(
                model, found, torch_device=str(model.device), autocast_adapter_dtype=False
            )
        there = set(peft.load_peft_weights(found, device="cpu"))
        needed = set(peft.get_peft_model_state_dict(adapter, save_embedding_layers=False))
        known = needed | set(peft.get_peft_model_state_dict(adapter, save_embedding_layers=True))
    except Exception as error:  # peft's, the hub client's and safetensors' errors share no base class
        raise ModelError(f"the adapter {name} cannot be loaded ({reason_of(error)}); is the folder whole?") from None
    if adapter.get_base_model() is not model or adapter.active_peft_config.is_prompt_learning:
        raise ModelError(f"the adapter {name} is of a kind that changes the prompt; LoRA and its like can be used")
    if fault := wrong_weights(f"the adapter {name}", f"adapter of {kind}", needed - there, there - known):
        raise ModelError(fault)
    return adapter, {key.removeprefix("base_model.model.") for key in there}


def _moved(model: "PreTrainedModel", name: str, device: "torch.device", free: str) -> "PreTrainedModel":
    try:
        return model.to(device)
    except RuntimeError as error:  # out of memory is one
        if not out_of_memory(error):
            raise ModelError(f"{name} cannot be brought to {device} ({reason_of(error)})") from None
    raise does_not_fit(name, model.get_memory_footprint(return_buffers=False), model.dtype, [device], free)


def _size(auto_class: str, name: str, dtype: "torch.dtype") -> int | None:
    """Bytes of a model's weights in a number format, by its configuration; None where that does not say."""
    import torch
    import transformers

    try:
        with torch.device("meta"):
            model = getattr(transformers, auto_class).from_config(load_config(name))
    except Exception:  # whatever it is, it must not take the place of what is said of memory
        return None
    return sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


def _from_pretrained(auto_class, name: str, kind: str, **options):
    found = find_model(name)
    try:
        return auto_class.from_pretrained(found, **options)
    except ImportError as error:
        raise OptionError(
            f"the {kind} of {name} needs a package that is missing ({reason_of(error)}): {INSTALL}"
        ) from None
    except Exception as error:  # transformers', the hub client's and safetensors' errors share no base class
        if out_of_memory(error):
            raise DoesNotFitError(f"{name} does not fit into memory") from None
        remedy = (
            "is the folder whole?" if found != name or Path(found).is_dir() else "is it a hub id, and the hub there?"
        )
        raise ModelError(f"the {kind} of {name} cannot be loaded ({reason_of(error)}); {remedy}") from None


def reason_of(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def cache_argument(model: "PreTrainedModel") -> str:
    """The name of the forward pass's argument that takes a key-value cache; transformers gives the older one up in 5.40."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def eos_token_ids(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, end_of_turn: bool = True
) -> frozenset[int]:
    """The ids that end an answer: the generation configuration's, the tokenizer's, and the chat template's end of turn.

    vLLM knows nothing of the last, so it ends there only where the others name it too.
    """
    ids = {tokenizer.eos_token_id}
    for config in (getattr(model, "generation_config", None), model.config.get_text_config()):
        named = getattr(config, "eos_token_id", None)
        ids.update(named if isinstance(named, list | tuple) else [named])
    if end_of_turn:
        ids.add(_end_of_turn(tokenizer))
    return frozenset(int(i) for i in ids if i is not None)


def _end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token that the chat template writes behind an assistant's turn, if there is one."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "ANSWER"}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # templates raise errors of their own
        return None
    behind = tokenizer(text.rpartition("ANSWER")[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return next((i for i in behind if i in special), None)
