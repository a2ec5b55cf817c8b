"""Checkpoints that are not whole: whatever weight is taken away, renamed or added, a load refuses and names it."""

import json
import shutil

import needs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = needs.module("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import edit_config, make_model, save, save_adapter  # noqa: E402

from command.errors import OptionError  # noqa: E402
from command.weights import wrong_weights  # noqa: E402
from language_models.interface import ModelError  # noqa: E402
from language_models.local.loading import load_causal_lm, load_model, load_with_adapter  # noqa: E402

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
LM, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
KINDS = {
    "llama": (LM, "llama", {"layers": 1}),
    "tied": (LM, "llama", {"layers": 1, "tie_word_embeddings": True}),
    "gpt2": (LM, "gpt2", {}),
    "llama_scorer": (CLASSIFIER, "llama_scorer", {"layers": 1}),
    "gpt2_scorer": (CLASSIFIER, "gpt2_scorer", {}),
    "distilbert": (CLASSIFIER, "distilbert", {}),
}
FORMS = ("safetensors", "sharded", "bin", "sharded_bin")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, and its weights."""
    root = tmp_path_factory.mktemp("whole")
    made = {name: save(root / name, make_model(kind, 1, **more)) for name, (_, kind, more) in KINDS.items()}
    return {name: (folder, load_file(folder / "model.safetensors")) for name, folder in made.items()}


def write(folder, whole, weights, form="safetensors"):
    """A copy of the folder `whole` with other weights, in one or two files of either format."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    name = "pytorch_model" if form.endswith("bin") else "model"
    suffix = "bin" if form.endswith("bin") else "safetensors"

    def put(part, path):
        torch.save(part, path) if suffix == "bin" else save_file(part, path, {"format": "pt"})

    if form.startswith("sharded"):
        parts = {f"{name}-{i + 1}.{suffix}": dict(list(weights.items())[i::2]) for i in range(2)}
        for file, part in parts.items():
            put(part, folder / file)
        index = {"metadata": {}, "weight_map": {key: file for file, part in parts.items() for key in part}}
        (folder / f"{name}.{suffix}.index.json").write_text(json.dumps(index))
    else:
        put(weights, folder / f"{name}.{suffix}")
    return folder


@settings(max_examples=60)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), form=st.sampled_from(FORMS))
def test_any_weight_that_is_missing_is_named(data, kind, form, folders, tmp_path_factory):
    whole, weights = folders[kind]
    gone = data.draw(st.sets(st.sampled_from(sorted(weights)), max_size=3))
    folder = tmp_path_factory.mktemp("w") / "w"
    write(folder, whole, {key: weight for key, weight in weights.items() if key not in gone}, form)
    try:
        if not gone:
            model = load_model(KINDS[kind][0], str(folder), **CPU)
            assert all(torch.equal(model.state_dict()[key], weight) for key, weight in weights.items())
            return
        with pytest.raises(ModelError) as error:
            load_model(KINDS[kind][0], str(folder), **CPU)
        message = str(error.value)
        assert str(folder) in message and "are missing and would be random numbers" in message
        assert any(key in message for key in gone) and "\n" not in message
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("load_in_4bit", [False, True])
def test_missing_weights_in_4_bits_too(load_in_4bit, folders, tmp_path):
    if load_in_4bit:
        needs.module("bitsandbytes")
    whole, weights = folders["llama"]
    gone = "model.layers.0.mlp.up_proj.weight"
    folder = write(tmp_path / "w", whole, {key: weight for key, weight in weights.items() if key != gone})
    with pytest.raises(ModelError, match=f"1 of its weights are missing .*{gone}"):
        load_causal_lm(str(folder), **CPU, load_in_4bit=load_in_4bit)
    load_causal_lm(str(whole), **CPU, load_in_4bit=load_in_4bit)


