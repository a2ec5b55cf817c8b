"""Arguments of Python in the place of a command line's options."""

import os
import re
from dataclasses import fields, replace
from typing import get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from answering.settings import LoadSettings
from command.errors import OptionError
from command.options import api_key, split_hosts
from command.secrets import NEUTRAL_API_KEY
from decoding.criteria import Criterion
from language_models.hosted.served_names import only_model_at

ROLES = ("base", "nudging")
_OPTION = re.compile(rf"--({'|'.join(sorted((f.name for f in fields(LoadSettings)), key=len, reverse=True))})\b")
_OWN = {f"{role}_model": role for role in ROLES}  # arguments that are called otherwise than the options
_STRICT = ConfigDict(strict=True)


def in_python(words: str) -> str:
    """A message that speaks of a command line's options, with the arguments in their place."""
    return _OPTION.sub(lambda found: _OWN.get(found[1], found[1]), words)


def own_criterion(criterion: Criterion, options: dict[str, object]) -> Criterion:
    """One's own criterion with the number that the options give as `threshold`, which is taken out of them, or `top_prob_thres`.

    Raises:
        OptionError: they give two numbers, or one that the criterion cannot be asked with.
    """
    given = {name: options[name] for name in ("threshold", "top_prob_thres") if options.get(name) is not None}
    if not given or any(isinstance(number, bool) or not isinstance(number, int | float) for number in given.values()):
        return criterion  # what is no number is told with the other options
    options.pop("threshold", None)
    if len(set(given.values())) > 1:
        raise OptionError(f"--{' and --'.join(given)} are the same number: give one")
    name, number = next(iter(given.items()))
    if not criterion.lowest <= number <= criterion.highest:
        raise OptionError(
            f"--{name} of one's own criterion is from {criterion.lowest:g} to {criterion.highest:g}; it is {number:g}"
        )
    return replace(criterion, threshold=number)


def load_settings(names: dict[str, object], hosts: dict[str, object], options: dict[str, object]) -> LoadSettings:
    """The settings of a pair.

    Args:
        names, hosts: by role, base and nudging; a name that is a URL stands for the one model of that server.
        options: the other fields of LoadSettings.

    Raises:
        OptionError: they cannot be; the message speaks of options.
        ModelError: a server that is to tell its model's name does not.
    """
    types = get_type_hints(LoadSettings)
    if unknown := sorted(options.keys() - types.keys()):
        raise OptionError(f"NudgedPair.load has no option {unknown[0]}")
    given = dict(options)
    for role in ROLES:
        name, host = names[role], hosts[role]
        if isinstance(name, os.PathLike):
            name = os.fspath(name)
        if isinstance(name, str) and re.match(r"https?://", name, re.IGNORECASE):
            if host:
                raise OptionError(f"{role} is a URL, and so is {role}_host: name the model by one of the two")
            variable = options.get(f"{role}_api_key_env")
            key = api_key(str(variable), f"--{role}_api_key_env") if variable else NEUTRAL_API_KEY
            name, host = only_model_at(split_hosts(name, f"--{role}_model")[0], key), name
        given |= {f"{role}_model": name, f"{role}_host": host}
    if isinstance(given.get("end_tokens"), list):
        given["end_tokens"] = tuple(given["end_tokens"])
    for name, value in given.items():
        try:
            TypeAdapter(types[name], config=_STRICT).validate_python(value)
        except ValidationError:
            shown = types[name].__name__ if isinstance(types[name], type) else str(types[name])
            raise OptionError(f"--{name} must be of the type {shown}; it is {str(value)[:60]!r}") from None
    return LoadSettings(**given)
