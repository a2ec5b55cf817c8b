"""--dimension: one rule in both commands, so that what guides is what scores."""

import json
import re

import needs
import pytest

torch = needs.module("torch")

from collect_runs import collect, options, rows_of  # noqa: E402
from tiny_models import make_model, make_tokenizer, save  # noqa: E402
from transformers import AutoConfig  # noqa: E402

import measure_reward  # noqa: E402
from command.errors import OptionError  # noqa: E402
from pad.dimension import OBJECTIVES, described, output_of  # noqa: E402
from pad.prompts import Prompt  # noqa: E402
from pad.scalar_reward import CopiesReward, TreeReward, UncachedReward, choose_scalar_reward  # noqa: E402

THREE = {"num_labels": 3, "id2label": {0: "bad", 1: "good", 2: "odd"}, "label2id": {"bad": 0, "good": 1, "odd": 2}}


def config_of(*labels: str) -> AutoConfig:
    named = dict(enumerate(labels))
    return AutoConfig.for_model("llama", id2label=named, label2id={label: i for i, label in named.items()})


def armorm() -> AutoConfig:
    config = config_of(*(f"LABEL_{i}" for i in range(19)))
    config.architectures = ["LlamaForRewardModelWithGating"]
    return config


@pytest.mark.parametrize(
    "labels, dimension, output",
    [
        (["LABEL_0"], None, 0),
        (["LABEL_0"], "0", 0),
        (["LABEL_0"], "LABEL_0", 0),
        (["bad", "good"], "good", 1),
        (["bad", "good"], "0", 0),
        (["NO_HUMOR", "HUMOR"], None, 1),
        (["humor", "none"], None, 0),
        (["NO_HUMOR", "HUMOR"], "0", 0),
        (["3", "2", "1", "0"], "3", 3),  # a number is an output's number
        (["1", "2", "3", "4", "5"], "5", 4),  # unless there is none of that number
    ],
)
def test_the_output(labels, dimension, output):
    assert output_of(config_of(*labels), dimension, "m") == output


@pytest.mark.parametrize(
    "labels, dimension, message",
    [
        (["bad", "good"], None, "--dimension is needed for m: its outputs are 0 to 1, or bad, good"),
        (["bad", "good"], "2", "--dimension has no choice '2'; the outputs of m are 0 to 1, or bad, good"),
        (["bad", "good"], "-1", "no choice '-1'"),
        (["LABEL_0"], "1", "--dimension has no choice '1'; the outputs of m are 0, LABEL_0"),
    ],
)
def test_what_is_refused(labels, dimension, message):
    with pytest.raises(OptionError, match=message):
        output_of(config_of(*labels), dimension, "m")


def test_armorm():
    assert [output_of(armorm(), name, "m") for name in ("0", "10", "beavertails-is_safe", OBJECTIVES[18])] == [
        0,
        10,
        10,
        18,
    ]
    with pytest.raises(OptionError, match="its outputs are 0 to 18, or helpsteer-helpfulness, .*gated overall score"):
        output_of(armorm(), None, "m")
    assert described(armorm(), 10) == "output 10 of 19 (beavertails-is_safe)"
    assert described(config_of("LABEL_0"), 0) == "output 0 of 1"


@pytest.mark.parametrize("kind", [TreeReward, CopiesReward, UncachedReward])
def test_every_kind_of_reward_takes_the_output(kind):
    classifier = make_model("llama_scorer", 4, **THREE)
    prompt, candidates = [3, 4, 5], torch.tensor([[7, 8, 9]])
    for output in range(3):
        reward = kind(classifier, None, output)
        with torch.inference_mode():
            reward.start([Prompt(0, "", "", tuple(prompt))])
            found = reward.rewards(candidates, torch.zeros(1, 3))[0]
            own = [classifier(torch.tensor([[*prompt, c]])).logits[0, output].item() for c in candidates[0].tolist()]
        assert found.tolist() == pytest.approx(own, abs=1e-4)
    assert choose_scalar_reward(classifier, output=2) is TreeReward


