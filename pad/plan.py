"""What a run will do, found out before any weights are loaded: devices, tokenizers, kind of reward, lengths."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from command.errors import OptionError
from language_models.interface import ModelError
from language_models.local.loading import adapter_base, load_config, load_tokenizer, pick_device
from language_models.local.windows import config_length
from pad.dimension import is_armorm, is_classifier, output_of
from pad.prompts import Asked, Prompt, UnwritablePrompt, encode, same_vocabulary, writes_system_turns
from pad.settings import REFERENCES, CollectSettings
from pad.variants import Variant

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Plan:
    """Devices, tokenizers and limits of a run. `kind` is "implicit", "scalar", or None for the base LM alone."""

    llm_device: "torch.device"
    rm_device: "torch.device"
    tokenizer: "PreTrainedTokenizerBase"
    rm_tokenizer: "PreTrainedTokenizerBase | None"  # where it is another than the base LM's
    kind: str | None
    template: bool
    vocabulary: int  # of the candidates: the ids that all models know
    llm_vocabulary: int
    llm_context: int
    rm_context: int
    adapter_reference: bool  # the reward model's DPO reference is itself without its adapter
    dimension: int | None = None  # of a scalar reward model with several outputs, the one that guides
    system_turns: bool = False  # the chat template is used and writes them

    def prompts(self, settings: CollectSettings, variant: Variant, asked: list[Asked]) -> list[Prompt]:
        """The prompts of a file of answers, as the models read them, in order; each as often as it is answered.

        Raises:
            OptionError: not one of them can be written.
        """
        found = [self._prompt(settings, variant, index, one) for index, one in enumerate(asked)]
        if all(one.unwritable for one in found):
            raise OptionError(found[0].unwritable)
        return [replace(one, sample=sample) for one in found for sample in range(settings.answers)]

    def _prompt(self, settings: CollectSettings, variant: Variant, index: int, asked: Asked) -> Prompt:
        preference = variant.preference_of(asked)
        # A row's own system turn stands before the user's words where a template has none.
        system = settings.preference_as == "system" or (asked.system and not variant.bare and self.system_turns)
        both = self.kind == "implicit" and settings.ref == "self" and not variant.bare

        def ids(text: str) -> tuple[int, ...]:
            written = asked.turns(text, system) if self.template else text + asked.instruction
            found = encode(self.tokenizer, written, self.template)
            if max(found, default=0) >= self.llm_vocabulary:
                raise OptionError(
                    f"the tokenizer gives the token id {max(found)}, and --llm {settings.llm} has {self.llm_vocabulary}; "
                    "name its own tokenizer by --tokenizer"
                )
            return found

        def rm_ids(text: str) -> tuple[int, ...]:
            template = self.template and bool(self.rm_tokenizer.chat_template)
            theirs = system and template and writes_system_turns(self.rm_tokenizer)
            written = asked.turns(text, theirs) if template else text + asked.instruction
            return encode(self.rm_tokenizer, written, template)

        text, told = preference.text, {"preference": preference}
        own_turn = asked.system and not variant.bare
        if asked.before or own_turn:
            told["messages"] = asked.turns(text if own_turn else "", own_turn)
        try:
            plain = ids("") if both else ()
            theirs = rm_ids(text) if self.rm_tokenizer else ()
            return Prompt(index, asked.instruction, text, ids(text), plain, theirs, **told)
        except UnwritablePrompt as error:
            return Prompt(index, asked.instruction, text, (), unwritable=str(error), **told)

    def why_no_room(self, prompt: Prompt) -> str:
        """Why there is no room for an answer to a prompt."""
        return prompt.unwritable or f"it has {len(prompt.ids)} tokens, and the context of the models is {self.context}"

    @property
    def context(self) -> int:
        """Tokens of the longest text of both models."""
        return min(self.llm_context, self.rm_context)

    def room(self, prompt: Prompt) -> int:
        """How many tokens an answer to a prompt can have in the contexts of both models; none left, or no prompt: 0 or less."""
        if prompt.unwritable:
            return 0
        return min(self.llm_context - len(prompt.ids), self.rm_context - len(prompt.rm_ids or prompt.ids))


def make_plan(
    settings: CollectSettings, variants: list[Variant], asked: list[Asked], say: Callable[[str], None]
) -> Plan:
    """Look at the models' configurations and tokenizers.

    Raises:
        OptionError, ModelError: they are not there, or cannot work together.
    """
    configs = [variant.config for variant in variants]
    guided = any(config.rm_weight for config in configs)
    tokenizer = load_tokenizer(settings.tokenizer or settings.llm)
    llm_config = load_config(settings.llm)
    _check_language_model("--llm", settings.llm, llm_config)
    vocabulary, rm_context = llm_config.get_text_config().vocab_size, config_length(llm_config)
    kind, rm_tokenizer, adapter_reference, dimension = None, None, False, None
    if guided:
        rm_config = load_config(settings.rm)
        kind = _kind(settings, rm_config)
        dimension = _dimension(settings, kind, rm_config)
        rm_context = config_length(rm_config)
        theirs = _rm_tokenizer(settings.rm, rm_config, llm_config, say)
        if theirs is None or same_vocabulary(tokenizer, theirs):
            vocabulary = min(vocabulary, rm_config.get_text_config().vocab_size)
        else:
            _check_cross(settings, kind)
            rm_tokenizer = theirs
        _check_reference(settings, kind, variants, asked)
        if kind == "implicit" and settings.ref not in REFERENCES:
            adapter_reference = adapter_base(settings.rm) == settings.ref
            ref_config = load_config(settings.ref)
            _check_language_model("--ref", settings.ref, ref_config)
            rm_context = min(rm_context, config_length(ref_config))
            if not adapter_reference and not same_vocabulary(tokenizer, load_tokenizer(settings.ref)):
                raise OptionError(f"--ref {settings.ref} has another vocabulary than the base LM; name another one")
    for config in configs:
        if config.topk > vocabulary:
            raise OptionError(
                f"a configuration's topk is {config.topk}, and there are {vocabulary} tokens to choose from"
            )
    template = settings.chat_template == "on" or (
        settings.chat_template == "auto" and bool(tokenizer.chat_template) and _implicit(settings, kind)
    )
    system_turns = template and writes_system_turns(tokenizer)
    _check_system_turns(settings, template, system_turns, asked, say)
    return Plan(
        device_or_fallback(settings.llm_gpu, "--llm_gpu", say),
        device_or_fallback(settings.rm_gpu, "--rm_gpu", say if guided else lambda _: None),
        tokenizer,
        rm_tokenizer,
        kind,
        template,
        vocabulary,
        llm_config.get_text_config().vocab_size,
        config_length(llm_config),
        rm_context,
        adapter_reference,
        dimension,
        system_turns,
    )


def _check_system_turns(
    settings: CollectSettings, template: bool, written: bool, asked: list[Asked], say: Callable[[str], None]
) -> None:
    """Raise OptionError where the preference is to be a system turn and cannot; `say` is told of rows' own that cannot."""
    why = "the chat template of the base LM writes no system turn" if template else "no chat template is used"
    if settings.preference_as == "system" and not written:
        raise OptionError(f"--preference_as system: {why}; leave it out to have the preference before the user's words")
    if not written and (rows := [number for number, one in enumerate(asked, 1) if one.system]):
        say(
            f"{why}: the system turns of {len(rows)} rows (the first: {rows[0]}) are put before the first words of the user"
        )


