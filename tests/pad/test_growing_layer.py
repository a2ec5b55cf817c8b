import copy

import needs
import pytest

torch = needs.module("torch")

from tiny_models import make_model  # noqa: E402
from transformers.cache_utils import DynamicLayer  # noqa: E402

from pad.cached_model import CachedModel  # noqa: E402
from pad.growing_layer import LEAST_ROOM, GrowingLayer  # noqa: E402


def states(tokens: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 3, tokens, 4), torch.randn(rows, 3, tokens, 4)


def test_is_what_a_dynamic_layer_is():
    ours, theirs = GrowingLayer(), DynamicLayer()
    for tokens in (5, 1, LEAST_ROOM + 6, 1):
        given = states(tokens)
        for found, expected in zip(ours.update(*given), theirs.update(*given), strict=True):
            assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.crop(-3),
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: layer.batch_select_indices(torch.tensor([1, 0])),
        lambda layer: layer.reorder_cache(torch.tensor([1, 1])),
    ],
)
def test_goes_on_after_a_change(change):
    ours, theirs, given = GrowingLayer(), DynamicLayer(), states(5)
    for layer in (ours, theirs):
        layer.update(*given)
        change(layer)
    for more in (states(2, len(ours.keys)), states(LEAST_ROOM, len(ours.keys))):
        for found, expected in zip(ours.update(*more), theirs.update(*more), strict=True):
            assert torch.equal(found, expected)


def test_a_token_is_appended_in_place_and_room_is_made_rarely():
    layer, places = GrowingLayer(), []
    layer.update(*states(10))
    for _ in range(300):
        layer.update(*states(1))
        places.append(layer.keys.data_ptr())
    assert len(set(places)) <= 5


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, GrowingLayer.without_room])
def test_a_repeated_copy_has_keys_of_its_own(copied):
    layer = GrowingLayer()
    layer.update(*states(5))
    before = layer.keys.clone()
    other = copied(layer)
    other.batch_repeat_interleave(2)
    new = states(1, 4)
    other.update(*new)
    assert torch.equal(layer.keys, before)
    assert torch.equal(other.keys, torch.cat([before.repeat_interleave(2, 0), new[0]], 2))
    mine = states(1)
    layer.update(*mine)
    assert torch.equal(layer.keys, torch.cat([before, mine[0]], 2)) and torch.equal(other.keys[:, :, 5:], new[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
        lambda layer: layer.reset(),
    ],
)
def test_a_change_of_rows_keeps_no_room_of_the_others(change):
    layer = GrowingLayer()
    layer.update(*states(5))
    assert layer._keys_room is not None
    change(layer)
    assert layer._keys_room is layer._values_room is None


def test_room_that_was_made_in_inference_mode():
    layer, given = GrowingLayer(), states(5)
    with torch.inference_mode():
        layer.update(*given)
    more = states(1)
    assert torch.equal(layer.update(*more)[0], torch.cat([given[0], more[0]], 2))


def test_a_model_of_this_folder_has_it():
    states = CachedModel(make_model("llama", 1))
    with torch.inference_mode():
        states.prefill([[3, 4, 5]])
    assert {type(layer) for layer in states._layers()} == {GrowingLayer}
