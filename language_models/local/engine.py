"""A model whose forward passes go over the new tokens of several samples at once: what its two forms have in common.

`packed_engine.PackedEngine` runs on all devices, `graph_engine.GraphEngine` replays passes of fixed sizes from CUDA graphs.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import torch

from command.unexpected import is_ours, told_with
from language_models.interface import ModelError
from language_models.local.attention import OWN_ATTENTION
from language_models.local.blocked_weights import block_weights
from language_models.local.choices import drawn_token
from language_models.local.costs import PassCosts
from language_models.local.loading import reason_of
from language_models.local.segments import NextToken, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of a logit that another kernel computed: float32 differs by 1e-5 or less, bfloat16 by a few hundredths.
LOOSE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
CHECK_TOKENS = 24


class Cache(Protocol):
    """Keys and values of all layers for a number of samples, each in a slot."""

    slots: int

    @property
    def bytes(self) -> int:
        """What the tensors take."""


class NotTheSameError(ModelError):
    """An engine does not compute what the model computes by itself; `reason` says what was raised, or how far it is off."""

    reason = ""


class Engine(ABC):
    """A model, its cache, and what its passes cost. Passes are run one after another, by the device's worker.

    `passes` counts forward passes (each chunk of a long text is one, and each token that is written ahead), `sample_passes` how
    many samples took part in each, `tokens` the tokens that went in. `kind` is the engine's name in options and results.
    """

    kind: str
    writes_ahead = False  # whether a segment may ask for greedy tokens after its own, see Segment.ahead
    slice = 1  # that many tokens are written ahead at a time, before other samples may join
    sizes: tuple[int, ...]  # of passes, in new tokens, that are told apart in what they cost

    def __init__(self, model: "PreTrainedModel", *, slots: int, longest: int, expected_tokens: int | None = None):
        """
        Args:
            model: on its device, in evaluation mode; its attention becomes the engine's.
            slots: how many samples the cache has room for.
            longest: tokens of the longest text.
            expected_tokens: of the longest text that will come, where that is known, for caches that grow at a price.

        Raises:
            ModelError: the engine does not compute what the model computes by itself. The model is as it was then.
        """
        self.model, self.device = model, model.device
        self.name = type(model).__name__
        self.headless = "logits_to_keep" not in inspect.signature(model.forward).parameters  # gives hidden states
        self.longest, self.expected_tokens = longest, expected_tokens
        self.fallbacks: list[str] = []
        self.cache = self.make_cache(slots, longest)
        self.grown, self._capacity_before = 0, 0
        self.parameters = sum(p.numel() for p in model.parameters())
        self.vocabulary_size = model.get_input_embeddings().weight.shape[0]  # ids below it can go in
        self.costs = PassCosts(self.sizes)
        self.reset_counts()
        self._adopt()
        self.grown, self._capacity_before = 0, self.capacity

    @property
    def capacity(self) -> int:
        """Tokens that each slot of the cache has room for; 0 before the first pass."""
        return max((keys.shape[2] for keys, _ in self.cache.layers.values()), default=0)

    @property
    def report(self) -> dict:
        """How passes are computed, as JSON has it.

        `captured` says whether passes are replayed from CUDA graphs, `graphs` how many sizes of them are, `uncaptured` has those
        that could not be captured with the reason, `capture_seconds` is what captures took. `kernels` are the Triton kernels of
        the attention (`why_no_kernels`: "" where they are used), `kernel_seconds` what their first runs took, which compile them
        where Triton's own cache between runs (~/.triton) has none. `fused_layers` says how many layers of which kind are put
        together (`why_not_fused`: "" where some are). `cache_tokens` is the room of each slot, `cache_grown` how often that grew,
        and `fallbacks` has a line for everything that did not go as it should have, with what was done instead.
        """
        return {
            "kind": self.kind,
            "captured": False,
            "graphs": 0,
            "uncaptured": {},
            "capture_seconds": 0.0,
            "kernels": False,
            "why_no_kernels": "packed passes compute with torch's own operations",
            "kernel_seconds": 0.0,
            "fused_layers": {},
            "why_not_fused": "packed passes compute the model's own layers",
            "cache_tokens": self.capacity,
            "cache_grown": self.grown,
            "fallbacks": list(self.fallbacks),
        }

    @abstractmethod
    def make_cache(self, slots: int, longest: int) -> Cache:
        """An empty cache; its tensors are made by the passes."""

    @abstractmethod
    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """Compute what is new; for each segment what follows each of its last `wanted` tokens, and the tokens written ahead."""

    @abstractmethod
    def outputs(self, segments: list[Segment]) -> list[torch.Tensor]:
        """Compute what is new, and count it; the model's own output at each segment's wanted tokens, on its device.

        Logits [wanted, vocabulary] of a model with a language-modelling head, hidden states [wanted, hidden size] of one without,
        in the model's number format; they are good until the next pass.
        """

    @abstractmethod
    def logits(self, segments: list[Segment]) -> list[torch.Tensor]:
        """`outputs` in one pass, without counting it, in float32."""

    @abstractmethod
    def measure(self) -> None:
        """Time passes of some sizes, for the estimates of what drafting is worth; what they were is not counted."""

    def reset_counts(self) -> None:
        """Count from 0 again."""
        self.passes = self.sample_passes = self.tokens = 0
        self.seconds = 0.0
        self.samples_per_pass = 1.0  # running mean

    def count(self, passes: int, sample_passes: int, tokens: int, seconds: float) -> None:
        """Add what was computed."""
        if (capacity := self.capacity) != self._capacity_before:
            self._capacity_before = capacity
            self.grown += 1
        self.passes += passes
        self.sample_passes += sample_passes
        self.tokens += tokens
        self.seconds += seconds
        self.samples_per_pass += 0.1 * (sample_passes / max(1, passes) - self.samples_per_pass)

    def cost(self, tokens: float) -> float:
        """Seconds of a pass over that many new tokens, from those that were measured."""
        return self.costs.of(tokens)

    def step_cost(self, samples: float) -> float:
        """Seconds for one greedy token more of each of some samples."""
        return self.cost(samples)

    def request_cost(self, segments: Sequence[Segment]) -> float:
        """Seconds of what these segments ask for."""
        ahead = max(segment.ahead for segment in segments)
        return self.cost(sum(len(s.tokens) for s in segments)) + (ahead and ahead * self.step_cost(len(segments)))

    def tell(self, line: str) -> None:
        """Keep a line, once, on what did not go as it should have, and what was done instead: it is in the report."""
        if line not in self.fallbacks:
            self.fallbacks.append(line)

    def drawn(self, logits: torch.Tensor, total: torch.Tensor, segment: Segment) -> NextToken:
        """A token drawn as a segment asks for: `logits` [vocabulary], `total` their logsumexp."""
        return drawn_token(logits, total, segment)

    def _prepare(self) -> None:  # noqa: B027
        """What else is done to the model before its first pass here."""

    def _adopt(self) -> None:
        """Give the model the attention over packed segments, and see that it computes what the model computes by itself.

        Raises:
            NotTheSameError: it does not, as for architectures whose state is no key-value cache.
        """
        self._attention_before = self.model.config._attn_implementation
        try:
            self._check_passes()
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Leave the model as it was, for another engine."""
        with suppress(Exception):  # the error under way says more
            self.model.set_attn_implementation(self._attention_before)

    def _check_passes(self) -> None:
        refusal = NotTheSameError(
            f"models of the architecture {self.name} cannot be run by run_api.py itself; serve the model, with vLLM say, "
            "and name its host"
        )
        tokens = [(7 * i + 11) % self.model.config.get_text_config().vocab_size for i in range(CHECK_TOKENS)]
        try:
            with torch.inference_mode():
                expected = self.model(torch.tensor([tokens], device=self.device), use_cache=False)[0][0].float()
            self.model.set_attn_implementation(OWN_ATTENTION)
            block_weights(self.model)
            self._prepare()
            found = self._in_pieces(tokens)
        except (NotImplementedError, TypeError, ValueError, AttributeError, IndexError) as error:
            refusal.reason = f"{type(error).__name__}: {reason_of(error)}"
            raise (told_with(refusal, error) if is_ours(error) else refusal) from None
        spread, worst = expected.std().item() or 1.0, (found - expected).abs().max().item()
        if not worst <= LOOSE.get(self.model.dtype, 0.5) * max(1.0, spread):
            refusal.reason = f"the logits differ by {worst:.2g}"
            raise refusal

    @torch.inference_mode()
    def _in_pieces(self, tokens: list[int]) -> torch.Tensor:
        """The logits of a text that comes in two passes, beside another one in the first of them."""
        half, last = len(tokens) // 2, self.cache.slots - 1
        pieces = []
        for segments in (
            [Segment(last, 0, tokens[:half], half)] + ([Segment(0, 0, tokens[3:9], 0)] if last else []),
            [Segment(last, half, tokens[half:], len(tokens) - half)],
        ):
            pieces.append(self.logits(segments)[0])
        return torch.cat(pieces)
