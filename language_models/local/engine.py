"""Forward passes of a transformers model over the new tokens of several samples at once, and what they cost."""

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from command.unexpected import is_ours, told_with
from language_models.interface import ModelError
from language_models.local.attention import PACKED_ATTENTION, KeyValueCache, PackedPass, Segment
from language_models.local.blocked_weights import block_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of a logit that another kernel computed: float32 differs by 1e-5 or less, bfloat16 by a few hundredths.
LOOSE = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
CHECK_TOKENS = 24
# Passes of up to that many new tokens are told apart in what they cost; the first estimates come from some of them.
SIZES = (1, 2, 4, 8, 16, 32, 64)
MEASURED_SIZES = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class NextToken:
    """What a model says about one position: its token (greedy, or drawn), and the `top` as (id, natural log-probability)."""

    token: int
    top: tuple[tuple[int, float], ...]


class Engine:
    """A model, its cache, and what its passes cost. Passes are run one after another, by the device's worker.

    `passes` counts forward passes, `sample_passes` how many samples took part in each, `tokens` the tokens that went in.
    """

    def __init__(self, model: "PreTrainedModel", *, slots: int, longest: int):
        self.model, self.device = model, model.device
        self.name = type(model).__name__
        self.cache = KeyValueCache(slots, longest)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.vocabulary_size = model.get_input_embeddings().weight.shape[0]  # ids below it can go in
        self.passes = self.sample_passes = self.tokens = 0
        self.seconds = 0.0
        self.samples_per_pass = 1.0  # running mean
        self._costs: dict[int, float] = {}
        self._adopt()

    @torch.inference_mode()
    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """One forward pass; for each segment what follows each of its last `wanted` tokens."""
        started = time.perf_counter()
        ids = [token for segment in segments for token in segment.tokens]
        positions = [at for segment in segments for at in range(segment.start, segment.end)]
        ends = torch.tensor([len(segment.tokens) for segment in segments]).cumsum(0).tolist()
        kept = [at for end, segment in zip(ends, segments, strict=True) for at in range(end - segment.wanted, end)]
        logits = self._logits(ids, positions, kept, PackedPass(segments, self.cache, self.device))
        found, at = [], 0
        greedy = logits.argmax(-1).tolist()
        total = logits.logsumexp(-1)
        most = max(segment.top for segment in segments)
        if most > 1:
            values, indices = logits.topk(min(most, logits.shape[-1]), dim=-1)
            tops = (values - total[:, None]).tolist(), indices.tolist()
        elif most:
            tops = [[x] for x in (logits.max(-1).values - total).tolist()], [[x] for x in greedy]
        for segment in segments:
            rows = range(at, at + segment.wanted)
            at += segment.wanted
            if segment.sampling:
                found.append([self._drawn(logits[row], total[row], segment) for row in rows])
                continue
            n = segment.top
            found.append(
                [
                    NextToken(greedy[i], tuple(zip(tops[1][i][:n], tops[0][i][:n], strict=True)) if n else ())
                    for i in rows
                ]
            )
        self._count(len(segments), len(ids), time.perf_counter() - started)
        return found

    def _logits(self, ids: list[int], positions: list[int], kept: list[int], packed: PackedPass) -> torch.Tensor:
        """Logits in float32 at the kept indices: [kept, vocabulary]."""

        def tensor(numbers):
            return torch.tensor(numbers, device=self.device)

        output = self.model(
            input_ids=tensor([ids]),
            position_ids=tensor([positions]),
            logits_to_keep=tensor(kept),
            use_cache=False,
            packed=packed,
        )
        return output.logits[0].float()

    def _drawn(self, logits: torch.Tensor, total: torch.Tensor, segment: Segment) -> NextToken:
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

    def _count(self, samples: int, tokens: int, seconds: float) -> None:
        self.passes += 1
        self.sample_passes += samples
        self.tokens += tokens
        self.seconds += seconds
        self.samples_per_pass += 0.1 * (samples - self.samples_per_pass)
        size = next((size for size in SIZES if size >= tokens), 0)
        if size:
            before = self._costs.get(size, seconds)
            self._costs[size] = before + 0.1 * (seconds - before)

    def cost(self, tokens: float) -> float:
        """Seconds of a pass over that many new tokens, from those that were measured."""
        known = sorted(self._costs.items())
        if tokens >= known[-1][0]:
            return known[-1][1] * tokens / known[-1][0]
        for (a, cost_a), (b, cost_b) in itertools.pairwise(known):
            if a <= tokens <= b:
                return cost_a + (cost_b - cost_a) * (tokens - a) / (b - a)
        return known[0][1]

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
                expected = self.model(torch.tensor([tokens], device=self.device), use_cache=False).logits[0].float()
            self.model.set_attn_implementation(PACKED_ATTENTION)
            block_weights(self.model)
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
            ids = [token for segment in segments for token in segment.tokens]
            positions = [at for segment in segments for at in range(segment.start, segment.end)]
            kept = list(range(len(segments[0].tokens)))
            pieces.append(self._logits(ids, positions, kept, PackedPass(segments, self.cache, self.device)))
        return torch.cat(pieces)

    def measure(self) -> None:
        """Time passes of some sizes, for the estimates of what drafting is worth; what they were is not counted."""
        for size in (MEASURED_SIZES[-1], *MEASURED_SIZES):  # the first one warms up
            self._costs.pop(size, None)
            self.run([Segment(0, 0, [11] * size, 1)])
        self.passes = self.sample_passes = self.tokens = 0
        self.seconds, self.samples_per_pass = 0.0, 1.0
