"""The scalar reward of ARGS: a sequence classifier reads the prefix with each candidate appended.

Khanov, Burapacheep, Li, "ARGS: Alignment as Reward-Guided Search", ICLR 2024 (arXiv 2402.01694), section 2. The published program
keeps k copies of the prefix's cache; here the k candidates are read in one row by tree attention.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from command.unexpected import Unexpected, is_ours, traceback_of
from pad.cached_model import CachedModel
from pad.prompts import Prompt
from pad.sequences import Sequences

CHECKED_TOKENS = 8


def _head(classifier: PreTrainedModel) -> torch.nn.Module | None:
    """The linear layer on top of a classifier with a causal backbone; None for other kinds."""
    return getattr(classifier, "score", None)


class TreeReward:
    """One forward pass of k positions in one row per step and sequence; the chosen candidate's states stay in the cache."""

    def __init__(
        self, classifier: PreTrainedModel, chunk: int | None = None, output: int = 0, states: Sequences | None = None
    ):
        """
        Args:
            chunk: the most candidates read at once; None for all.
            output: which of the classifier's is the reward.
            states: of the classifier's backbone; by transformers' own passes if not given.
        """
        self.device, self.chunk, self.output = classifier.device, chunk, output
        self.states = states or CachedModel(classifier.base_model)
        self._score = _head(classifier)

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Read the prompts."""
        self.states.prefill([prompt.ids for prompt in prompts])

    def rewards(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """Rewards (B, k), float32, of the candidates (B, k)."""
        chunks = candidates.split(self.chunk or candidates.shape[1], dim=1)
        found = [self._score(self.states.branch(chunk))[..., self.output] for chunk in chunks]
        return torch.cat(found, 1).float().to(logits.device)

    def advance(self, tokens: Tensor, ranks: Tensor) -> None:
        """Go on with the chosen candidates: their ranks (B,)."""
        self.states.keep(ranks[:, None])

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences."""
        self.states.select(rows)


