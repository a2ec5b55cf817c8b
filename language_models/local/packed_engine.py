"""Forward passes over the new tokens of several samples in one row, on any device."""

import time

import torch

from language_models.local.engine import Engine
from language_models.local.packed_attention import KeyValueCache, PackedPass
from language_models.local.segments import NextToken, Segment

# The first estimates of costs come from some of the sizes.
SIZES = (1, 2, 4, 8, 16, 32, 64)
MEASURED_SIZES = (1, 4, 16)


class PackedEngine(Engine):
    """See Engine."""

    kind = "packed"
    sizes = SIZES
    cache: KeyValueCache

    def make_cache(self, slots: int, longest: int) -> KeyValueCache:
        return KeyValueCache(slots, longest)

    @torch.inference_mode()
    def run(self, segments: list[Segment]) -> list[list[NextToken]]:
        """See Engine; one pass."""
        started = time.perf_counter()
        logits = self._outputs(segments).float()
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
                found.append([self.drawn(logits[row], total[row], segment) for row in rows])
                continue
            n = segment.top
            found.append(
                [
                    NextToken(greedy[i], tuple(zip(tops[1][i][:n], tops[0][i][:n], strict=True)) if n else ())
                    for i in rows
                ]
            )
        seconds, tokens = time.perf_counter() - started, sum(len(segment.tokens) for segment in segments)
        self.count(1, len(segments), tokens, seconds)
        self.costs.record(tokens, seconds)
        return found

    @torch.inference_mode()
    def outputs(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine; one pass."""
        started = time.perf_counter()
        found = self._outputs(segments)
        self.count(1, len(segments), sum(len(segment.tokens) for segment in segments), time.perf_counter() - started)
        return list(found.split([segment.wanted for segment in segments]))

    @torch.inference_mode()
    def logits(self, segments: list[Segment]) -> list[torch.Tensor]:
        """See Engine."""
        return list(self._outputs(segments).float().split([segment.wanted for segment in segments]))

    def _outputs(self, segments: list[Segment]) -> torch.Tensor:
        """Logits, or a headless model's hidden states, at the wanted tokens: [wanted, vocabulary or hidden size]."""

        def tensor(numbers):
            return torch.tensor(numbers, device=self.device)

        ids, positions, kept = [], [], []
        for segment in segments:
            ids += segment.tokens
            positions += segment.positions
            kept += range(len(ids) - segment.wanted, len(ids))
        output = self.model(
            input_ids=tensor([ids]),
            position_ids=tensor([positions]),
            use_cache=False,
            packed=PackedPass(segments, self.cache, self.device),
            # A list: the last layer may be on another device than the first.
            **({} if self.headless else {"logits_to_keep": kept}),
        )[0][0]
        return output[kept] if self.headless else output

    def measure(self) -> None:
        """See Engine."""
        for size in (MEASURED_SIZES[-1], *MEASURED_SIZES):
            if size == 1:
                self.costs.forget()
            self.run([Segment(0, 0, [11] * size, 1)])
        self.reset_counts()
