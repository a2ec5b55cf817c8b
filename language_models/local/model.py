"""A language model in this process: transformers and torch, a key-value cache for each sample, and passes that samples share.

The speed comes from what a pass computes being kept. A sample's text only grows and is cut back, so its cache holds all but the
newest tokens; and of a text that may follow (`draft`: the nudging model's words, say) one pass tells at each token what the
model would have written there. Greedy text does not depend on drafts, nor on what else is computed at the same time, but for
the rounding of numbers.
"""

import copy
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
import transformers

from language_models.families import NEEDS_BOS
from language_models.interface import Completion, LanguageModel, ModelError, SamplingParams, Usage
from language_models.local.blocked_weights import weight_bytes
from language_models.local.cache import CacheSlots
from language_models.local.drafts import DraftRate
from language_models.local.engines import make_engine
from language_models.local.loading import (
    context_length,
    eos_token_ids,
    load_causal_lm,
    load_tokenizer,
    pick_device,
    pick_dtype,
    reason_of,
)
from language_models.local.view import LocalStream, LocalView
from language_models.local.vocabulary import Vocabulary
from language_models.local.worker import Worker

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_workers: dict[torch.device, Worker] = {}


def _worker_of(device: torch.device) -> Worker:
    """The one thread of a device; "cuda" and "cuda:0" are one."""
    if device.type != "cpu" and device.index is None:
        device = torch.device(device.type, 0)
    return _workers.setdefault(device, Worker(own_thread=device.type != "cuda"))


class LocalModel:
    """A model in this process, for many samples at once; safe to use from many threads.

    `usage` counts as for a server: a stream or completion is a request. What was computed for it: `engine.passes`.

    Args:
        name: what the model is called in results.
        model, tokenizer: in transformers' form; the model on its device.
        end_ids: the ids that end an answer.
        context_length: most tokens of prompt and answer together.
        samples: how many samples are answered at the same time; each has a slot of the cache.
        draft_ahead: look ahead of the text where nobody names a draft, by what stood in it before and by the `drafter`.
        drafter: a small model that drafts for this one, where that pays.
        engine: how its passes are computed: auto, graphs or packed; see engines.make_engine.
    """

    runs_ahead = False

    def __init__(
        self,
        name: str,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        end_ids: frozenset[int],
        context_length: int,
        samples: int = 1,
        draft_ahead: bool = True,
        drafter: "LocalModel | None" = None,
        engine: str = "auto",
    ):
        self.name = name
        self.vocabulary = Vocabulary(tokenizer, end_ids)
        self.context_length = context_length
        worker = _worker_of(model.device)
        self.engine = worker.call(lambda: make_engine(model, slots=samples, longest=context_length, kind=engine))
        self.slots = CacheSlots(self.engine, worker)
        self.usage = Usage()
        self.draft_ahead, self.drafter = draft_ahead, drafter
        self.same_tokens = drafter is not None and tokenizer.get_vocab() == drafter.vocabulary.tokenizer.get_vocab()
        self.draft_rates = {source: DraftRate() for source in ("caller", "lookup", "drafter")}
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self._own = threading.local()
        worker.call(self.engine.measure)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        samples: int = 1,
        drafter: "LocalModel | None" = None,
    ) -> "LocalModel":
        """Load a model: a folder in the transformers format, or a hub id; see loading for `device` and `dtype`.

        Raises:
            OptionError, ModelError: it is not there, or cannot be loaded.
        """
        place = pick_device(device)
        tokenizer = load_tokenizer(name)  # first: it takes no time to say that it is missing
        number_format = pick_dtype(dtype, place)
        model = _worker_of(place).call(lambda: load_causal_lm(name, device=place, dtype=number_format))
        # As for vLLM: a template's end of turn ends an answer only where the configuration says so.
        ends = eos_token_ids(model, tokenizer, end_of_turn=False)
        length = context_length(model)
        try:
            loaded = cls(name, model, tokenizer, end_ids=ends, context_length=length, samples=samples, drafter=drafter)
        except RuntimeError as error:  # out of memory is one
            raise ModelError(
                f"the first forward passes of {name} on {model.device} failed ({reason_of(error)}); "
                "if memory is short, lower --num_threads, or take another --dtype or --device"
            ) from None
        for part, bos in NEEDS_BOS.items():
            family = getattr(model.config, "model_type", "")
            if family.startswith(part) and loaded.vocabulary.encode("a")[0] != tokenizer.convert_tokens_to_ids(bos):
                loaded.warnings.append(
                    f"the tokenizer of {name} puts no {bos} in front of prompts; it will write nonsense"
                )
        return loaded

    def shared(self) -> "LocalModel":
        """The same model with a usage of its own, for another role."""
        other = copy.copy(self)
        other.usage, other._lock, other._own = Usage(), threading.Lock(), threading.local()
        return other

    def streams(self, logprobs: bool) -> bool:
        """Whether continuations can be streamed: they can."""
        return True

    @property
    def report(self) -> dict:
        """What model this is, as JSON has it."""
        model = self.engine.model
        return {
            "host": "this process",
            "engine": f"transformers {transformers.__version__}",
            "model": self.name,
            "device": str(model.device),
            "device_name": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else None,
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
        """What was asked and what was computed for it, as JSON has it; the latter of all roles of the model together."""
        engine = self.engine
        computed = {
            "forward_passes": engine.passes,
            "samples_per_pass": round(engine.sample_passes / max(1, engine.passes), 2),
            "tokens_computed": engine.tokens,
            "seconds_in_passes": round(engine.seconds, 3),
            "peak_memory_mb": round(self.memory / 1e6),
        }
        return {"this process": asdict(self.usage) | computed}

    @property
    def in_words(self) -> str:
        """The model, where it is and how large."""
        found = self.report
        size = f"{found['parameters'] / 1e6:,.0f} million parameters, {self.memory / 1e9:.1f} GB"
        return f"{self.name} on {found['device']} in {found['dtype']}: {size}"

    @property
    def cost_in_words(self) -> str:
        """What has been computed, and the memory that it took."""
        engine = self.engine
        return (
            f"{self.name}: {engine.passes:,} forward passes, {engine.sample_passes / max(1, engine.passes):.1f} samples each; "
            f"memory {self.memory / 1e9:.1f} GB, {engine.cache.bytes / 1e9:.2f} GB of it cache"
        )

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
