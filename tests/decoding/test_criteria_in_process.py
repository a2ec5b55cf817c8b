"""Criteria and mixtures over transformers models in this process, of one and of different tokenizers: as token by token."""

import needs
import pytest

torch = needs.module("torch")

from local_models import BYTE_LEVEL, KINDS, OTHER, PROMPT, TokenByToken, local  # noqa: E402

from language_models.interface import Metered  # noqa: E402
from nudging import NudgingSettings, nudge  # noqa: E402

ENDS = frozenset({1})
# Random models are flat: numbers at which both models write.
NUMBERS = {"top_prob": 0.2, "token_prob": 0.2, "confidence_bet": 0.05, "entropy": 2.0, "margin": 0.05, "random": 0.5}
HOW = [*((name, None) for name in NUMBERS), ("always", None), ("never", None), ("top_prob", "auto"), ("entropy", 0.4)]
TOKENIZERS = {
    "one tokenizer": (BYTE_LEVEL, BYTE_LEVEL),
    "two": (BYTE_LEVEL, OTHER),
    "the other way round": (OTHER, BYTE_LEVEL),
}


@pytest.mark.parametrize("which", TOKENIZERS)
@pytest.mark.parametrize(("criterion", "blend"), HOW)
def test_the_same_as_token_by_token(criterion, blend, which):
    mine, theirs = TOKENIZERS[which]
    settings = NudgingSettings(threshold=NUMBERS.get(criterion), max_token_total=20, seed=5, blend=blend)
    plain = [TokenByToken(KINDS[kind](3), tokenizer, ENDS) for kind, tokenizer in (("llama", mine), ("gpt2", theirs))]
    expected = nudge(*plain, PROMPT, "N: " + PROMPT, settings, criterion=criterion)
    base, small = local("llama", 3, mine, end_ids=ENDS), local("gpt2", 3, theirs, end_ids=ENDS)
    for mode in ("published", "streamed"):
        views = [Metered(model.for_sample(mode)) for model in (base, small)]
        result = nudge(*views, PROMPT, "N: " + PROMPT, settings, request_mode=mode, criterion=criterion)
        assert (result.pieces, result.nudging_words) == (expected.pieces, expected.nudging_words), mode
        assert result.stop_reason == expected.stop_reason
        of_base, of_small = (view.usage.requests for view in views)
        assert (not of_base, not of_small) >= (criterion == "always", criterion == "never")