class TestModelsOfAnotherKind:
    @pytest.mark.parametrize(
        "kind, auto_class, named",
        [
            ("llama", CLASSIFIER, "LlamaForSequenceClassification: 1 of its weights are missing .*score.weight"),
            (
                "llama_scorer",
                LM,
                "LlamaForCausalLM: 1 of its weights are missing .*lm_head.weight.*left out .score.weight",
            ),
            ("distilbert", "AutoModelForMaskedLM", "5 of its weights are missing .*vocab_layer_norm"),
        ],
    )
    def test_heads(self, kind, auto_class, named, folders):
        with pytest.raises(ModelError, match=named):
            load_model(auto_class, str(folders[kind][0]), **CPU)

    def test_a_bare_base_model(self, folders, tmp_path):
        whole, _ = folders["llama"]
        folder = tmp_path / "bare"
        shutil.copytree(whole, folder)
        make_model("llama", 1, layers=1).model.save_pretrained(folder)
        for auto_class, head in ((LM, "lm_head.weight"), (CLASSIFIER, "score.weight")):
            with pytest.raises(ModelError, match=f"missing .*{head}"):
                load_model(auto_class, str(folder), **CPU)
        load_model("AutoModel", str(folder), **CPU)

    def test_names_of_another_program(self, folders, tmp_path):
        """DeepSpeed-Chat's reward models: a backbone called rwtranrsformer, and a head called v_head."""
        whole, weights = folders["llama_scorer"]
        renamed = {
            key.replace("model.", "rwtranrsformer.").replace("score.", "v_head."): w for key, w in weights.items()
        }
        folder = write(tmp_path / "w", whole, renamed, "bin")
        with pytest.raises(ModelError, match="missing .*rwtranrsformer.*under other names"):
            load_model(CLASSIFIER, str(folder), **CPU)

    @pytest.mark.parametrize("kind", ["tied", "gpt2"])
    @pytest.mark.parametrize("head", ["score.weight", "v_head.summary.weight"])
    def test_heads_that_would_be_left_out(self, kind, head, folders, tmp_path):
        """With tied embeddings nothing is missing in a reward model that is loaded as a language model."""
        whole, weights = folders[kind]
        folder = write(tmp_path / "w", whole, weights | {head: torch.zeros(1, 64)})
        with pytest.raises(ModelError, match=f"1 have no place in it and would be left out .{head}"):
            load_causal_lm(str(folder), **CPU)
        load_model("AutoModel", str(folder), **CPU, part=True)

    def test_more_layers_than_the_configuration_names(self, folders, tmp_path):
        folder = save(tmp_path / "w", make_model("llama", 1, layers=2))
        edit_config(folder, num_hidden_layers=1)
        with pytest.raises(ModelError, match=r"9 have no place .*model\.layers\.1\..*, and 6 more"):
            load_causal_lm(str(folder), **CPU)

    def test_another_size(self, folders, tmp_path):
        whole, weights = folders["llama"]
        folder = write(tmp_path / "w", whole, weights | {"lm_head.weight": torch.zeros(500, 64)})
        with pytest.raises(ModelError, match="1 have another size .lm_head.weight 500x64 instead of 600x64"):
            load_causal_lm(str(folder), **CPU)
        with pytest.raises(ModelError, match="score.weight 1x64 instead of 3x64"):
            load_model(CLASSIFIER, str(folders["llama_scorer"][0]), **CPU, num_labels=3)

    def test_old_buffers_are_no_weights(self, folders, tmp_path):
        whole, weights = folders["llama"]
        extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8), "mtp.fc.weight": torch.zeros(2, 2)}
        load_causal_lm(str(write(tmp_path / "w", whole, weights | extra)), **CPU)

    def test_a_classifier_s_former_output_matrix_is_not_its_own(self, folders, tmp_path):
        whole, weights = folders["llama_scorer"]
        load_model(
            CLASSIFIER, str(write(tmp_path / "w", whole, weights | {"lm_head.weight": torch.zeros(600, 64)})), **CPU
        )

    def test_weights_that_were_saved_in_4_bits(self, folders, tmp_path):
        needs.module("bitsandbytes")
        model = load_causal_lm(str(folders["llama"][0]), **CPU, load_in_4bit=True)
        folder = save(tmp_path / "four", model)
        ids = torch.tensor([[3, 4, 5]])
        assert torch.allclose(load_causal_lm(str(folder), **CPU)(ids).logits, model(ids).logits, atol=1e-4)


