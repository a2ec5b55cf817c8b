"""The decoding loop of PAD and ARGS: among the base LM's top k tokens the one with the best logit + w x reward."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from language_models.interface import ModelError
from pad.prompts import Prompt
from pad.sequences import Sequences

if TYPE_CHECKING:
    from pad.config import DecodingConfig  # needs pydantic, which the loop does not
    from pad.stop_texts import StopTexts


class Reward(Protocol):
    """What rewards candidates. B shrinks as answers end: `select` tells which sequences go on.

    Candidates and rewards are on the base LM's device; chosen tokens, ranks and rows are on the CPU.
    """

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Read the prompts of B sequences."""

    def rewards(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """Rewards (B, k), float32, of candidates (B, k) with their base-LM logits (B, k), where those are."""

    def advance(self, tokens: Tensor, ranks: Tensor) -> None:
        """Append the chosen tokens (B,), whose numbers among the candidates are `ranks` (B,)."""

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences: their row numbers."""


@dataclass
class Answer:
    """One answer: its tokens without the one that ended it, and whether that was there ("stop") or not ("length")."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: str = "length"


def generator_for(seed: int, config_index: int | str, prompt_index: int, sample: int = 0) -> torch.Generator:
    """The random numbers of one answer: they depend on nothing else, so batches and resumed runs draw the same."""
    name = f"{seed}/{config_index}/{prompt_index}{f'/{sample}' if sample else ''}".encode()
    number = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


@torch.inference_mode()
def decode(
    lm: Sequences,
    reward: Reward | None,
    prompts: Sequence[Prompt],
    config: "DecodingConfig",
    *,
    max_new: Sequence[int],
    stop_ids: frozenset[int] = frozenset(),
    vocabulary: int | None = None,
    generators: Sequence[torch.Generator] = (),
    stops: "Sequence[StopTexts]" = (),
) -> list[Answer]:
    """Answer prompts together, with one forward pass of the base LM per token.

    Args:
        reward: None for the base LM alone; not asked when the weight is 0.
        max_new: for each prompt the most tokens to write, at least 1.
        stop_ids: token ids that end an answer.
        vocabulary: only ids below it are candidates (some models' output matrices are padded).
        generators: for each prompt the source of random numbers, if the configuration samples.
        stops: for each prompt what looks for texts that end its answer, if there are any; the tokens of such a text are kept.

    Raises:
        ModelError: the scores are not numbers (half precision has overflowed).
    """
    answers = [Answer() for _ in prompts]
    guided = reward is not None and config.rm_weight != 0
    logits = lm.prefill([prompt.ids for prompt in prompts])
    if guided:
        reward.start(prompts)
    rows = list(range(len(prompts)))  # which prompt stands in each row of the caches
    alive = set(rows)
    while True:
        scores, candidates = logits[:, :vocabulary].topk(config.topk, dim=-1)
        scores = scores.float()
        if guided:
            scores = scores + config.rm_weight * reward.rewards(candidates, scores)
        scores, candidates = _on_the_cpu(scores, candidates)
        ranks = _sampled(scores, config, [generators[row] for row in rows], rows, alive) if config.samples else None
        # Among equals argmax takes the first: the candidate that the base LM ranks highest.
        ranks = scores.argmax(-1) if ranks is None else ranks
        tokens, best = (found.gather(1, ranks[:, None])[:, 0] for found in (candidates, scores))
        for row, token, score in zip(rows, tokens.tolist(), best.tolist(), strict=True):
            if row not in alive:
                continue
            if score != score:
                raise ModelError("the scores of the candidates are not numbers; try --dtype bfloat16 or float32")
            if token in stop_ids:
                answers[row].finish_reason = "stop"
                alive.discard(row)
                continue
            answers[row].tokens.append(token)
            if stops and stops[row].found_in(token):
                answers[row].finish_reason = "stop"
                alive.discard(row)
            elif len(answers[row].tokens) == max_new[row]:
                alive.discard(row)
        if not alive:
            return answers
        # Answered rows run along until half of them are, where selecting rows copies the caches. Their order is kept.
        living = [number for number, row in enumerate(rows) if row in alive]
        if 2 * len(living) <= len(rows) or (lm.drops_rows_freely and len(living) < len(rows)):
            kept = torch.tensor(living)
            lm.select(kept)
            if guided:
                reward.select(kept)
            tokens, ranks, rows = tokens[kept], ranks[kept], [rows[number] for number in living]
        logits = lm.step(tokens)
        if guided:
            reward.advance(tokens, ranks)


def _on_the_cpu(scores: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, k), float32, and candidates (B, k), token ids, by one transfer: it waits for the passes, so there is no other."""
    if scores.device.type == "cpu":
        return scores, candidates
    if scores.device.type == "mps":  # knows no float64
        return scores.cpu(), candidates.cpu()
    both = torch.stack([scores.double(), candidates.double()]).cpu()  # exact for both
    return both[0].float(), both[1].long()


def _sampled(
    scores: Tensor, config: "DecodingConfig", generators: list[torch.Generator], rows: list[int], alive: set[int]
) -> Tensor:
    """Ranks (B,) drawn by softmax(scores / temperature), each row with its own random numbers; all on the CPU."""
    # Differences from the best: divided by a temperature near 0 the scores themselves would overflow.
    below = (scores - scores.amax(-1, keepdim=True)).double()
    probabilities = torch.softmax(below / config.temperature, -1).float()
    if not torch.isfinite(probabilities).all():
        raise ModelError("the scores of the candidates are not numbers; try --dtype bfloat16 or float32")
    drawn = [
        torch.multinomial(p, 1, generator=generator) if row in alive else torch.zeros(1, dtype=torch.long)
        for p, generator, row in zip(probabilities, generators, rows, strict=True)
    ]
    return torch.cat(drawn)
