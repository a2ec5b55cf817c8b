"""Seeds of models in this process: what is drawn depends on the seed and the text, not on samples beside it."""

import needs
import pytest

torch = needs.module("torch")

from concurrent.futures import ThreadPoolExecutor  # noqa: E402

from local_models import PROMPT, local  # noqa: E402

from language_models.interface import SamplingParams  # noqa: E402


def drawn(model, sample_id, seed, tokens=25, **more) -> str:
    params = SamplingParams(tokens, temperature=1.5, seed=seed, **more)
    return "".join(token.text for token in model.for_sample(sample_id).stream(PROMPT, params))


@pytest.mark.parametrize("engine", ["packed", "graphs"])
@pytest.mark.parametrize("logprobs", [None, 2])
def test_the_same_seed_draws_the_same_text(engine, logprobs):
    model = local(engine=engine, samples=4)
    alone = [drawn(model, i, seed, logprobs=logprobs) for i, seed in enumerate((3, 3, 4, 2**70))]
    assert alone[0] == alone[1] and len(set(alone)) == 3
    assert model.complete(PROMPT, SamplingParams(25, 1.5, seed=3, logprobs=logprobs)).text == alone[0]
    with ThreadPoolExecutor(4) as pool:  # passes are shared, by samples with seeds and without
        beside = list(pool.map(lambda i: drawn(model, i, (3, None, 4, 3)[i], logprobs=logprobs), range(4)))
    assert (beside[0], beside[2], beside[3]) == (alone[0], alone[2], alone[0])


def test_a_seed_changes_nothing_for_others():
    """A view's own numbers are drawn on as if nobody had named a seed."""
    model = local()
    view, params = model.for_sample("a"), SamplingParams(10, temperature=1.5)
    first = [view.complete(PROMPT, params).text for _ in range(2)]
    view = model.for_sample("a")
    found = [view.complete(PROMPT, params).text]
    view.complete(PROMPT, SamplingParams(10, temperature=1.5, seed=1))
    found.append(view.complete(PROMPT, params).text)
    assert found == first and first[0] != first[1]


def test_greedy_text_does_not_depend_on_a_seed():
    model = local()
    texts = {model.complete(PROMPT, SamplingParams(20, seed=seed)).text for seed in (None, 1, 2)}
    assert len(texts) == 1
