"""Which weights a checkpoint lacks: loaders draw them at random and go on, and what such a model says means nothing."""

import re
from collections.abc import Collection, Mapping

SHOWN = 3
# A classifier's or backbone's former output matrix, the pooled output that RoBERTa's classifiers do not read, older versions'
# buffers that are computed now, parts that text does not pass through (images, sound, several tokens at once), and scales of caches
# in 8 bits: a model is whole without them.
_UNUSED = re.compile(
    r"^lm_head\.weight$|(^|\.)(rotary_emb\.(inv_freq|(cos|sin)_cached)|position_ids|(self_)?(attn|attention)\.(masked_)?bias"
    r"|pooler|mtp[\w]*|[kv]_scale|(vision|audio)_(tower|model|encoder)|visual|multi_modal_projector|mm_projector)(\.|$)"
)


def wrong_weights(
    name: str,
    wanted: str,
    missing: Collection[str],
    unexpected: Collection[str] = (),
    mismatched: Collection[tuple] = (),
    *,
    may_lack: str | None = None,
    part: bool = False,
) -> str | None:
    """What is wrong with the weights of a checkpoint, as one sentence; None if it is whole.

    Args:
        name: of the checkpoint, for the sentence.
        wanted: the class that it was loaded as.
        missing, unexpected: names of weights that the class has and the checkpoint lacks, and the other way round.
        mismatched: name, size in the checkpoint, and size in the class, of those whose sizes differ.
        may_lack: a pattern of names that the caller sets or does not use.
        part: only a part of the checkpoint is wanted, so that unexpected weights are no fault.
    """

    def spared(key: str) -> bool:
        return may_lack is not None and re.search(may_lack, key) is not None

    lacking = sorted(key for key in missing if not spared(key))
    others = [] if part else sorted(key for key in unexpected if not _UNUSED.search(key))
    sizes = [
        f"{key} {'x'.join(map(str, there))} instead of {'x'.join(map(str, here))}"
        for key, there, here in sorted(mismatched)
        if not spared(key)
    ]
    faults = []
    if lacking:
        faults.append(f"{len(lacking)} of its weights are missing and would be random numbers ({first_of(lacking)})")
    if others:
        faults.append(f"{len(others)} have no place in it and would be left out ({first_of(others)})")
    if sizes:
        faults.append(f"{len(sizes)} have another size ({first_of(sizes)})")
    if not faults:
        return None
    return (
        f"{name} does not hold a whole {wanted}: {'; '.join(faults)}. Name a checkpoint that was saved as one; "
        "if these are its weights under other names, or config.json is another model's, mend that"
    )


def first_of(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown, more = list(names)[:SHOWN], len(names) - SHOWN
    return ", ".join(shown) + (f", and {more} more" if more > 0 else "")


def loading_report(info: Mapping) -> dict[str, Collection]:
    """transformers' `output_loading_info` as arguments of `wrong_weights`."""
    return {name: info.get(f"{name}_keys") or () for name in ("missing", "unexpected", "mismatched")}
