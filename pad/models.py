"""The models of a run, loaded: the base LM, and for each configuration its reward."""

import functools
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from language_models.interface import ModelError
from language_models.local.blocked_weights import block_weights
from language_models.local.devices import gpus
from language_models.local.loading import eos_token_ids, load_model, load_with_adapter, pick_dtype
from language_models.local.vocabulary import GrowingText, Vocabulary
from pad.cached_model import CachedModel
from pad.config import DecodingConfig
from pad.cross_tokenizer import CrossTokenizerReward
from pad.decoding import Answer, Reward, decode, generator_for
from pad.dimension import described
from pad.implicit_reward import CandidateLogits, ImplicitReward
from pad.plan import Plan
from pad.prompts import Prompt
from pad.scalar_reward import make_scalar_reward
from pad.sequences import SequenceMaker, Sequences
from pad.settings import REFERENCES, CollectSettings
from pad.stop_texts import StopTexts
from pad.value_head import load_value_head

if TYPE_CHECKING:
    from peft import PeftModel

# What makes a reward, and the models whose passes it takes.
Rewarding = tuple[Callable[[DecodingConfig], Reward], dict[str, Sequences]]


@dataclass
class Models:
    """The base LM, a maker of rewards (None: no guidance), the token ids that end an answer, and whose passes are to be counted.

    `passes_of` has the base LM and what rewards by their names.
    """

    settings: CollectSettings
    plan: Plan
    lm: Sequences
    make_reward: Callable[[DecodingConfig], Reward] | None
    stop_ids: frozenset[int]
    passes_of: dict[str, Sequences]
    _told: set[str] = field(default_factory=set)

    @functools.cached_property
    def _texts(self) -> Vocabulary:
        return Vocabulary(self.plan.tokenizer, self.stop_ids)

    @property
    def dtype(self) -> torch.dtype:
        """The base LM's number format."""
        return self.lm.dtype

    def counts(self, since: dict[str, dict] | None = None) -> dict[str, dict]:
        """Of each model its forward passes and the tokens that went into them, so far or since then, and what computes it."""
        found = {}
        for name, states in self.passes_of.items():
            before = since[name] if since else {"passes": 0, "tokens": 0}
            found[name] = {
                count: getattr(states, count) - before[count] for count in ("passes", "tokens")
            } | states.report
        return found

    def new_fallbacks(self) -> list[str]:
        """What did not go as it should have in the engines' passes since this was asked last, a line each."""
        lines = [line for states in self.passes_of.values() for line in states.report.get("fallbacks", [])]
        new = [line for line in dict.fromkeys(lines) if line not in self._told]
        self._told.update(new)
        return new

    def answer(self, prompts: list[Prompt], config: DecodingConfig, number: int | str, seed: int) -> list[Answer]:
        """Answer prompts together; `number` is the configuration's (ModelError: no memory, scores that are no numbers)."""
        guided = self.make_reward is not None and config.rm_weight != 0
        try:
            return self._decode(prompts, config, number, seed, guided)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"out of GPU memory ({str(error).splitlines()[0]}); lower --batch_size, or try --load_in_4bit"
            ) from None
        except ModelError as error:  # an engine's names the option of run_api.py for the same
            error.args = tuple(str(told).replace("--num_threads", "--batch_size") for told in error.args)
            raise

    def _decode(
        self, prompts: list[Prompt], config: DecodingConfig, number: int | str, seed: int, guided: bool
    ) -> list[Answer]:
        return decode(
            self.lm,
            self.make_reward(config) if guided else None,
            prompts,
            config,
            max_new=[min(self.settings.max_new_token, self.plan.room(prompt)) for prompt in prompts],
            stop_ids=self.stop_ids,
            vocabulary=self.plan.vocabulary,
            generators=[generator_for(seed, number, *prompt.key) for prompt in prompts] if config.samples else (),
            stops=[StopTexts(self.settings.stop, GrowingText(self._texts, list(prompt.ids))) for prompt in prompts]
            if self.settings.stop
            else (),
        )


