"""An implicit reward from a reward model with another tokenizer than the base LM's: text is the meeting point.

A candidate's log-probability is the sum over the reward model's tokens of the text that it adds. All candidates' tokens are
read in one forward pass per step and sequence, as a tree.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from language_models.interface import ModelError
from pad.implicit_reward import CandidateLogits
from pad.prompts import Prompt, decode_answer
from pad.sequences import reads_branches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a tokenizer shows of a character whose bytes are not all there


class CrossTokenizerReward:
    """r_i = log p_RM(text of candidate i) - logit of candidate i (reference "llm") or without the second term ("none").

    A candidate that adds no text (part of a character, a special token) gets the mean reward of the others: no preference. One that
    ends the answer is the reward model's own end.

    Args:
        policy: the reward model.
        lm_tokenizer, rm_tokenizer: of the base LM and of the reward model.
        lm_ends, rm_ends: token ids that end an answer, for each.
        reference: "llm" or "none".

    Raises:
        ModelError: the reward model cannot read branches side by side.
    """

    def __init__(
        self,
        policy: CandidateLogits,
        lm_tokenizer: "PreTrainedTokenizerBase",
        rm_tokenizer: "PreTrainedTokenizerBase",
        lm_ends: frozenset[int],
        rm_ends: frozenset[int],
        reference: str = "llm",
    ):
        self.policy, self.lm_tokenizer, self.rm_tokenizer = policy, lm_tokenizer, rm_tokenizer
        self.lm_ends, self.rm_ends, self.reference = lm_ends, sorted(rm_ends), reference
        if not policy.projects or not reads_branches(policy.states):
            raise ModelError(
                "this reward model has no tree attention, which --allow_cross_tokenizer needs; choose another"
            )
        self._sequences: list[_Sequence] = []

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Read the prompts, each in the reward model's own tokens and template."""
        self._sequences = [_Sequence(self, prompt, number) for number, prompt in enumerate(prompts)]

    def rewards(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """Rewards (B, k), float32, of candidates (B, k) with logits (B, k)."""
        found = [
            sequence.rewards(row.tolist(), own.float().cpu() if self.reference == "llm" else torch.zeros(len(own)))
            for sequence, row, own in zip(self._sequences, candidates, logits, strict=True)
        ]
        return torch.stack(found).to(logits.device)

    def advance(self, tokens: Tensor, ranks: Tensor) -> None:
        """Append the chosen tokens (B,), candidates by their ranks (B,)."""
        for sequence, token, rank in zip(self._sequences, tokens.tolist(), ranks.tolist(), strict=True):
            sequence.advance(token, rank)

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences."""
        self._sequences = [self._sequences[row] for row in rows.tolist()]


class _Sequence:
    """One answer: its base-LM tokens, the text of them that the reward model has read, and its cache."""

    def __init__(self, reward: CrossTokenizerReward, prompt: Prompt, number: int):
        self.reward, self.prompt = reward, prompt
        self.tokens: list[int] = []
        self.read = ""
        self.states = reward.policy.states.alone(number)
        self.hidden = self.states.prefill([prompt.rm_ids]).clone()  # (1, H), at the last token that was read
        self.paths: list[list[int]] = []  # for each candidate the numbers of its tokens in the tree
        self.texts: list[str] = []
        self.branches: Tensor | None = None  # (1, m, H)

    def pieces(self, candidate: int) -> tuple[list[int], str]:
        """The reward model's tokens that a candidate adds, and the text of the answer that they make."""
        if candidate in self.reward.lm_ends and self.reward.rm_ends:
            return self.reward.rm_ends[:1], self.read
        text = decode_answer(self.reward.lm_tokenizer, self.prompt.ids, [*self.tokens, candidate])
        if text.endswith(UNFINISHED):
            return [], self.read
        added = text[len(self.read) :]
        return self.reward.rm_tokenizer(added, add_special_tokens=False)["input_ids"] if added else [], text

    def rewards(self, candidates: list[int], logits: Tensor) -> Tensor:
        nodes: dict[tuple[int, ...], int] = {}  # the beginning of a chain -> its last token's number
        tokens, parents, self.paths, self.texts = [], [], [], []
        for candidate in candidates:
            chain, text = self.pieces(candidate)
            for end in range(1, len(chain) + 1):
                if tuple(chain[:end]) not in nodes:
                    nodes[tuple(chain[:end])] = len(tokens)
                    tokens.append(chain[end - 1])
                    parents.append(nodes.get(tuple(chain[: end - 1]), -1))
            self.paths.append([nodes[tuple(chain[:end])] for end in range(1, len(chain) + 1)])
            self.texts.append(text)
        if not tokens:
            return torch.zeros(len(candidates))
        self.branches = self.states.branch(torch.tensor([tokens]), parents)
        followed = sorted(set(parents))  # -1, the sequence itself, comes first
        states = torch.cat([self.hidden[:, None], self.branches], 1)[0, [parent + 1 for parent in followed]]
        log_probs = torch.log_softmax(self.reward.policy.project_all(states).float(), -1)
        rows = torch.tensor([followed.index(parent) for parent in parents], device=log_probs.device)
        each = log_probs[rows, torch.tensor(tokens, device=log_probs.device)].cpu()
        found = torch.tensor([each[path].sum().item() if path else torch.nan for path in self.paths]) - logits
        return found.nan_to_num(nan=found.nanmean().item())

    def advance(self, token: int, rank: int) -> None:
        path = self.paths[rank]
        self.tokens.append(token)
        if self.branches is not None:
            self.states.keep(torch.tensor([path], dtype=torch.long))
        if path:
            self.hidden, self.read = self.branches[:, path[-1]].clone(), self.texts[rank]
        self.branches = None