def _rm_tokenizer(name: str, rm_config, llm_config, say: Callable[[str], None]) -> "PreTrainedTokenizerBase | None":
    """The reward model's tokenizer; None where it has none and its vocabulary is as large as the base LM's, as ARGS's have it."""
    try:
        return load_tokenizer(name)
    except ModelError:
        if rm_config.get_text_config().vocab_size != llm_config.get_text_config().vocab_size:
            raise
        say(f"{name} has no tokenizer of its own; it is taken to read the base LM's tokens")
        return None


def _implicit(settings: CollectSettings, kind: str | None) -> bool:
    """Of a run without a reward model the other options say which method's baseline it is."""
    return kind == "implicit" if kind else settings.rm_type != "scalar"


def _kind(settings: CollectSettings, rm_config) -> str:
    if is_armorm(rm_config):
        raise OptionError(f"--rm {settings.rm} is an ArmoRM, which scores whole answers: name it to measure_reward.py")
    classifier = is_classifier(rm_config)
    wanted = "implicit" if settings.PAD is not None else settings.rm_type
    if wanted == "auto":
        return "scalar" if classifier else "implicit"
    if (wanted == "scalar") != classifier:
        is_a = (
            "a sequence classifier, for --rm_type scalar without --PAD"
            if classifier
            else "a language model without a reward head, for --rm_type implicit"
        )
        raise OptionError(f"the reward model {settings.rm} is {is_a}")
    return wanted


def _dimension(settings: CollectSettings, kind: str, rm_config) -> int | None:
    if kind == "implicit":
        if settings.dimension is not None:
            raise OptionError(
                f"--dimension is for sequence classifiers; leave it out with the language model {settings.rm}"
            )
        return None
    output = output_of(rm_config, settings.dimension, settings.rm)
    return output if rm_config.num_labels > 1 else None


def _check_language_model(option: str, name: str, config) -> None:
    # It would load as a language model whose output matrix is drawn at random.
    if is_classifier(config):
        raise OptionError(f"{option} {name} is a sequence classifier; name a language model")


def _check_reference(settings: CollectSettings, kind: str, variants: list[Variant], asked: list[Asked]) -> None:
    if kind == "scalar" and settings.ref != "llm":
        raise OptionError(
            f"--ref {settings.ref} is for implicit rewards; leave it out with the classifier {settings.rm}"
        )
    # Without a preference text both terms are one and every reward is 0.
    guided = [variant for variant in variants if variant.config.rm_weight]
    if settings.ref == "self" and not all(variant.preference_of(one).text for variant in guided for one in asked):
        raise OptionError(
            "--ref self compares with and without a preference; --principles or --sys_prompt is needed, or one in each row"
        )


def _check_cross(settings: CollectSettings, kind: str) -> None:
    differ = f"the base LM {settings.llm} and the reward model {settings.rm} have different vocabularies"
    if kind == "scalar":
        raise OptionError(f"{differ}; a scalar reward needs a reward model with the base LM's tokenizer")
    if not settings.allow_cross_tokenizer:
        raise OptionError(f"{differ}; choose another pair, or --allow_cross_tokenizer, which is slow")
    if settings.ref not in ("llm", "none"):
        raise OptionError(f"{differ}; then --ref can be llm or none alone")


def device_or_fallback(name: str, option: str, say: Callable[[str], None]) -> "torch.device":
    """A device by its name; a GPU that is not there gives way to the first one, then to the CPU, and `say` is told.

    Raises:
        OptionError: there is no such name.
    """
    if not name.startswith("cuda"):
        return pick_device(name)
    for candidate in (name, "cuda:0", "cpu"):
        try:
            found = pick_device(candidate)
        except OptionError as error:
            if "no device is called" in str(error):
                raise
            continue
        if candidate != name:
            say(f"{option} {name} is not there; {candidate} is used")
        return found
    raise AssertionError("there is always a CPU")