def load_models(settings: CollectSettings, plan: Plan, longest: int, say: Callable[[str], None]) -> Models:
    """Load what the plan needs.

    Args:
        longest: tokens of the longest prompt with its answer.

    Raises:
        OptionError, ModelError: a model cannot be loaded.
    """
    maker = SequenceMaker(settings.engine, settings.batch_size, longest, say)
    spread = settings.device_map == "auto" and len(gpus()) > 1
    llm, _ = _causal(settings, settings.llm, plan.llm_device, device_map="auto" if spread else None)
    if not spread:
        block_weights(llm)
    stop_ids = eos_token_ids(llm, plan.tokenizer)
    make_reward, passes_of = None, {}
    if plan.kind == "scalar":
        make_reward, passes_of = _scalar(settings, plan, maker, say)
    elif plan.kind == "implicit":
        make_reward, passes_of = _implicit(settings, plan, stop_ids, maker, say)
    # Over several GPUs the parts are brought together by transformers' own passes alone.
    lm = CachedModel(llm) if spread else maker.make(llm, "the base LM")
    ends = frozenset() if settings.ignore_eos else stop_ids
    models = Models(settings, plan, lm, make_reward, ends, {"llm": lm} | passes_of)
    models.new_fallbacks()  # those of setting up have been told
    return models


def _causal(
    settings: CollectSettings, name: str, device: torch.device, device_map: str | None = None
) -> "tuple[PreTrainedModel, PeftModel | None]":
    options = {
        "device_map": device_map,
        "dtype": pick_dtype(settings.dtype, device),
        "load_in_4bit": settings.load_in_4bit,
    }
    return load_with_adapter("AutoModelForCausalLM", name, device=device, **options)


def _causal_reward(settings: CollectSettings, name: str, plan: Plan) -> "tuple[PreTrainedModel, PeftModel | None]":
    model, adapter = _causal(settings, name, plan.rm_device)
    block_weights(model, keep=model.get_output_embeddings())  # of which only the candidates' rows are read
    return model, adapter


def _scalar(settings: CollectSettings, plan: Plan, maker: SequenceMaker, say: Callable[[str], None]) -> Rewarding:
    dtype, name = pick_dtype(settings.dtype, plan.rm_device), "AutoModelForSequenceClassification"
    options = {"device": plan.rm_device, "dtype": dtype, "load_in_4bit": settings.load_in_4bit}
    classifier = load_model(name, settings.rm, **options)
    block_weights(classifier)
    output = plan.dimension or 0
    if plan.dimension is not None:
        say(f"{settings.rm}: {described(classifier.config, output)} is the reward")
    reward = make_scalar_reward(
        classifier, lambda network: maker.make(network, "the reward model", trees=True), say, output
    )

    def with_chunks(config: DecodingConfig) -> Reward:
        reward.chunk = config.chunk
        return reward

    return with_chunks, {"rm": reward.states}


def _implicit(
    settings: CollectSettings, plan: Plan, stop_ids: frozenset[int], maker: SequenceMaker, say: Callable[[str], None]
) -> Rewarding:
    rm, adapter = _causal_reward(settings, settings.rm, plan)
    head = load_value_head(settings.rm, rm, say)
    policy, role = CandidateLogits(rm, head), "the reward model"
    if plan.rm_tokenizer is not None:
        ends = eos_token_ids(rm, plan.rm_tokenizer)
        # In its own tokens an answer may be longer than in the base LM's.
        policy.use(lambda network: maker.make(network, role, trees=True, longest=plan.rm_context))
        cross = CrossTokenizerReward(policy, plan.tokenizer, plan.rm_tokenizer, stop_ids, ends, settings.ref)
        return lambda config: cross, {"rm": policy.states}
    reference = settings.ref
    if plan.adapter_reference:
        if adapter is None:
            raise ModelError(
                f"{settings.rm} was an adapter and is none any more: without its base model nothing is rewarded"
            )
        reference = CandidateLogits(rm, without=adapter)
        say("reference: the reward model without its adapter")
    elif reference not in REFERENCES:
        reference = CandidateLogits(_causal_reward(settings, settings.ref, plan)[0])
    policy.use(lambda network: maker.make(network, role, rows=2 if reference == "self" else 1))
    passes_of = {"rm": policy.states}
    if isinstance(reference, CandidateLogits):
        reference.use(lambda network: maker.make(network, "the reference"))
        passes_of["ref"] = reference.states
    return lambda config: ImplicitReward(policy, reference), passes_of


def peak_memory(devices: set[torch.device]) -> dict[str, float]:
    """The most memory in use so far, in GB: of each GPU what torch held, of this process what it held resident."""
    found = {str(d): torch.cuda.max_memory_allocated(d) / 1e9 for d in devices if d.type == "cuda"}
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return found | {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
