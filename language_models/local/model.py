"""A language model in this process: transformers and torch, a key-value cache for each sample, and passes that samples share.

The speed comes from what a pass computes being kept. A sample's text only grows and is cut back, so its cache holds all but the
newest tokens; and of a text that may follow (`draft`: the nudging model's words, say) one pass tells at each token what the
model would have written there. Greedy text does not depend on drafts, nor on what else is computed at the same time, but for
the rounding of numbers.
"""

import copy
import functools
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
import transformers

from command.errors import OptionError
from language_models.families import NEEDS_BOS
from language_models.interface import Completion, LanguageModel, ModelError, SamplingParams, Usage
from language_models.local.blocked_weights import weight_bytes
from language_models.local.cache import CacheSlots
from language_models.local.devices import (
    DoesNotFitError,
    device_name,
    devices_of,
    gpus,
    memory_words,
    out_of_memory,
    with_number,
)
from language_models.local.drafts import DraftRate
from language_models.local.engines import make_engine
from language_models.local.loading import (
    eos_token_ids,
    load_causal_lm,
    load_tokenizer,
    pick_device,
    pick_dtype,
    reason_of,
)
from language_models.local.text_tokenizer import OwnTokenizer
from language_models.local.told import passes_in_words, set_up_notes
from language_models.local.view import LocalStream, LocalView
from language_models.local.vocabulary import Vocabulary
from language_models.local.windows import context_length, extended_by_longrope
from language_models.local.worker import Worker
from language_models.tokenizing import TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_workers: dict[torch.device, Worker] = {}


def _worker_of(device: torch.device) -> Worker:
    """Who runs the passes of a device; "cuda" and "cuda:0" are one. Models on several GPUs are computed at the same time."""
    device = with_number(device)
    if device not in _workers:
        cuda = device.type == "cuda"
        # Each thread has a current device, on which kernels are started.
        _workers[device] = Worker(not cuda, functools.partial(torch.cuda.device, device) if cuda else nullcontext)
    return _workers[device]