class TestAdapters:
    @pytest.fixture
    def adapter(self, folders, tmp_path):
        needs.module("peft")
        return save_adapter(tmp_path / "adapter", make_model("llama", 1, layers=1), folders["llama"][0])

    def test_half_of_one(self, adapter):
        file = adapter / "adapter_model.safetensors"
        weights = load_file(file)
        for gone in weights:
            save_file({key: weight for key, weight in weights.items() if key != gone}, file, {"format": "pt"})
            with pytest.raises(ModelError, match=f"the adapter .* 1 of its weights are missing .*{gone}"):
                load_causal_lm(str(adapter), **CPU)
        save_file(weights, file, {"format": "pt"})
        load_causal_lm(str(adapter), **CPU)

    def test_one_with_weights_of_another_model(self, adapter):
        file = adapter / "adapter_model.safetensors"
        weights = load_file(file)
        more = {key.replace("layers.0", "layers.1"): weight.clone() for key, weight in weights.items()}
        save_file(weights | more, file, {"format": "pt"})
        with pytest.raises(ModelError, match="4 have no place in it"):
            load_causal_lm(str(adapter), **CPU)

    def test_a_base_model_that_is_not_whole(self, adapter, folders, tmp_path):
        whole, weights = folders["llama"]
        base = write(tmp_path / "base", whole, {k: w for k, w in weights.items() if k != "model.norm.weight"})
        config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=rf"{base} does not hold .*model\.norm\.weight"):
            load_causal_lm(str(adapter), **CPU)

    def test_a_head_that_the_adapter_brings(self, folders, tmp_path):
        """A reward model is often trained as an adapter and a head on a base model that has none."""
        needs.module("peft")
        base = tmp_path / "base"
        shutil.copytree(folders["llama"][0], base)
        edit_config(base, num_labels=1, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0})
        trained = make_model("llama_scorer", 1, layers=1)
        adapter = save_adapter(tmp_path / "adapter", trained, base, task_type="SEQ_CLS", modules_to_save=["score"])
        model, _ = load_with_adapter(CLASSIFIER, str(adapter), **CPU, part=True)
        ids = torch.tensor([[3, 4, 5]])
        assert model.score(torch.ones(64)).item() == pytest.approx(trained.score(torch.ones(64)).item())
        assert torch.isfinite(model(ids).logits).all()
        file = adapter / "adapter_model.safetensors"
        weights = {key: weight for key, weight in load_file(file).items() if "score" not in key}
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(ModelError, match=r"score\.weight"):
            load_with_adapter(CLASSIFIER, str(adapter), **CPU, part=True)

    def test_a_whole_model_and_an_adapter_in_one_folder(self, adapter, folders):
        shutil.copytree(folders["llama"][0], adapter, dirs_exist_ok=True)
        with pytest.raises(OptionError, match=r"a whole model .* and an adapter .*; move one of them elsewhere"):
            load_causal_lm(str(adapter), **CPU)


@pytest.mark.parametrize(
    "unused",
    [
        *("roberta.pooler.dense.weight", "model.layers.0.self_attn.rotary_emb.cos_cached", "lm_head.weight"),
        *("h.0.attn.bias", "gpt_neox.layers.0.attention.masked_bias", "bert.embeddings.position_ids"),
    ],
)
def test_what_hub_checkpoints_hold_beside_their_model(unused):
    """As cardiffnlp's RoBERTa classifiers do, and what older versions saved."""
    assert wrong_weights("m", "Model", [], [unused]) is None
    assert wrong_weights("m", "Model", [unused])


def test_the_sentence():
    assert wrong_weights("m", "Model", [], ["a.rotary_emb.inv_freq"]) is None
    assert wrong_weights("m", "Model", ["score.weight"], ["lm_head.weight"], may_lack=r"^score\.", part=True) is None
    found = wrong_weights("m", "Model", list("edcba"), ["x"], [("y", (2, 3), (2, 4))])
    assert found.startswith(
        "m does not hold a whole Model: 5 of its weights are missing and would be random numbers (a, b, c, and 2 more); "
        "1 have no place in it and would be left out (x); 1 have another size (y 2x3 instead of 2x4). "
    )
    assert wrong_weights("m", "M", ["score.weight", "norm"], may_lack=r"^score\.").count("norm") == 1
    # A bias that the configuration knows nothing of is a weight, not a buffer of the attention.
    assert wrong_weights("m", "M", [], ["model.layers.0.self_attn.q_proj.bias"])
