"""A model whose forward passes go over the new tokens of several samples at once: what its two forms have in common.

`packed_engine.PackedEngine` runs on all devices, `graph_engine.GraphEngine` replays passes of fixed sizes from CUDA graphs.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from command.unexpected import is_ours, told_with
from language_models.interface import ModelError
from language_models.local.attention import OWN_ATTENTION
from language_models.local.blocked_weights import block_weights
from language_models.local.costs import PassCosts
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


class Engine(ABC):
    """A model, its cache, and what its passes cost. Passes are run one after another, by the device's worker.

    `passes` counts forward passes (each chunk of a long text is one, and each token that is written ahead), `sample_passes` how
    many samples took part in each, `tokens` the tokens that went in. `kind` is the engine's name in options and results.
    """

    kind: str
    writes_ahead = False  # whether a segment may ask for greedy tokens after its own, see Segment.ahead
    slice = 1  # that many tokens are written ahead at a time, before other samples may join
    sizes: tuple[int, ...]  # of passes, in new tokens, that are told apart in what they cost

    def __init__(self, model: "PreTrainedModel", *, slots: int, longest: int):
        """
        Args:
            model: on its device, in evaluation mode; its attention becomes the engine's.
            slots: how many samples the cache has room for.
            longest: tokens of the longest text.

        Raises:
            ModelError: the engine does not compute what the model computes by itself.
        """
        self.model, self.device = model, model.device
        self.name = type(model).__name__
        self.headless = "logits_to_keep" not in inspect.signature(model.forward).parameters  # gives hidden states
        self.longest = longest
        self.cache = self.make_cache(slots, longest)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.vocabulary_size = model.get_input_embeddings().weight.shape[0]  # ids below it can go in
        self.costs = PassCosts(self.sizes)
        self.reset_counts()
        self._adopt()

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

    def drawn(self, logits: torch.Tensor, total: torch.Tensor, segment: Segment) -> NextToken:
        """A token drawn as a segment asks for: `logits` [vocabulary], `total` their logsumexp."""
        sampling = segment.sampling
        values, indices = (logits / sampling.temperature).softmax(-1).sort(descending=True)
        # A token is in the nucleus where those before it have less than top_p together.
        values[(values.cumsum(-1) - values) >= sampling.top_p] = 0
        chosen = int(indices[torch.multinomial(values.cpu(), 1, generator=sampling.generator).item()])
        best = logits.topk(segment.top) if segment.top else None
        top = list(zip(best.indices.tolist(), (best.values - total).tolist(), strict=True)) if best else []
        if top and chosen not in dict(top):
            top.append((chosen, float(logits[chosen] - total)))
        return NextToken(chosen, tuple(top))

    def _prepare(self) -> None:  # noqa: B027
        """What else is done to the model before its first pass here."""

    def _adopt(self) -> None:
        """Give the model the attention over packed segments, and see that it computes what the model computes by itself.

        Raises:
            ModelError: it does not, as for architectures whose state is no key-value cache.
        """
        refusal = ModelError(
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
        except NotImplementedError:
            raise refusal from None
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise (told_with(refusal, error) if is_ours(error) else refusal) from None
        spread = expected.std().item() or 1.0
        if not (found - expected).abs().max().item() <= LOOSE.get(self.model.dtype, 0.5) * max(1.0, spread):
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
