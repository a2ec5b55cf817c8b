"""Names of result files: the published program's, which no file system has to refuse."""

import hashlib
import re

# What a name may have in bytes everywhere, less the longest that is added to it: .summary.json, and the shard (--shard takes no
# longer numbers). Shards and the whole run have to have one name.
LONGEST_NAME = 255 - len(".summary.json") - len("_shard999999of999999")
_HASH_DIGITS = 12
_FEWEST_OF_MODELS = 16


def last_part(model: str) -> str:
    """A model's name without folders."""
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1]


def fitting_name(before: str, models: str, after: str) -> str | None:
    """The name `before` + `models` + `after`; where it is too long for a file, the models' names end in a sum of them instead.

    None where that is too long as well.
    """
    room = LONGEST_NAME - _size(before + after)
    if _size(models) <= room:
        return before + models + after
    told = "-" + hashlib.sha256(_bytes(models)).hexdigest()[:_HASH_DIGITS]
    if room < _FEWEST_OF_MODELS + len(told):
        return None
    return before + _bytes(models)[: room - len(told)].decode(errors="ignore") + told + after


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # an option in another encoding than UTF-8 holds lone surrogates


def _size(text: str) -> int:
    return len(_bytes(text))