@pytest.fixture
def three(tmp_path):
    """A classifier of three labels, the second of which is its score by --dimension good."""
    model = make_model("llama_scorer", 4, **THREE)
    return save(tmp_path / "three", model, make_tokenizer())


def test_what_guides_is_what_scores(three, tiny, pad_folder, capsys):
    """A classifier of three labels guides by the one that is named, as a classifier of that one label does."""
    whole, alone = make_model("llama_scorer", 4, **THREE), make_model("llama_scorer", 4)
    alone.base_model.load_state_dict(whole.base_model.state_dict())
    heads = whole.score.weight.data
    found = {}
    for output, label in enumerate(("bad", "good", "odd")):
        alone.score.weight.data = heads[output : output + 1]
        save(pad_folder / f"only_{label}", alone)
        assert collect(*options(tiny, "--rm", pad_folder / f"only_{label}", rm=None, out=f"out/{label}")) == 0
        for dimension in (label, output):
            out = f"out/{label}_{dimension}"
            assert collect(*options(tiny, "--rm", three, "--dimension", dimension, rm=None, out=out)) == 0
            assert f"three: output {output} of 3 ({label}) is the reward" in capsys.readouterr().err
            one, several = (rows_of(pad_folder / f"{name}_0.jsonl") for name in (f"out/{label}", out))
            assert [row["result"] for row in several] == [row["result"] for row in one]
        found[label] = [row["result"] for row in one]
        assert (
            json.loads((pad_folder / f"out/{label}_{label}_0.meta.json").read_text())["settings"]["dimension"] == output
        )
    assert found["bad"] != found["good"] != found["odd"]


def test_several_without_a_name_are_refused_in_both(three, tiny, pad_folder, capsys):
    needed = "--dimension is needed for .*: its outputs are 0 to 2, or bad, good, odd"
    assert collect(*options(tiny, "--rm", three, rm=None)) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert re.search(needed, error) and not (pad_folder / "out/x_0.jsonl").exists()
    (pad_folder / "a.json").write_text(json.dumps([{"prompt": "Q?", "result": "A."}]))
    assert measure_reward.main(["--out_file", "a.json", "--rm", str(three)]) == 2
    assert re.search(needed, capsys.readouterr().err)
    assert measure_reward.main(["--out_file", "a.json", "--rm", str(three), "--dimension", "good"]) == 0
    assert "output 1 of 3 (good)" in capsys.readouterr().err


def test_an_output_is_continued_with_the_same_one(three, tiny, pad_folder, capsys):
    """Earlier versions were guided by the first of several, and said nothing of it in the meta file."""
    assert collect(*options(tiny, "--rm", three, "--dimension", "bad", rm=None)) == 0
    assert collect(*options(tiny, "--rm", three, "--dimension", "0", rm=None)) == 0
    assert collect(*options(tiny, "--rm", three, "--dimension", "good", rm=None)) == 2
    assert "--dimension was 0, is 1" in capsys.readouterr().err
    path = pad_folder / "out/x_0.meta.json"
    meta = json.loads(path.read_text())
    del meta["settings"]["dimension"]
    path.write_text(json.dumps(meta))
    assert collect(*options(tiny, "--rm", three, "--dimension", "good", rm=None)) == 2
    assert "--dimension was 0, is 1" in capsys.readouterr().err
    assert collect(*options(tiny, "--rm", three, "--dimension", "bad", rm=None)) == 0


def test_what_has_no_outputs_to_choose(tiny, scorers, pad_folder, capsys):
    assert collect(*options(tiny, "--dimension", 1)) == 2
    assert "--dimension is for sequence classifiers" in capsys.readouterr().err
    assert collect(*options(tiny, "--dimension", 1, rm="classifier")) == 2
    assert "--dimension has no choice '1'" in capsys.readouterr().err
    for more in ([], ["--rm_type", "scalar", "--dimension", 3]):
        assert collect(*options(tiny, "--rm", scorers / "armorm", *more, rm=None)) == 2
        assert "is an ArmoRM, which scores whole answers: name it to measure_reward.py" in capsys.readouterr().err
