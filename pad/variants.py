"""What one command answers: preferences x configurations, a file each, and the base LM without any preference to compare with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from command.errors import OptionError
from pad.config import DecodingConfig, read_config_groups
from pad.preference_files import read_preferences
from pad.preferences import FRAME, NO_PREFERENCE, Preference
from pad.prompts import Asked
from pad.settings import CollectSettings


@dataclass(frozen=True)
class Variant:
    """One file of answers: its number or name behind the prefix, how tokens are chosen, and the preference.

    `bare`: no row's own preference counts either.
    """

    number: int | str
    config: DecodingConfig
    preference: Preference = NO_PREFERENCE
    bare: bool = False

    def preference_of(self, asked: Asked) -> Preference:
        """What a prompt is answered by: its own preference, if it has one, else that of the file."""
        if self.bare:
            return NO_PREFERENCE
        return self.preference if asked.preference is None else asked.preference

    def in_words(self) -> str:
        """Preference and weight, for people."""
        if self.bare:
            return "base LM without a preference"
        return f"{self.preference.name or 'no preference of the command'}, weight {self.config.rm_weight:g}"


def make_variants(settings: CollectSettings, say: Callable[[str], None]) -> list[Variant]:
    """The files of a command, preferences outermost, configurations in them; the baseline is the last.

    Raises:
        OptionError: preferences or configurations cannot be read, or cannot go together.
    """
    groups = read_config_groups(Path(settings.config), say) if settings.config else [settings.configs()]
    configs = [config for group in groups for config in group]
    settings.check_configs(configs)
    if settings.principles_file and any(config.perspective is not None for config in configs):
        raise OptionError(
            "a configuration's perspective takes the place of the principles, and --principles_file gives several: all of them "
            "would be one; leave out one of the two"
        )
    if settings.principles_file:
        preferences = read_preferences(Path(settings.principles_file), settings.frame, say)
    else:
        preferences = [settings.preference()]
        if settings.sys_prompt and not settings.sys_prompt[-1].isspace():
            say("--sys_prompt is put before each prompt as it is, and does not end with a space")
    pairs = [(preference, config) for preference in preferences for config in configs]
    variants = [
        Variant(number, config, preference.with_perspective(config.perspective))
        for number, (preference, config) in enumerate(pairs)
    ]
    # The lines of a published file are answered as they are: who wrote several has written what they are compared with.
    sweep = len(preferences) > 1 or any(len(group) > 1 for group in groups)
    if settings.baseline == "off" or (settings.baseline == "auto" and not sweep):
        return variants
    return variants + _baselines(configs)


def _baselines(configs: list[DecodingConfig]) -> list[Variant]:
    """The base LM alone for each way to choose tokens; of greedy ones neither the number of candidates nor the seed matters."""
    found: dict[DecodingConfig, None] = {}
    for config in configs:
        topk = {} if config.samples else {"topk": 1, "sample_temp": None, "mode": "greedy", "seed": None}
        found[replace(config, rm_weight=0, perspective=None, chunk_size=None, name=None, **topk)] = None
    return [
        Variant(f"baseline_{number}" if number else "baseline", config, bare=True)
        for number, config in enumerate(found)
    ]


def check_rows(
    settings: CollectSettings, variants: list[Variant], asked: list[Asked], say: Callable[[str], None]
) -> None:
    """Look at preferences that rows have of their own beside those of the command.

    Raises:
        OptionError: they would be called something else than they are.
    """
    if settings.frame != FRAME and not _has_principles(settings, asked):
        say("--frame is not used: neither the command nor a prompt names principles")
    own = [number for number, one in enumerate(asked, 1) if one.preference is not None]
    if not own:
        return
    several = {variant.preference for variant in variants if not variant.bare}
    where = f"{len(own)} of {len(asked)} prompts have a preference of their own (the first: {own[0]})"
    if len(several) > 1:
        of = "--principles_file" if settings.principles_file else "the configurations' perspective"
        raise OptionError(f"{where}, and {of} gives several; leave out one of the two")
    if next(iter(several)) != NO_PREFERENCE:
        say(f"{where}, which stands in the place of the command's")


def _has_principles(settings: CollectSettings, asked: list[Asked]) -> bool:
    told = settings.principles is not None or settings.principles_file
    return bool(told) or any(one.preference and one.preference.principles is not None for one in asked)
