"""What decoding costs: forward passes, positions, cache sizes (P1 to P3 and table 6.6 of the specification)."""

import needs
import pytest

torch = needs.module("torch")

from tiny_models import VOCABULARY, make_model  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from pad.cached_model import CachedModel  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402
from pad.decoding import decode  # noqa: E402
from pad.implicit_reward import CandidateLogits, ImplicitReward  # noqa: E402
from pad.prompts import Prompt  # noqa: E402
from pad.scalar_reward import TreeReward  # noqa: E402

NEW, K = 12, 10
PROMPTS = [Prompt(i, "", "", tuple(range(5, 25 + i)), tuple(range(8, 25 + i))) for i in range(3)]


class Passes:
    """Counts forward passes of a backbone, and rows and positions that they read."""

    def __init__(self, model):
        self.shapes: list[tuple[int, int]] = []
        model.base_model.register_forward_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs, output) -> None:
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def run(lm, reward, prompts=PROMPTS, weight=1.0, new=NEW) -> None:
    decode(CachedModel(lm), reward, prompts, DecodingConfig(weight, K), max_new=[new] * len(prompts))


@pytest.fixture
def lm():
    return make_model("llama", 1)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("new", [1, NEW])
def test_p1_implicit_reward(rows, new, lm):
    rm = make_model("llama", 2)
    reward = ImplicitReward(CandidateLogits(rm))
    mine, theirs, prompts = Passes(lm), Passes(rm), PROMPTS[:rows]
    run(lm, reward, prompts, new=new)
    longest = max(len(prompt.ids) for prompt in prompts)
    # The first pass reads the prompt and gives the first token; L + n - 1 positions in all.
    assert mine.shapes == theirs.shapes == [(rows, longest)] + [(rows, 1)] * (new - 1)


def test_p1_weight_0_asks_no_reward_model(lm):
    rm = make_model("llama", 2)
    reward = ImplicitReward(CandidateLogits(rm))
    theirs = Passes(rm)
    run(lm, reward, weight=0)
    assert theirs.shapes == []


def test_p1_the_reference_self_is_one_pass_of_twice_the_rows(lm):
    rm = make_model("llama", 2)
    reward = ImplicitReward(CandidateLogits(rm), "self")
    theirs = Passes(rm)
    run(lm, reward)
    assert theirs.shapes == [(6, 22)] + [(6, 1)] * (NEW - 1)


@pytest.mark.parametrize("chunk, passes", [(None, 1), (4, 3)])
def test_p1_scalar_reward(chunk, passes, lm):
    classifier = make_model("llama_scorer", 3)
    reward = TreeReward(classifier, chunk)
    mine, theirs = Passes(lm), Passes(classifier)
    run(lm, reward, PROMPTS[:1])
    assert len(mine.shapes) == NEW
    # One pass over the prompt, then one of k positions for each token: L + n k positions.
    assert len(theirs.shapes) == passes * NEW + 1
    assert sum(rows * positions for rows, positions in theirs.shapes) == 20 + NEW * K


def test_p2_the_cache_has_a_row_for_each_prompt_not_for_each_candidate(lm):
    """And at most k columns more than the sequences: k candidates cost O(k) positions, not k T."""
    classifier, most = make_model("llama_scorer", 3), []

    class Watched(TreeReward):
        def rewards(self, candidates, logits):
            found = super().rewards(candidates, logits)
            most.append(self.states.cached_positions)
            return found

    run(lm, Watched(classifier))
    longest = max(len(prompt.ids) for prompt in PROMPTS)
    assert most == [(3, longest + step + K) for step in range(NEW)]


class LargestAxis(TorchDispatchMode):
    """Collects the shapes of all tensors that operations give."""

    def __init__(self):
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.shapes += [tuple(x.shape) for x in tree_leaves(output) if isinstance(x, torch.Tensor)]
        return output


@pytest.mark.parametrize("reference", ["llm", "self"])
def test_p3_no_tensor_of_the_vocabularys_size_from_the_reward_model(reference):
    rm = make_model("llama", 2)
    reward = ImplicitReward(CandidateLogits(rm), reference)
    logits, candidates = torch.randn(3, K), torch.randint(VOCABULARY, (3, K))
    with torch.inference_mode():
        reward.start(PROMPTS)
        with LargestAxis() as seen:
            reward.advance(candidates[:, 0], torch.zeros(3, dtype=torch.long))
            reward.rewards(candidates, logits)
    weight = (VOCABULARY, rm.config.hidden_size)
    made = [shape for shape in seen.shapes if shape != weight]  # the output matrix itself is only looked at
    assert made and not [shape for shape in made if VOCABULARY in shape]
    with torch.inference_mode(), LargestAxis() as seen:  # the model's own forward pass does make one
        rm(candidates[:, :1])
    assert [shape for shape in seen.shapes if shape != weight and VOCABULARY in shape]
