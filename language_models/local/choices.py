"""What passes say about the wanted places: best tokens, the n most probable ones, and drawn ones."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from language_models.local.pieces import Piece
from language_models.local.segments import NextToken, Sampling, Segment


def nucleus(logits: Tensor, samplings: Sequence[Sampling]) -> tuple[Tensor, Tensor]:
    """What can be drawn at each place, of logits [places, vocabulary], as each `Sampling` asks for it.

    Returns:
        Probabilities in falling order, 0 outside of the nucleus, and the tokens that they belong to; [places, vocabulary] both.
    """
    temperature, top_p = logits.new_tensor([(s.temperature, s.top_p) for s in samplings]).split(1, dim=1)
    # Stable: which of two tokens with the same probability comes first must not depend on how many places are looked at.
    values, order = (logits / temperature).softmax(-1).sort(descending=True, stable=True)
    # A token is in the nucleus where those before it have less than top_p together.
    values[(values.cumsum(-1) - values) >= top_p] = 0
    return values, order


def draw(values: Tensor, samplings: Sequence[Sampling]) -> list[int]:
    """The number of the one that is drawn of each place's probabilities, [places, vocabulary] on the CPU."""
    return [
        int(torch.multinomial(row, 1, generator=sampling.generator).item())
        for row, sampling in zip(values, samplings, strict=True)
    ]


@contextmanager
def chance_kept(segments: Sequence[Segment]):
    """Where a pass fails, nothing has been drawn: it can be computed again with the same text."""
    states = [(s.sampling.generator, s.sampling.generator.get_state()) for s in segments if s.sampling]
    try:
        yield
    except BaseException:
        for generator, state in states:
            generator.set_state(state)
        raise


class Choices:
    """Reads what passes have computed, for all segments; everything comes from the device in one copy, at the end.

    `found[i]` is what is known for the segment i once `finish` has been called.
    """

    def __init__(self, segments: Sequence[Segment]):
        self.found: list[list[NextToken]] = [[] for _ in segments]
        self._waiting: list[tuple[Tensor, Callable[[Tensor], None]]] = []

    def add(self, part: list[Piece], places: list[range], out: Tensor, logits: Tensor) -> None:
        """What a pass says about some pieces.

        Args:
            places: of each piece, those that are wanted.
            out: float32 [2, places]: the best token of each, and its log-probability; not overwritten before `finish`.
            logits: [places, vocabulary], in any number format; what is needed of them is copied.
        """
        more = [
            (piece, place)
            for piece, at in zip(part, places, strict=True)
            if piece.segment.sampling or piece.segment.top > 1
            for place in at
        ]
        tops: dict[int, tuple[list[int], list[float]]] = {}
        rows = total = None
        if more:
            rows = logits[torch.tensor([place for _, place in more], device=logits.device)].float()
            total = rows.logsumexp(-1)
            if most := min(max(piece.segment.top for piece, _ in more), rows.shape[-1]):
                best = rows.topk(most, dim=-1)
                places_of_more = [place for _, place in more]

                def keep(both: Tensor) -> None:
                    tops.update(zip(places_of_more, zip(_as_int(both[0]), both[1].tolist(), strict=True), strict=True))

                self._await(torch.stack([_as_float(best.indices), best.values - total[:, None]]), keep)
        self._await(out, lambda out: self._best(part, places, out, tops))
        if drawn := [n for n, (piece, _) in enumerate(more) if piece.segment.sampling]:
            self._draw(rows[drawn], total[drawn], [more[n] for n in drawn], tops)

    def add_steps(self, written: dict[int, int], history: Tensor) -> None:
        """Tokens that were written after what was computed: how many of which segment, and float32 [steps, 2, segments]."""

        def read(history: Tensor) -> None:
            tokens, best = history.unbind(1)
            for row, (i, n) in enumerate(written.items()):
                ids, logprobs = tokens[:n, row].long().tolist(), best[:n, row].tolist()
                self.found[i] += [NextToken(*pair) for pair in _alone(ids, logprobs)]

        self._await(history, read)

    def finish(self) -> list[list[NextToken]]:
        """Wait for the device, and read."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            flat = [values.flatten() for values, _ in waiting]
            host = (flat[0] if len(flat) == 1 else torch.cat(flat)).cpu()
            for (values, read), part in zip(waiting, host.split([x.numel() for x in flat]), strict=True):
                read(part.view(values.shape))
        return self.found

    def _await(self, values: Tensor, read: Callable[[Tensor], None]) -> None:
        self._waiting.append((values, read))

    def _best(self, part: list[Piece], places: list[range], out: Tensor, tops: dict) -> None:
        tokens, best = out[0].long().tolist(), out[1].tolist()
        for piece, at in zip(part, places, strict=True):
            segment = piece.segment
            if segment.sampling:
                continue
            for place in at:
                top = ((tokens[place], best[place]),)
                if segment.top > 1:
                    top = tuple(zip(*(x[: segment.top] for x in tops[place]), strict=True))
                self.found[piece.index].append(NextToken(tokens[place], top))

    def _draw(self, rows: Tensor, total: Tensor, places: list[tuple[Piece, int]], tops: dict) -> None:
        """Draw a token at each of some places, whose logits `rows` are [places, vocabulary], with logsumexps `total`."""
        samplings = [piece.segment.sampling for piece, _ in places]
        values, order = nucleus(rows, samplings)

        def choose(values: Tensor) -> None:
            chosen = torch.tensor(draw(values, samplings), device=order.device)[:, None]
            tokens = order.gather(1, chosen)
            logprobs = rows.gather(1, tokens)[:, 0] - total
            self._await(torch.stack([_as_float(tokens[:, 0]), logprobs]), read)

        def read(both: Tensor) -> None:
            for (piece, place), token, logprob in zip(places, _as_int(both[0]), both[1].tolist(), strict=True):
                n = piece.segment.top
                top = dict(zip(*(x[:n] for x in tops[place]), strict=True)) if n else {}
                if top:
                    top.setdefault(token, logprob)
                self.found[piece.index].append(NextToken(token, tuple(top.items())))

        self._await(values, choose)


def drawn_token(logits: Tensor, total: Tensor, segment: Segment) -> NextToken:
    """A token drawn as a segment asks for: `logits` [vocabulary] in float32, `total` their logsumexp."""
    values, order = nucleus(logits[None], [segment.sampling])
    token = int(order[0, draw(values.cpu(), [segment.sampling])[0]])
    top: dict[int, float] = {}
    if segment.top:
        best = logits.topk(min(segment.top, len(logits)))
        top = dict(zip(best.indices.tolist(), (best.values - total).tolist(), strict=True))
        top.setdefault(token, float(logits[token] - total))
    return NextToken(token, tuple(top.items()))


def _alone(tokens: list[int], logprobs: list[float]):
    return ((token, ((token, logprob),)) for token, logprob in zip(tokens, logprobs, strict=True))


def _as_float(tokens: Tensor) -> Tensor:
    """Numbers of tokens in the bits of float32, so that they travel with others; floats hold whole numbers up to 2^24 alone."""
    return tokens.to(torch.int32).view(torch.float32)


def _as_int(bits: Tensor) -> list[int]:
    return bits.contiguous().view(torch.int32).tolist()
