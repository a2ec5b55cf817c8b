"""What a run will do, found out before any weights are loaded: devices, tokenizers, kind of reward, lengths."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from command.errors import OptionError
from language_models.interface import ModelError
from language_models.local.loading import adapter_base, load_config, load_tokenizer, pick_device
from language_models.local.windows import config_length
from pad.config import DecodingConfig
from pad.dimension import is_armorm, is_classifier, output_of
from pad.prompts import Prompt, UnwritablePrompt, encode, same_vocabulary, with_perspective
from pad.settings import REFERENCES, CollectSettings

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

    def prompts(self, settings: CollectSettings, config: DecodingConfig, instructions: list[str]) -> list[Prompt]:
        """The prompts of a configuration, as the models read them.

        Raises:
            OptionError: not one of them can be written.
        """
        sys_prompt = with_perspective(settings.sys_prompt, config.perspective)
        both = self.kind == "implicit" and settings.ref == "self"

        def ids(text: str) -> tuple[int, ...]:
            found = encode(self.tokenizer, text, self.template)
            if max(found, default=0) >= self.llm_vocabulary:
                raise OptionError(
                    f"the tokenizer gives the token id {max(found)}, and --llm {settings.llm} has {self.llm_vocabulary}; "
                    "name its own tokenizer by --tokenizer"
                )
            return found

        def rm_ids(text: str) -> tuple[int, ...]:
            return encode(self.rm_tokenizer, text, self.template and bool(self.rm_tokenizer.chat_template))

        def prompt(index: int, instruction: str) -> Prompt:
            text = sys_prompt + instruction
            try:
                plain = ids(instruction) if both else ()
                return Prompt(
                    index, instruction, sys_prompt, ids(text), plain, rm_ids(text) if self.rm_tokenizer else ()
                )
            except UnwritablePrompt as error:
                return Prompt(index, instruction, sys_prompt, (), unwritable=str(error))

        found = [prompt(index, instruction) for index, instruction in enumerate(instructions)]
        if all(one.unwritable for one in found):
            raise OptionError(found[0].unwritable)
        return found

    def why_no_room(self, prompt: Prompt) -> str:
        """Why there is no room for an answer to a prompt."""
        context = min(self.llm_context, self.rm_context)
        return prompt.unwritable or f"it has {len(prompt.ids)} tokens, and the context of the models is {context}"

    def room(self, prompt: Prompt) -> int:
        """How many tokens an answer to a prompt can have in the contexts of both models; none left, or no prompt: 0 or less."""
        if prompt.unwritable:
            return 0
        return min(self.llm_context - len(prompt.ids), self.rm_context - len(prompt.rm_ids or prompt.ids))


def make_plan(settings: CollectSettings, configs: list[DecodingConfig], say: Callable[[str], None]) -> Plan:
    """Look at the models' configurations and tokenizers.

    Raises:
        OptionError, ModelError: they are not there, or cannot work together.
    """
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
        _check_reference(settings, kind, configs)
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


def _check_reference(settings: CollectSettings, kind: str, configs: list[DecodingConfig]) -> None:
    if kind == "scalar" and settings.ref != "llm":
        raise OptionError(
            f"--ref {settings.ref} is for implicit rewards; leave it out with the classifier {settings.rm}"
        )
    # Without a preference text both terms are one and every reward is 0.
    texts = [with_perspective(settings.sys_prompt, config.perspective) for config in configs if config.rm_weight]
    if settings.ref == "self" and not all(texts):
        raise OptionError("--ref self compares with and without a preference text; --sys_prompt is needed")


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
