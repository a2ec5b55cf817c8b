"""The implicit reward of PAD: log-probabilities of a preference-tuned language model, relative to a reference, at the candidates.

Chen et al., "PAD: Personalized Alignment of LLMs at Decoding-time", ICLR 2025 (arXiv 2410.04070), section 3; DPO's identity:
Rafailov et al. 2023 (arXiv 2305.18290).
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from language_models.interface import ModelError
from pad.cached_model import CachedModel
from pad.prompts import Prompt
from pad.sequences import Sequences

if TYPE_CHECKING:
    from peft import PeftModel

CHECKED_TOKENS = 6


class CandidateLogits:
    """A language model that gives the logits of candidates alone: no tensor of the vocabulary's size per step.

    Args:
        model: a causal LM.
        value_head: the preference head between the last hidden state and the output projection, if there is one.
        without: peft's model of an adapter in `model`, which computes without it.
    """

    def __init__(self, model: PreTrainedModel, value_head: nn.Linear | None = None, without: "PeftModel | None" = None):
        self.model, self.value_head, self._without = model, value_head, without
        self.device = model.device
        self._hidden: Tensor | None = None  # (B, H), or all logits (B, V) of a model that does not project linearly
        self.projects = self._projection_is_linear()
        if value_head is not None and not self.projects:
            raise ModelError(
                f"{model.config.model_type} scales its logits in its own way, so a preference head cannot be used"
            )
        self.network = model.base_model if self.projects else model
        self.states: Sequences = CachedModel(self.network)

    def use(self, make: Callable[[PreTrainedModel], Sequences]) -> None:
        """Have the passes computed otherwise than by transformers itself, with the adapter as it is in them.

        The model's own forward pass may not be used after this, so all others that look at it come first.
        """
        with self._adapter():
            self.states = make(self.network)

    def start(self, prompts: Sequence[Sequence[int]]) -> None:
        """Read prompts, as token ids."""
        with self._adapter():
            self._hidden = self.states.prefill(prompts)

    def advance(self, tokens: Tensor) -> None:
        """Append a token (B,) to each sequence."""
        with self._adapter():
            self._hidden = self.states.step(tokens)

    def logits(self, candidates: Tensor) -> Tensor:
        """Next-token logits (B, k), float32, of the candidates (B, k)."""
        with self._adapter():
            return self._project(self._hidden, candidates.to(self.device)).float()

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences."""
        self.states.select(rows)
        self._hidden = self._hidden[rows.to(self.device)]

    def _project(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        if not self.projects:
            return hidden.gather(-1, candidates)
        if self.value_head is not None:
            hidden = self.value_head(hidden)
        output = self.model.get_output_embeddings()
        logits = torch.einsum("bh,bkh->bk", hidden, output.weight[candidates])
        return logits if output.bias is None else logits + output.bias[candidates]

    def project_all(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of all tokens at hidden states (..., H)."""
        return self.model.get_output_embeddings()(hidden if self.value_head is None else self.value_head(hidden))

    def _projection_is_linear(self) -> bool:
        """Whether rows of the output matrix give the model's own logits; some models scale or cap them."""
        self.projects = True
        output = self.model.get_output_embeddings()
        if not isinstance(getattr(output, "weight", None), Tensor) or not hasattr(output, "bias"):
            return False
        ids = torch.arange(CHECKED_TOKENS, device=self.device)[None]
        with torch.inference_mode(), self._adapter():
            own = self.model(input_ids=ids).logits[0, -1, :CHECKED_TOKENS].float()
            hidden = self.model.base_model(input_ids=ids)[0][:, -1]
            head, self.value_head = self.value_head, None
            ours = self._project(hidden, ids)[0].float()
            self.value_head = head
        return bool(torch.allclose(own, ours, rtol=1e-2, atol=1e-2 * own.abs().max().item() + 1e-4))

    def _adapter(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self._without is None else self._without.disable_adapter()


class ImplicitReward:
    """r_i = log_softmax_k(q)_i - log_softmax_k(reference)_i, both softmaxes over the k candidates.

    Args:
        policy: the reward model.
        reference: "llm" (the base LM's logits: the released program's), "none" (no second term), "self" (the reward model without
            the preference text, in the same forward pass), or another model's CandidateLogits (its DPO reference).
    """

    def __init__(self, policy: CandidateLogits, reference: "str | CandidateLogits" = "llm"):
        self.policy = policy
        self.reference = reference
        self._both = reference == "self"

    def start(self, prompts: Sequence[Prompt]) -> None:
        """Read the prompts; with the reference "self" also those without the preference text."""
        ids = [prompt.ids for prompt in prompts]
        self.policy.start(ids + [prompt.plain_ids for prompt in prompts] if self._both else ids)
        if isinstance(self.reference, CandidateLogits):
            self.reference.start(ids)

    def rewards(self, candidates: Tensor, logits: Tensor) -> Tensor:
        """Rewards (B, k), float32, of the candidates (B, k), whose base-LM logits are (B, k) too."""
        log_softmax = torch.log_softmax
        if self._both:
            both = self.policy.logits(candidates.repeat(2, 1)).to(logits.device)
            with_preference, without = log_softmax(both, -1).chunk(2)
            return with_preference - without
        mine = log_softmax(self.policy.logits(candidates).to(logits.device), -1)
        if self.reference == "none":
            return mine
        if self.reference == "llm":
            return mine - log_softmax(logits, -1)
        return mine - log_softmax(self.reference.logits(candidates).to(logits.device), -1)

    def advance(self, tokens: Tensor, ranks: Tensor) -> None:
        """Append the chosen tokens (B,)."""
        self.policy.advance(tokens.repeat(2) if self._both else tokens)
        if isinstance(self.reference, CandidateLogits):
            self.reference.advance(tokens)

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences."""
        if self._both:
            rows = torch.cat([rows, rows + self.policy.states.rows // 2])
        self.policy.select(rows)
        if isinstance(self.reference, CandidateLogits):
            self.reference.select(rows)
