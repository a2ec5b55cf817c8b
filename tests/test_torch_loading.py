import subprocess
import sys

import pytest
from conftest import REPOSITORY

torch = pytest.importorskip("torch", reason="models in this process need torch; scripts/test.sh installs it")

from tiny_models import END_OF_TURN, make_model, make_tokenizer, save  # noqa: E402
from transformers import BloomConfig, BloomForCausalLM  # noqa: E402

import torch_loading  # noqa: E402
from http_client import OptionError  # noqa: E402
from language_models import ModelError  # noqa: E402
from torch_loading import (  # noqa: E402
    NO_LIMIT,
    context_length,
    eos_token_ids,
    load_causal_lm,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
)

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "llama", make_model("llama", 1))


def test_run_api_imports_no_torch():
    code = "import sys, run_api, torch_loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_a_model_as_it_was_saved(folder):
    model, tokenizer = load_causal_lm(str(folder), **CPU), load_tokenizer(str(folder))
    ids = tokenizer("How do I bake bread?", return_tensors="pt")["input_ids"]
    assert torch.equal(model(ids).logits, make_model("llama", 1)(ids).logits)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert load_causal_lm(str(folder), **CPU | {"dtype": torch.bfloat16}).dtype == torch.bfloat16


def test_length_and_ends(folder):
    model, tokenizer = load_causal_lm(str(folder), **CPU), load_tokenizer(str(folder))
    assert context_length(model) == 512
    assert context_length(make_model("gpt2", 1, context=128)) == 128
    bloom = BloomForCausalLM(BloomConfig(vocab_size=600, hidden_size=32, n_layer=1, n_head=2))
    assert context_length(bloom) == NO_LIMIT  # its positions have no end
    assert eos_token_ids(model, tokenizer) == {1, tokenizer.convert_tokens_to_ids(END_OF_TURN)}
    model.generation_config.eos_token_id = [7, 8]
    assert eos_token_ids(model, make_tokenizer(template=None)) == {1, 7, 8}


def test_weights_in_4_bits_are_near_the_whole_ones(tmp_path):
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes; scripts/test.sh installs it")
    torch.manual_seed(0)
    name = str(save(tmp_path / "scorer", make_model("llama_scorer", 4, layers=1)))
    ids, found = torch.arange(5, 30)[None], []
    for options in ({}, {"load_in_4bit": True}):
        model = load_model("AutoModelForSequenceClassification", name, **CPU, **options)
        found.append(model.base_model(ids)[0][0, -1])
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit" and type(model.score) is torch.nn.Linear
    assert 0.9 < torch.cosine_similarity(*found, dim=0) < 0.99999


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "xla", "cuda:x"])
def test_devices_that_are_not_there(name):
    with pytest.raises(OptionError, match=name):
        pick_device(name)


def test_devices_and_number_formats():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda", "mps")
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("auto", torch.device("mps")) is torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) is torch.float16
    with pytest.raises(OptionError, match="--dtype has no choice 'int8'"):
        pick_dtype("int8", torch.device("cpu"))


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "no/such/folder", ""])
def test_no_such_folder(name):
    with pytest.raises(OptionError, match="no folder"):
        load_tokenizer(name)


def test_folders_that_hold_no_model_or_half_of_one(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match=r"no config\.json"):
        load_causal_lm(str(tmp_path / "empty"), **CPU)
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ModelError, match=r"half cannot be loaded .*; is the folder whole\?"):
        load_causal_lm(str(tmp_path / "half"), **CPU)


@pytest.mark.parametrize(
    "package, load, remedy",
    [
        ("torch", lambda name: load_tokenizer(name), "pip install -r requirements-torch.txt"),
        ("transformers", lambda name: load_causal_lm(name, **CPU), "pip install -r requirements-torch.txt"),
        ("bitsandbytes", lambda name: load_causal_lm(name, **CPU, load_in_4bit=True), "pip install bitsandbytes"),
    ],
)
def test_what_to_install_is_said(package, load, remedy, folder, monkeypatch):
    there = torch_loading.importlib.util.find_spec
    monkeypatch.setattr(
        torch_loading.importlib.util, "find_spec", lambda name, *more: None if name == package else there(name, *more)
    )
    with pytest.raises(OptionError, match=rf"{package}.*: {remedy}"):
        load(str(folder))