class LocalModel:
    """A model in this process, for many samples at once; safe to use from many threads.

    `usage` counts as for a server: a stream or completion is a request. What was computed for it: `engine.passes`.

    Args:
        name: what the model is called in results.
        model, tokenizer: in transformers' form; the model on its device.
        end_ids: the ids that end an answer.
        context_length: most tokens of prompt and answer together.
        samples: how many samples are answered at the same time; each has a slot of the cache.
        riders: for how many texts more there is a slot where the engine writes ahead: those whose rest rides along.
        draft_ahead: look ahead of the text where nobody names a draft, by what stood in it before and by the `drafter`.
        drafter: a small model that drafts for this one, where that pays.
        engine: how its passes are computed: auto, graphs or packed; see engines.make_engine. Layers on several devices have
            packed passes, which the first device's worker runs.
        expected_tokens: how long the texts will be, prompt and answer together, where that is known.

    `warnings` and `notes` are what has to be known of it, said once where it is loaded.

    Raises:
        OptionError: graphs are asked for, and the layers are on several devices.
        ModelError: the engine does not compute what the model computes by itself.
    """

    runs_ahead = False
    passes_counted_in: str | None = None  # the role in which a model of several roles counts its passes, in all others

    def __init__(
        self,
        name: str,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        end_ids: frozenset[int],
        context_length: int,
        samples: int = 1,
        riders: int = 0,
        draft_ahead: bool = True,
        drafter: "LocalModel | None" = None,
        engine: str = "auto",
        expected_tokens: int | None = None,
    ):
        self.name = name
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.devices = devices_of(model)
        if len(self.devices) > 1:
            engine = self._engine_of_several(engine)
        self.vocabulary = Vocabulary(tokenizer, end_ids)
        self.context_length = context_length
        worker = _worker_of(model.device)
        graphs = engine == "graphs" or (engine == "auto" and model.device.type == "cuda")
        options = {"slots": samples + graphs * riders, "longest": context_length, "expected_tokens": expected_tokens}
        self.engine = worker.call(lambda: make_engine(model, kind=engine, **options))
        self.slots = CacheSlots(self.engine, worker)
        self.usage = Usage()
        self.draft_ahead, self.drafter = draft_ahead, drafter
        self.same_tokens = drafter is not None and tokenizer.get_vocab() == drafter.vocabulary.tokenizer.get_vocab()
        self.draft_rates = {source: DraftRate() for source in ("caller", "lookup", "drafter")}
        self._lock = threading.Lock()
        self._own = threading.local()
        worker.call(self.engine.measure)
        self.notes += set_up_notes(name, self.engine, engine)
        self._told = len(self.engine.fallbacks)

    def _engine_of_several(self, engine: str) -> str:
        where = f"{self.name} is on {len(self.devices)} devices, {self.devices[0]} to {self.devices[-1]}"
        if engine == "graphs":
            raise OptionError(f"{where}, and --engine graphs needs it on one; leave out --engine or --device_map")
        self.notes.append(f"{where}: its passes are packed ones, without CUDA graphs")
        return "packed"

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        device_map: str = "none",
        samples: int = 1,
        riders: int = 0,
        drafter: "LocalModel | None" = None,
        engine: str = "auto",
        prompts: Sequence[str] = (),
        answer_tokens: int = 0,
    ) -> "LocalModel":
        """Load a model: a folder in the transformers format, or a hub id; see loading for `device` and `dtype`.

        Args:
            device_map: "auto" spreads the layers over all GPUs of the machine, where there are several; else all of it goes to
                `device`, and `notes` says so.
            samples, riders, drafter, engine: see LocalModel.
            prompts, answer_tokens: the longest prompts that will come and how long answers may be, for the cache's first size.

        Raises:
            OptionError, ModelError: it is not there, does not fit, or cannot be loaded.
        """
        place, notes, spread = pick_device(device), [], None
        if device_map == "auto" and len(gpus()) > 1:
            place, spread = gpus()[0], device_map
        elif device_map == "auto":
            there = "one GPU" if gpus() else "no CUDA GPU"
            notes.append(f"--device_map auto: this machine has {there}, so all of {name} is on {place}")
        tokenizer = load_tokenizer(name)  # first: it takes no time to say that it is missing
        number_format = pick_dtype(dtype, place)
        how = {"device": place, "dtype": number_format, "device_map": spread}
        try:
            model = _worker_of(place).call(lambda: load_causal_lm(name, **how))
        except DoesNotFitError as error:
            ways = ["take --dtype bfloat16"] if number_format == torch.float32 else []
            ways += ["spread the base model over several GPUs by --device_map auto"] if spread is None else []
            ways += ["name another device, or serve the model with vLLM and name its host"]
            raise ModelError(f"{error.facts}; {', '.join(ways)}") from None
        # As for vLLM: a template's end of turn ends an answer only where the configuration says so.
        ends = eos_token_ids(model, tokenizer, end_of_turn=False)
        length, expected = context_length(model), None
        if prompts:
            expected = min(length, answer_tokens + max(len(Vocabulary(tokenizer, ends).encode(p)) for p in prompts))
        try:
            loaded = cls(
                name,
                model,
                tokenizer,
                end_ids=ends,
                context_length=length,
                samples=samples,
                riders=riders,
                drafter=drafter,
                engine=engine,
                expected_tokens=expected,
            )
        except RuntimeError as error:  # out of memory is one
            free = f"; {memory_words(devices_of(model))}, beside its weights" if out_of_memory(error) else ""
            raise ModelError(
                f"the first forward passes of {name} on {model.device} failed ({reason_of(error)}); "
                f"if memory is short, lower --num_threads, or take another --dtype or --device{free}"
            ) from None
        loaded.notes[:0] = notes
        for part, bos in NEEDS_BOS.items():
            family = getattr(model.config, "model_type", "")
            if family.startswith(part) and loaded.vocabulary.encode("a")[0] != tokenizer.convert_tokens_to_ids(bos):
                loaded.warnings.append(
                    f"the tokenizer of {name} puts no {bos} in front of prompts; it will write nonsense"
                )
        if extended_by_longrope(model.config):
            loaded.warnings.append(
                f"texts of {name} end at {length:,} tokens here: longer ones would change how all others beside them are computed "
                "(longrope); serve the model, with vLLM say, if they have to be longer"
            )
        return loaded

    def shared(self, counted_in: str) -> "LocalModel":
        """The same model with a usage of its own, for another role; what was computed is counted in the role that is named."""
        other = copy.copy(self)
        other.passes_counted_in = counted_in
        other.usage, other._lock, other._own = Usage(), threading.Lock(), threading.local()
        return other

    def streams(self, logprobs: bool) -> bool:
        """Whether continuations can be streamed: they can."""
        return True

    def tokenizer(self) -> TextTokenizer:
        """See SharedModel."""
        return OwnTokenizer(self.name, self.vocabulary)

    def check_alive(self, seconds: float) -> None:
        """See SharedModel. A pass is not run for it: one that is on its way may take longer than a server's silence."""
        if self.slots.worker.lost is not None:
            raise ModelError(str(self.slots.worker.lost))

    @property
    def report(self) -> dict:
        """What model this is, as JSON has it."""
        model = self.engine.model
        return {
            "host": "this process",
            "engine": f"transformers {transformers.__version__}",
            "passes": self.engine.report,
            "model": self.name,
            "device": str(model.device),
            "device_name": device_name(model.device),
            "devices": {str(device): device_name(device) for device in self.devices},
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": self.engine.parameters,
            "context_length": self.context_length,
            "end_of_sequence": [self.vocabulary.decode([i], names=True) for i in sorted(self.vocabulary.end_ids)],
            "drafter": self.drafter.name if self.drafter else None,
            "warnings": self.warnings,
        }

    @property
    def packages(self) -> tuple[str, ...]:
        """The packages that compute."""
        adapted = getattr(self.engine.model, "peft_config", None)
        return ("torch", "transformers", "tokenizers", "safetensors", *(["peft"] if adapted else []))

    @property
    def usage_by_host(self) -> dict[str, dict]:
        """What was asked and what was computed for it, as JSON has it; the latter in one of the model's roles, for all of them."""
        if self.passes_counted_in:
            return {"this process": asdict(self.usage) | {"passes_counted_in": self.passes_counted_in}}
        engine = self.engine
        computed = {
            "forward_passes": engine.passes,
            "samples_per_pass": round(engine.sample_passes / max(1, engine.passes), 2),
            "tokens_computed": engine.tokens,
            "seconds_in_passes": round(engine.seconds, 3),
            "peak_memory_mb": round(self.memory / 1e6),
            "passes": engine.report,
        }
        return {"this process": asdict(self.usage) | computed}

    @property
    def in_words(self) -> str:
        """The model, where it is and how large."""
        found = self.report
        size = f"{found['parameters'] / 1e6:,.0f} million parameters, {self.memory / 1e9:.1f} GB"
        where = " and ".join(found["devices"])
        return f"{self.name} on {where} in {found['dtype']}: {size}; passes: {passes_in_words(self.engine.report)}"

    @property
    def cost_in_words(self) -> str:
        """What has been computed and how, the memory that it took, and what went wrong on the way since the model was loaded."""
        engine = self.engine
        line = (
            f"{self.name}: {engine.passes:,} forward passes ({passes_in_words(self.engine.report)}), "
            f"{engine.sample_passes / max(1, engine.passes):.1f} samples each; "
            f"memory {self.memory / 1e9:.1f} GB, {engine.cache.bytes / 1e9:.2f} GB of it cache"
        )
        return "; ".join([line, *engine.fallbacks[self._told :]])

    @property
    def memory(self) -> int:
        """Bytes of the weights and of the cache, which has grown to what the longest text needed."""
        return weight_bytes(self.engine.model) + self.engine.cache.bytes

    def for_sample(self, sample_id: object) -> LanguageModel:
        """The model as one sample sees it, with a cache of its own, which is given back when the view is dropped."""
        return LocalView(self, sample_id)

    def complete(self, prompt: str, params: SamplingParams) -> Completion:
        """See LanguageModel; each thread counts as a sample."""
        return self._of_thread().complete(prompt, params)

    def stream(self, prompt: str, params: SamplingParams, draft: str = "") -> LocalStream:
        """See LanguageModel; each thread counts as a sample."""
        return self._of_thread().stream(prompt, params, draft)

    def _of_thread(self) -> "LocalView":
        if not hasattr(self._own, "view"):
            self._own.view = LocalView(self, threading.get_ident())
        return self._own.view

    def count(self, usage: Usage) -> None:
        """Add what was asked to `self.usage`."""
        with self._lock:
            self.usage.add(usage)
