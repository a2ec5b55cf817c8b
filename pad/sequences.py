"""Sequences of a causal transformer that grow together, and how their passes are computed: by an engine, or by transformers itself.

Shapes in this folder: B sequences, T tokens so far, k candidates, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from command.unexpected import is_ours, plain, told_with
from language_models.interface import DeviceLostError, ModelError
from language_models.local.engines import make_engine
from language_models.local.segments import MOST_IN_TREE
from language_models.local.told import set_up_notes
from language_models.local.windows import context_length
from pad.cached_model import CachedModel
from pad.engine_sequences import EngineSequences

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Sequences(Protocol):
    """A causal transformer and B sequences of it, one row each. Outputs (logits, or hidden states of a headless model) are on its
    device and good until the next pass; tokens and numbers come from the CPU, where no pass has to be waited for.

    `kind` says how passes are computed, `passes` and `tokens` count them and what went in, `report` is for the file beside the
    results. `drops_rows_freely`: `select` copies nothing.
    """

    device: torch.device
    dtype: torch.dtype
    kind: str
    passes: int
    tokens: int
    report: dict
    rows: int
    drops_rows_freely: bool

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Begin with B prompts (token ids); the output at their last tokens, (B, V) or (B, H)."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append a token (B,) to each sequence; the output at it, (B, V) or (B, H)."""

    def branch(self, tokens: Tensor, parents: Sequence[int] | None = None) -> Tensor:
        """Read m continuations of each sequence side by side (tree attention); outputs (B, m, H).

        They can be kept until the next step; more can be read before.

        Args:
            tokens: (B, m). Each sees its sequence and itself, not the others.
            parents: for each token the number of the token before it, which it sees too, or -1 where it follows the sequence.
        """

    def keep(self, chosen: Tensor) -> None:
        """Make branches part of their sequences: chosen (B, d), numbers of branch tokens in their order; others are dropped."""

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences: their row numbers."""

    def alone(self, number: int) -> "Sequences":
        """Room for one sequence by itself, beside those of other numbers."""


@dataclass
class SequenceMaker:
    """Makes the sequences of a run's models.

    Args:
        engine: "graphs" or "packed", see language_models.local.engines; "transformers": its own passes and cache; or "auto".
        slots: the most sequences at a time.
        longest: tokens of the longest text.
        say: told in a line where an engine is not used.
    """

    engine: str
    slots: int
    longest: int
    say: Callable[[str], None]
    _attention: dict[int, str] = field(default_factory=dict)  # that models had before an engine's

    def make(
        self,
        network: "PreTrainedModel",
        role: str,
        *,
        rows: int = 1,
        trees: bool = False,
        longest: int | None = None,
    ) -> Sequences:
        """Sequences of a model, once for each set of them that is needed.

        Args:
            role: what it is called in messages.
            rows: how many rows there are for each of the run's sequences.
            trees: whether branches will be read.
            longest: tokens of its longest text, where that is another.

        Raises:
            ModelError: a fault of this program keeps it from being checked, or a second engine of one model cannot be made.
        """
        kind = self.engine if self.engine != "auto" else self._best(network, role)
        if kind == "transformers":
            return CachedModel(network)
        again = id(network) in self._attention
        before = self._attention.setdefault(id(network), network.config._attn_implementation)
        if again:  # a first engine has changed it, and the check needs the model's own
            network.set_attn_implementation(before)
        most, why = min(longest or self.longest, context_length(network)), ""
        options = {"slots": rows * self.slots, "longest": most + MOST_IN_TREE, "kind": kind}
        try:
            engine = make_engine(network, **options, expected_tokens=min(most, self.longest) + MOST_IN_TREE)
            if engine.kind == kind:
                found = EngineSequences(engine, most - 1)
                if not trees or reads_branches(found):
                    engine.reset_counts()
                    for line in set_up_notes(role, engine, self.engine):
                        self.say(line)
                    return found
            # Packed passes in place of graphs are slower than transformers' own for several sequences.
            why = engine.fallbacks[-1] if engine.fallbacks else why
            engine.give_up()
        except DeviceLostError:
            raise
        except torch.OutOfMemoryError:
            why = "there is no memory for it"
        except (ModelError, RuntimeError) as error:
            if is_ours(error):
                raise told_with(ModelError(f"{role} cannot be run by an engine ({plain(error)})"), error) from None
        why = why or "it does not compute what the model computes by itself"
        if again:
            raise ModelError(f"{role} cannot be run by the engine {kind!r} ({why}); name --engine transformers")
        network.set_attn_implementation(self._attention.pop(id(network)))
        self.say(f"{role} is run by transformers' own passes, not by the engine {kind!r}: {why}")
        return CachedModel(network)

    def _best(self, network: "PreTrainedModel", role: str) -> str:
        if network.device.type != "cuda":
            return "transformers"  # as fast there, or faster: benchmarks/guided_decoding.py
        if getattr(network, "hf_quantizer", None) is not None:
            self.say(f"{role} is quantised: transformers' own passes are used (--engine graphs tries CUDA graphs)")
            return "transformers"
        return "graphs"


@torch.inference_mode()
def reads_branches(states: Sequences) -> bool:
    """Whether tree attention gives what a headless model gives for each branch by itself.

    Raises:
        ModelError: a fault of this program keeps it from being checked.
    """
    prefix, tokens, parents = [2, 3, 4], [5, 6, 7], [-1, -1, 1]
    states.prefill([prefix])
    try:
        ours = states.branch(torch.tensor([tokens]), parents)[0].clone()
    except (RuntimeError, ValueError, TypeError) as error:  # whatever a model says to a mask that it does not know
        if is_ours(error):
            raise told_with(ModelError(f"tree attention cannot be checked ({plain(error)})"), error) from None
        return False
    own = torch.cat([states.prefill([[*prefix, *more]]).clone() for more in ([5], [6], [6, 7])])
    tolerance = 1e-3 if ours.dtype == torch.float32 else 5e-2
    return bool(torch.allclose(ours, own, rtol=tolerance, atol=tolerance * own.abs().max().item()))
