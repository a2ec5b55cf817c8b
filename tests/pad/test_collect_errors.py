"""What is wrong with a command of collect_model_outs.py is said before any model is loaded."""

import json

import needs
import pytest

torch = needs.module("torch")

from collect_runs import GREEDY, collect, options  # noqa: E402

import pad.models  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(pad.models, "load_models", loaded)


@pytest.mark.parametrize(
    "config, more, message",
    [
        (None, ["--config", "no.config"], "--config no.config cannot be read"),
        ('{"rm_weight": 1.0, "topk": 10}\noops', [], "x.config, line 2: not JSON"),
        ('{"rm_weight": 1.0, "topk": 10, "mode": "p_sigmoid_mixing"}', [], "mode must be one of greedy, topk"),
        ('{"rm_weight": 1.0, "topk": 601}', [], "topk is 601, and there are 600 tokens"),
        (None, ["--dataset", "no.json"], "no file no.json"),
        (None, ["--dataset", "koala"], "no data set is called 'koala'"),
        (None, ["--llm", "/no/such/lm"], "'/no/such/lm' is no folder with a model"),
        (None, ["--rm", "/no/such/rm"], "'/no/such/rm' is no folder with a model"),
        (None, ["--rm", ""], "--rm is needed: the reward model"),
        (None, ["--out_file", ""], "--out_file is needed"),
        (None, ["--max_new_token", 0], "--max_new_token must be at least 1"),
        (None, ["--run_percent", 0], "--run_percent is above 0"),
        (None, ["--run_percent", "nan"], "--run_percent is above 0"),
        (None, ["--batch_size", 0], "--batch_size must be at least 1"),
        (None, ["--dtype", "int3"], "--dtype has no choice 'int3'"),
        (None, ["--rm_type", "scaler"], "--rm_type has no choice 'scaler'"),
        (None, ["--ref", "/no/such/ref"], "'/no/such/ref' is no folder with a model"),
        (None, ["--llm_gpu", "gpu0"], "no device is called 'gpu0'"),
        (None, ["--recover", "--overwrite"], "choose one"),
        (None, ["--data_dir", "nowhere"], "--data_dir is not a folder"),
        ('{"rm_weight": 1, "topk": 1, "perspective": "x"}', [], "between [Principles] and [Instruction]"),
        (None, ["--chat_template", "off", "--dataset", "long.json"], "every prompt is too long: it has "),
    ],
)
def test_what_is_wrong(config, more, message, tiny, pad_folder, capsys):
    if config:
        (pad_folder / "x.config").write_text(config)
    (pad_folder / "long.json").write_text(json.dumps(["x " * 600]))
    assert collect(*options(tiny, *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("collect_model_outs.py: error: ") and message in error


@pytest.mark.parametrize(
    "rm, more, message",
    [
        ("other_rm", [], "have different vocabularies; choose another pair, or --allow_cross_tokenizer"),
        ("other_rm", ["--allow_cross_tokenizer", "--ref", "self"], "--ref can be llm or none alone"),
        ("classifier", ["--PAD", "PAD4"], "is a sequence classifier, for --rm_type scalar"),
        ("rm", ["--rm_type", "scalar"], "is a language model without a reward head"),
        ("rm", ["--ref", "OTHER"], "has another vocabulary than the base LM"),
        ("rm", ["--ref", "CLASSIFIER"], "is a sequence classifier; name a language model"),
        ("rm", ["--llm", "CLASSIFIER"], "is a sequence classifier; name a language model"),
        ("rm", ["--ref", "self"], "--ref self compares with and without a preference"),
        ("classifier", ["--ref", "none"], "--ref none is for implicit rewards"),
        ("other_rm", ["--llm", "OTHER", "--tokenizer", "LM", "--allow_cross_tokenizer"], "gives the token id"),
    ],
)
def test_models_that_do_not_fit_together(rm, more, message, tiny, pad_folder, capsys):
    named = {"OTHER": "other_rm", "CLASSIFIER": "classifier", "LM": "lm"}
    more = [str(tiny / named[word]) if word in named else word for word in more]
    assert collect(*options(tiny, *more, rm=rm)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_outputs_of_other_runs_for_any_configuration(tiny, pad_folder, capsys):
    (pad_folder / "x.config").write_text(json.dumps(GREEDY) + "\n" + json.dumps(GREEDY | {"rm_weight": 0.5}))
    (pad_folder / "out").mkdir()
    row = {"index": 0, "prompt": "How do I bake bread?", "result": "?", "config": GREEDY, "seed": 0}
    for content, message in (
        (json.dumps(row) + "\n", "line 1 has the configuration"),
        (json.dumps(row | {"prompt": "Other?"}) + "\n", "line 1 answers another prompt"),
        ('[{"prompt": "A?",\n "response": "A? B"}]\n', "line 1: not a row of this program"),
    ):
        (pad_folder / "out/x_1.jsonl").write_text(content)
        assert collect(*options(tiny)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "out/x_1.jsonl" in error and message in error and "--overwrite" in error
        assert (pad_folder / "out/x_1.jsonl").read_text() == content and not (pad_folder / "out/x_0.jsonl").exists()
