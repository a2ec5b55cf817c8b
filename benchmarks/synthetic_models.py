"""The models of a benchmark: synthetic ones, built when they are asked for, as transformers has them or in an engine."""

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from markov_pair import (
    CONTEXT_LENGTH,
    END,
    VOCABULARY,
    Chances,
    make_chains,
    make_prompts,
    make_tokenizer,
    markov_classifier,
    markov_model,
    sizes_of,
)
from measurements import Device
from priced_passes import PricedEngine, Prices, priced_engines, priced_model

from language_models.local.model import LocalModel
from nudging import ROUNDS_AHEAD_RIDING
from utils import count_tokens_by

WARM_UP_SEED, SEED = 99, 5
TEMPLATE_TOKENS = 40  # of a nudging prompt, and of proposals beyond an answer


@dataclass
class Loaded:
    """Models in one kind of engine, for so many answers at a time; `small` is the third one of proxy tuning."""

    kind: str
    at_a_time: int
    base: LocalModel
    nudging: LocalModel
    small: LocalModel | None = None

    @property
    def models(self) -> list[LocalModel]:
        """All that are there."""
        return [model for model in (self.base, self.nudging, self.small) if model is not None]


class SyntheticModels:
    """Builds models by their roles: base, nudging, small (a small base model), reward (of PAD) and classifier (of ARGS).

    An engine changes a model for good, so that models are built anew where they are wanted in another way; those that were there
    before are dropped first. `prices`: for the roles base, nudging and small, of passes that are not computed.
    """

    def __init__(self, options: argparse.Namespace, device: Device, dtype: torch.dtype, prices: dict[str, Prices]):
        """Raises ValueError for a shape that is none."""
        self.options, self.device, self.dtype, self.prices = options, device, dtype, prices
        self.sizes = {
            "base": sizes_of(options.base),
            "nudging": sizes_of(options.nudging),
            "small": sizes_of(options.nudging),
            "reward": sizes_of(options.reward or options.base),
            "classifier": sizes_of(options.reward or options.base),
        }
        self.tokenizer, self.words = make_tokenizer()
        count_tokens_by(self.encode)
        chances = Chances(options.uncertain, options.agree, options.agree_uncertain)
        base, nudging, small = make_chains(len(self.words), chances)
        self.chains = {"base": base, "nudging": nudging, "small": small, "reward": nudging}
        self._plain: dict[str, torch.nn.Module] = {}
        self._loaded: Loaded | None = None

    @property
    def first_word(self) -> int:
        """The id of the first word; those that follow are words too."""
        return VOCABULARY - len(self.words)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without the beginning of sequence."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def ids(self, number: int, seed: int = 0) -> list[int]:
        """Tokens of a text, some number of words."""
        return [self.first_word + (7 * i + 11 + 131 * seed) % len(self.words) for i in range(number)]

    def prompts(self, number: int, seed: int = SEED) -> list[tuple[str, str]]:
        """Prompts for base and nudging model."""
        return make_prompts(self.words, number, self.options.prompt_tokens, seed)

    def drop(self) -> None:
        """Give all memory back."""
        self._plain, self._loaded = {}, None
        gc.collect()
        if self.device.cuda:
            torch.cuda.empty_cache()

    def plain(self, role: str):
        """A model as transformers has it, with its own attention; those that are there stay."""
        if self._loaded is not None:
            self.drop()
        if role not in self._plain:
            self._plain[role] = self.build(role)
        self._plain[role].set_attn_implementation("sdpa")
        return self._plain[role]

    def build(self, role: str):
        """A new model, which is the caller's."""
        sizes, device = self.sizes[role], self.device.device
        if role == "classifier":
            return markov_classifier(sizes, device, self.dtype)
        return markov_model(sizes, self.chains[role], device, self.dtype, seed=1 + list(self.sizes).index(role))

    def loaded(self, kind: str, at_a_time: int, *, proxy: bool = False) -> Loaded:
        """Base and nudging model in an engine; `proxy`: and the small base model."""
        found = self._loaded
        if found is None or (found.kind, found.at_a_time) != (kind, at_a_time):
            found = None
            self.drop()
            # The nudging model drafts for the base model besides, and has room for the rests of proposals that ride along.
            riders = ROUNDS_AHEAD_RIDING * at_a_time
            if kind == PricedEngine.kind:
                nudging = self._local("nudging", kind, 2 * at_a_time + riders)
            else:
                nudging = self._local("nudging", kind, 2 * at_a_time, riders=riders)
            base = self._local("base", kind, at_a_time, drafter=nudging)
            found = self._loaded = Loaded(kind, at_a_time, base, nudging)
        if proxy and found.small is None:
            found.small = self._local("small", kind, at_a_time)
        return found

    def _local(
        self, role: str, kind: str, samples: int, drafter: LocalModel | None = None, riders: int = 0
    ) -> LocalModel:
        options = {
            "end_ids": frozenset({END}),
            "context_length": CONTEXT_LENGTH,
            "samples": samples,
            "drafter": drafter,
            "riders": riders,
        }
        options["expected_tokens"] = self.options.prompt_tokens + self.options.tokens + TEMPLATE_TOKENS
        if kind == PricedEngine.kind:
            with priced_engines():
                return LocalModel(role, priced_model(self.chains[role], self.prices[role]), self.tokenizer, **options)
        return LocalModel(role, self.build(role), self.tokenizer, engine=kind, **options)

    def by_role(self, describe: Callable[[str], dict]) -> dict[str, dict]:
        """Something of the base and of the nudging model."""
        return {role: describe(role) for role in ("base", "nudging")}
