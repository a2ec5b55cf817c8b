"""Models with missing weights, in the commands of reward-guided decoding: nothing is generated or scored with random numbers."""

import json
import shutil

import needs
import pytest

needs.module("torch")

from collect_runs import collect, options  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import make_model, make_tokenizer  # noqa: E402

import measure_reward  # noqa: E402


@pytest.mark.parametrize("gone", ["score.weight", "model.norm.weight", "everything"])
def test_reward_models_that_are_not_whole(gone, tiny, pad_folder, capsys):
    """Random numbers would take the place of what is missing: neither command goes on."""
    shutil.copytree(tiny / "classifier", pad_folder / "rm")
    file = pad_folder / "rm/model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if name != gone}
    if gone == "everything":
        weights = {f"rwtransformer.{name}": weight for name, weight in weights.items()}
    save_file(weights, file, {"format": "pt"})
    (pad_folder / "a.json").write_text(json.dumps([{"prompt": "Q?", "result": "A."}]))
    for run in (
        lambda: collect(*options(tiny, "--rm", pad_folder / "rm", rm=None)),
        lambda: measure_reward.main(["--out_file", "a.json", "--rm", "rm"]),
    ):
        assert run() == 2
        shown = capsys.readouterr()
        error = shown.err.strip().splitlines()[-1]
        assert "rm does not hold a whole LlamaForSequenceClassification" in error and "mean" not in shown.out
        assert ("score.weight" if gone == "score.weight" else "model.") in error


def test_a_model_without_its_head(tiny, pad_folder, capsys):
    make_model("llama", 1).model.save_pretrained(pad_folder / "bare")
    make_tokenizer().save_pretrained(pad_folder / "bare")
    for more in (["--rm", pad_folder / "bare"], ["--llm", pad_folder / "bare"]):
        assert collect(*options(tiny, *more)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "bare does not hold a whole LlamaForCausalLM" in error and "lm_head.weight" in error
