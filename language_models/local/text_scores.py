"""Scores of texts by a model of this process: passes over the whole text, a few dozen places of which are looked at in each."""

from collections.abc import Sequence

import torch

from language_models.interface import ContextLengthError, ModelError
from language_models.local.cache import CachedSample
from language_models.local.faults import failure_of
from language_models.local.model import LocalModel
from language_models.local.segments import Segment
from language_models.local.vocabulary import GrowingText
from language_models.scored_text import ScoredToken, cut_together, tokens_of

# That many rows of logits are looked at in one pass: of a vocabulary of 262,144 tokens they take 67 MB in float32.
PLACES = 64


class LocalScorer:
    """See TextScorer."""

    how = "one pass over each text, in this process"

    def __init__(self, model: LocalModel):
        self.model, self.name = model, model.name

    def score(self, prompt: str, text: str, logprobs: int) -> tuple[ScoredToken, ...]:
        """See TextScorer."""
        model, vocabulary = self.model, self.model.vocabulary
        ids = list(vocabulary.encode(prompt + text))
        if len(ids) > model.context_length:
            raise ContextLengthError(
                f"{self.name}: a text of {len(ids)} tokens does not fit into the context window of {model.context_length} tokens"
            )
        if max(ids) >= model.engine.vocabulary_size:
            raise ModelError(f"{self.name}: the text has a token for which the model has no embedding")
        first, tokens = self._tokens(prompt, text, ids)
        tokens = [(start, piece, first + number) for start, piece, number in tokens if first + number]
        if not tokens:
            return ()
        begin = tokens[0][2]
        found = self._passes(ids, begin, logprobs)
        scored = []
        for start, piece, number in tokens:
            own, ranked = found[number - begin]
            top: dict[str, float] = {}
            for token, logprob in ranked:
                top.setdefault(piece if token == ids[number] else vocabulary.text_of(token), logprob)
            scored.append(ScoredToken(start, piece, own, tuple(top.items())))
        return tuple(scored)

    def _tokens(self, prompt: str, text: str, ids: list[int]) -> tuple[int, list[tuple[int, str, int]]]:
        """The number of the first token that the prompt alone has not, and from it on the text's tokens as `tokens_of` has them."""
        vocabulary = self.model.vocabulary
        before = vocabulary.encode(prompt)
        same = next(
            (i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids))
        )
        rest = "".join(
            _slices(GrowingText(vocabulary, before[:same]), before[same:])
        )  # of the prompt, behind what is the same
        slices = _slices(GrowingText(vocabulary, ids[:same]), ids[same:])
        if "".join(slices) != rest + text:
            raise ModelError(f"{self.name}: its tokenizer does not give the text back as it is; it cannot be scored")
        slices = cut_together(slices, [vocabulary.text_of(token) for token in ids[same:]])
        return same, tokens_of(slices, len(rest))

    def _passes(self, ids: Sequence[int], begin: int, logprobs: int) -> list[tuple[float, list[tuple[int, float]]]]:
        """Own log-probability and the most probable (id, log-probability) of each token from `begin` on."""
        slots, engine = self.model.slots, self.model.engine
        sample, found = CachedSample(slots), []
        slot = slots.take(sample)
        try:
            at, end = 0, len(ids) - 1  # nothing is asked of what follows the last token
            while at < end:
                # Up to `begin` nothing is looked at but what follows the last token before it.
                stop = min(end, max(at, begin - 1) + PLACES)
                wanted = stop - max(at, begin - 1)
                segment = Segment(slot, at, list(ids[at:stop]), wanted)
                own = ids[stop - wanted + 1 : stop + 1]
                found += slots.worker.call(lambda segment=segment, own=own: self._looked_at(segment, own, logprobs))
                at = stop
        except RuntimeError as error:
            raise failure_of(self.name, engine.device, error) from None
        finally:
            sample.forget()
            slots.put_down(sample)
            slots.release(sample)
        return found

    @torch.inference_mode()
    def _looked_at(
        self, segment: Segment, own: Sequence[int], logprobs: int
    ) -> list[tuple[float, list[tuple[int, float]]]]:
        """What stands at the places of a segment: logits [wanted, vocabulary] as log-probabilities in float32."""
        logits = self.model.engine.outputs([segment])[0].float()
        total = logits.logsumexp(-1, keepdim=True)
        best, which = logits.topk(min(logprobs, logits.shape[-1]), dim=-1)
        mine = logits.gather(-1, torch.tensor(own, device=logits.device)[:, None]) - total
        ranked = zip(which.tolist(), (best - total).tolist(), strict=True)
        return [(m, list(zip(*row, strict=True))) for (m,), row in zip(mine.tolist(), ranked, strict=True)]


def _slices(growing: GrowingText, ids: Sequence[int]) -> list[str]:
    return [growing.add(token) for token in ids]
