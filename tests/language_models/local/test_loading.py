import json
import subprocess
import sys

import needs
import pytest
from runs import REPOSITORY

torch = needs.module("torch")

from tiny_models import END_OF_TURN, make_model, make_tokenizer, save, save_adapter  # noqa: E402
from transformers import BloomConfig, BloomForCausalLM, Phi3Config  # noqa: E402

from command.errors import OptionError  # noqa: E402
from language_models.interface import ModelError  # noqa: E402
from language_models.local import loading  # noqa: E402
from language_models.local.loading import (  # noqa: E402
    eos_token_ids,
    load_causal_lm,
    load_model,
    load_tokenizer,
    load_with_adapter,
    pick_device,
    pick_dtype,
)
from language_models.local.windows import NO_LIMIT, config_length, context_length  # noqa: E402

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "llama", make_model("llama", 1))


def test_run_api_imports_no_torch():
    code = "import sys, run_api, language_models.local.loading; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_a_model_as_it_was_saved(folder):
    model, tokenizer = load_causal_lm(str(folder), **CPU), load_tokenizer(str(folder))
    ids = tokenizer("How do I bake bread?", return_tensors="pt")["input_ids"]
    assert torch.equal(model(ids).logits, make_model("llama", 1)(ids).logits)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert load_causal_lm(str(folder), **CPU | {"dtype": torch.bfloat16}).dtype == torch.bfloat16


def test_a_text_is_no_longer_than_what_changes_no_other_one():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "rope_theta": 10000.0}
    sizes = {"max_position_embeddings": 4096, "original_max_position_embeddings": 512, "hidden_size": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    assert config_length(Phi3Config(**sizes, **heads, rope_parameters=rope)) == 512
    assert config_length(Phi3Config(**sizes, **heads)) == 4096


def test_length_and_ends(folder):
    model, tokenizer = load_causal_lm(str(folder), **CPU), load_tokenizer(str(folder))
    assert context_length(model) == 512
    assert context_length(make_model("gpt2", 1, context=128)) == 128
    bloom = BloomForCausalLM(BloomConfig(vocab_size=600, hidden_size=32, n_layer=1, n_head=2))
    assert context_length(bloom) == NO_LIMIT  # its positions have no end
    assert eos_token_ids(model, tokenizer) == {1, tokenizer.convert_tokens_to_ids(END_OF_TURN)}
    assert eos_token_ids(model, tokenizer, end_of_turn=False) == {1}
    model.generation_config.eos_token_id = [7, 8]
    assert eos_token_ids(model, make_tokenizer(template=None)) == {1, 7, 8}


def test_weights_in_4_bits_are_near_the_whole_ones(tmp_path):
    needs.module("bitsandbytes")
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


class TestAdapters:
    @pytest.fixture
    def adapter(self, folder, tmp_path):
        needs.module("peft")
        return save_adapter(tmp_path / "adapter", make_model("llama", 1), folder)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_on_and_off(self, dtype, adapter, folder):
        ids, where = torch.tensor([[3, 4, 5]]), {"device": torch.device("cpu"), "dtype": dtype}
        whole = load_causal_lm(str(folder), **where)
        model, switch = load_with_adapter("AutoModelForCausalLM", str(adapter), **where)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype} and not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        with torch.inference_mode():
            on, expected = model(ids).logits, whole(ids).logits
            with switch.disable_adapter():
                off = model(ids).logits
            assert torch.equal(off, expected) and not torch.equal(on, expected)
            assert torch.equal(model(ids).logits, on)
        assert load_with_adapter("AutoModelForCausalLM", str(folder), **where)[1] is None

    def test_its_tokenizer_is_the_base_model_s(self, adapter, folder):
        assert load_tokenizer(str(adapter)).get_vocab() == load_tokenizer(str(folder)).get_vocab()

    def test_without_peft(self, adapter, monkeypatch):
        there = loading.importlib.util.find_spec
        monkeypatch.setattr(
            loading.importlib.util,
            "find_spec",
            lambda name, *more: None if name == "peft" else there(name, *more),
        )
        with pytest.raises(OptionError, match="is an adapter, which needs peft: pip install"):
            load_causal_lm(str(adapter), **CPU)

    def test_half_of_one(self, adapter):
        (adapter / "adapter_model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError, match=r"the adapter \S+ cannot be loaded .*; is the folder whole\?"):
            load_causal_lm(str(adapter), **CPU)

    def test_a_base_model_that_is_not_there(self, adapter, tmp_path):
        config = adapter / "adapter_config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "no")})
        )
        with pytest.raises(OptionError, match="no' is no folder with a model"):
            load_causal_lm(str(adapter), **CPU)

    def test_an_adapter_of_the_prompt(self, folder, tmp_path):
        peft = needs.module("peft")
        how = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        tuned = peft.get_peft_model(load_causal_lm(str(folder), **CPU), how)
        tuned.peft_config["default"].base_model_name_or_path = str(folder)
        tuned.save_pretrained(tmp_path / "tuned")
        with pytest.raises(ModelError, match="changes the prompt"):
            load_causal_lm(str(tmp_path / "tuned"), **CPU)


@pytest.mark.parametrize(
    "package, load, remedy",
    [
        ("torch", lambda name: load_tokenizer(name), "pip install -r requirements-torch.txt"),
        ("transformers", lambda name: load_causal_lm(name, **CPU), "pip install -r requirements-torch.txt"),
        ("bitsandbytes", lambda name: load_causal_lm(name, **CPU, load_in_4bit=True), "pip install bitsandbytes"),
    ],
)
def test_what_to_install_is_said(package, load, remedy, folder, monkeypatch):
    there = loading.importlib.util.find_spec
    monkeypatch.setattr(
        loading.importlib.util, "find_spec", lambda name, *more: None if name == package else there(name, *more)
    )
    with pytest.raises(OptionError, match=rf"{package}.*: {remedy}"):
        load(str(folder))