class CopiesReward(TreeReward):
    """A copy of the prefix's cache for every candidate, as in the published program: for models without tree attention."""

    def rewards(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """As TreeReward's."""
        candidates = candidates.to(self.device)
        found, self._copies = [], None
        for chunk in candidates.split(self.chunk or candidates.shape[1], dim=1):
            copies = self.states.repeated(chunk.shape[1])
            found.append(self._score(copies.step(chunk.reshape(-1)))[:, self.output].view(chunk.shape))
            self._copies = copies if chunk.shape == candidates.shape else None
        return torch.cat(found, 1).float().to(logits.device)

    def advance(self, tokens: Tensor, ranks: Tensor) -> None:
        """As TreeReward's; after candidates in chunks the chosen ones are read once more."""
        if self._copies is None:
            self.states.step(tokens)
            return
        ranks = ranks.to(self.device)
        k = len(self._copies.lengths) // len(ranks)
        self._copies.select(torch.arange(len(ranks), device=self.device) * k + ranks)
        self.states, self._copies = self._copies, None

    def select(self, rows: Tensor) -> None:
        """As TreeReward's."""
        rows = rows.to(self.device)
        if self._copies is not None:
            k = len(self._copies.lengths) // len(self.states.lengths)
            self._copies.select((rows[:, None] * k + torch.arange(k, device=self.device)).reshape(-1))
        self.states.select(rows)


class UncachedReward:
    """The classifier's own forward pass over the whole text for every candidate: for encoders, which cannot use a cache.

    `kind`, `passes` and `tokens` are as those of Sequences, in whose place it stands.
    """

    kind = CachedModel.kind

    def __init__(self, classifier: PreTrainedModel, chunk: int | None = None, output: int = 0):
        """As TreeReward's."""
        self.classifier, self.device, self.chunk, self.output = classifier, classifier.device, chunk, output
        self._pad = classifier.config.pad_token_id
        self.states, self.passes, self.tokens = self, 0, 0
        self._sequences: list[list[int]] = []

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Take the prompts."""
        self._sequences = [list(prompt.ids) for prompt in prompts]

    def rewards(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """As TreeReward's."""
        pairs = zip(self._sequences, candidates.tolist(), strict=True)
        texts = [[*sequence, token] for sequence, tokens in pairs for token in tokens]
        # Without a pad token the classifier takes one text at a time.
        size = 1 if self._pad is None else self.chunk or candidates.shape[1]
        found = [self._values(texts[i : i + size]) for i in range(0, len(texts), size)]
        return torch.cat(found).view(candidates.shape).float().to(logits.device)

    def _values(self, texts: list[list[int]]) -> Tensor:
        width = max(map(len, texts))
        ids = torch.tensor([text + [self._pad or 0] * (width - len(text)) for text in texts], device=self.device)
        mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=self.device)
        self.passes, self.tokens = self.passes + 1, self.tokens + ids.numel()
        return self.classifier(input_ids=ids, attention_mask=mask).logits[:, self.output]

    def advance(self, tokens: Tensor, ranks: Tensor) -> None:
        """Append the chosen tokens (B,)."""
        for sequence, token in zip(self._sequences, tokens.tolist(), strict=True):
            sequence.append(token)

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences."""
        self._sequences = [self._sequences[row] for row in rows.tolist()]


def make_scalar_reward(
    classifier: PreTrainedModel,
    make: Callable[[PreTrainedModel], Sequences],
    say: Callable[[str], None] = lambda _: None,
    output: int = 0,
) -> "TreeReward | UncachedReward":
    """The reward of a classifier: by trees of an engine if `make` finds one for its backbone; else see `choose_scalar_reward`."""
    if _head(classifier) is not None and _reads_last_state(classifier, output):
        states = make(classifier.base_model)
        if states.kind != CachedModel.kind:
            return TreeReward(classifier, output=output, states=states)
    return choose_scalar_reward(classifier, say, output)(classifier, output=output)


def choose_scalar_reward(
    classifier: PreTrainedModel, say: Callable[[str], None] = lambda _: None, output: int = 0
) -> type:
    """The fastest of TreeReward, CopiesReward and UncachedReward that gives the classifier's own values on a short text.

    `say` is told where it is not the first. `output`: the one of the classifier's that is the reward.
    """
    for kind in (TreeReward, CopiesReward):
        if _head(classifier) is not None and _agrees(kind, classifier, output, say):
            if kind is CopiesReward:
                say("the reward model has no tree attention: its cache is copied for every candidate, which is slower")
            return kind
    say("the reward model cannot use a cache: it reads the whole text for every candidate, which is slow")
    return UncachedReward


@torch.inference_mode()
def _reads_last_state(classifier: PreTrainedModel, output: int) -> bool:
    """Whether the head alone, at the backbone's last hidden state, gives what the classifier gives."""
    prefix, candidates = _short_text(classifier)
    text = torch.tensor([prefix + candidates], device=classifier.device)
    try:
        ours = _head(classifier)(classifier.base_model(text)[0][:, -1])[:, output]
        own = classifier(input_ids=text).logits[:, output]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return ours.shape == own.shape and _close(ours, own)


def _short_text(classifier: PreTrainedModel) -> tuple[list[int], list[int]]:
    """Token ids, none of them special, of the beginning of a text and of what may follow."""
    special = {classifier.config.pad_token_id, classifier.config.eos_token_id}
    ids = [i for i in range(3 * CHECKED_TOKENS) if i not in special][:CHECKED_TOKENS]
    return ids[:-3], ids[-3:]


def _close(ours: Tensor, own: Tensor) -> bool:
    tolerance = 1e-3 if own.dtype == torch.float32 else 5e-2
    own = own.float()
    return torch.allclose(ours.to(own), own, rtol=tolerance, atol=tolerance * (own.abs().max().item() + 0.1))


@torch.inference_mode()
def _agrees(kind: type, classifier: PreTrainedModel, output: int, say: Callable[[str], None]) -> bool:
    prefix, candidates = _short_text(classifier)
    device = classifier.device
    texts = [torch.tensor([[*prefix, 9, candidate]], device=device) for candidate in candidates]
    own = [classifier(input_ids=text).logits[0, output] for text in texts]
    reward = kind(classifier, output=output)
    try:
        reward.start([Prompt(0, "", "", tuple(prefix))])
        tokens = torch.tensor([[9, *candidates]], device=device)
        reward.rewards(tokens, tokens)
        reward.advance(tokens[:, 0], torch.zeros(1, dtype=torch.long, device=device))
        ours = reward.rewards(tokens[:, 1:], tokens)[0]
    except (
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # what a backbone says to a mask it does not know
        if is_ours(error):
            Unexpected(say).add(traceback_of(error))
        return False
    return _close(ours, torch.stack(own))
