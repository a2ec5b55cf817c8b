"""Sequences of reward-guided decoding on the engines: of copies, since a model that an engine has is not its own any more."""

import copy

from pad.sequences import SequenceMaker, Sequences

ENGINES = ("packed", "graphs")  # on a CPU the passes of "graphs" are not captured


def on_engine(kind: str, network, *, slots: int = 5, trees: bool = False) -> Sequences:
    """Sequences of a copy of a model on an engine that must not be refused."""
    refused = []
    made = SequenceMaker(kind, slots, 100, refused.append).make(copy.deepcopy(network), "it", trees=trees)
    assert made.kind == kind and not refused, refused
    return made
