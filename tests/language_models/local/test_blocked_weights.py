import needs
import pytest

torch = needs.module("torch")

from collect_runs import collect, options  # noqa: E402
from tiny_models import make_model, make_tokenizer  # noqa: E402
from torch import nn  # noqa: E402

import pad.models  # noqa: E402
from language_models.local.blocked_weights import BlockedLinear, block_weights, can_block, weight_bytes  # noqa: E402
from language_models.local.model import LocalModel  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402

IDS = torch.tensor([[3, 17, 256, 4, 99, 41, 5]])


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


NO_ONEDNN = needs.reason("this torch comes without oneDNN", "a processor on which PyTorch has it, such as x86-64")
NEEDS_ONEDNN = pytest.mark.skipif(not can_block(torch.float32), reason=NO_ONEDNN)


def blocked(model) -> list[BlockedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, BlockedLinear)]


@NEEDS_ONEDNN
class TestLayer:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("shape", [(1, 24), (2, 5, 24), (0, 24), (300, 24)])
    def test_computes_what_the_plain_layer_computes(self, shape, bias):
        layer, x = nn.Linear(24, 40, bias=bias).requires_grad_(False), torch.randn(shape)
        torch.testing.assert_close(BlockedLinear(layer)(x), layer(x), rtol=1e-5, atol=1e-5)

    def test_rows_that_do_not_lie_one_after_another(self):
        layer, x = nn.Linear(24, 40).requires_grad_(False), torch.randn(24, 7).T
        torch.testing.assert_close(BlockedLinear(layer)(x), layer(x), rtol=1e-5, atol=1e-5)

    def test_its_weights_can_be_read(self):
        layer = nn.Linear(24, 40)
        assert torch.equal(BlockedLinear(layer).weight, layer.weight)


class TestModel:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("tied", [True, False])
    def test_says_what_it_said(self, dtype, tied):
        model = make_model("llama", 1, tie_word_embeddings=tied).to(dtype)
        before, bytes_before = logits(model), weight_bytes(model)
        assert block_weights(model) == len(blocked(model))
        close = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(logits(model), before, rtol=close, atol=close)
        assert not isinstance(model.get_input_embeddings(), BlockedLinear)
        if can_block(dtype):
            assert model.lm_head in blocked(model) and len(blocked(model)) > 8
            head = model.lm_head.blocked.numel() * dtype.itemsize
            assert weight_bytes(model) == bytes_before + (head if tied else 0)
        else:
            assert not blocked(model) and weight_bytes(model) == bytes_before

    @NEEDS_ONEDNN
    def test_a_layer_that_is_kept(self):
        model = make_model("llama", 1)
        block_weights(model, keep=model.lm_head)
        assert type(model.lm_head) is nn.Linear and blocked(model)

    def test_what_is_left_alone(self):
        model = make_model("llama", 1)
        assert block_weights(model.to(torch.float64)) == 0
        assert not blocked(model)

    def test_an_adapter(self):
        peft = needs.module("peft")
        model = peft.get_peft_model(make_model("llama", 1), peft.LoraConfig(target_modules=["q_proj"])).get_base_model()
        assert block_weights(model) == 0 and not blocked(model)

    @pytest.mark.parametrize(
        "fault", [lambda x: x[..., :1] * 0, lambda x: (_ for _ in ()).throw(RuntimeError("no kernel"))]
    )
    def test_a_processor_that_computes_it_wrongly_keeps_the_plain_layers(self, monkeypatch, fault):
        model = make_model("llama", 1)
        monkeypatch.setattr(BlockedLinear, "forward", lambda self, x: fault(x))
        assert block_weights(model) == 0 and not blocked(model)

    @NEEDS_ONEDNN
    def test_what_is_saved_is_whole(self, tmp_path):
        model = make_model("llama", 1)
        before = logits(model)
        block_weights(model)
        fresh = make_model("llama", 2)
        fresh.load_state_dict(model.state_dict())
        torch.testing.assert_close(logits(fresh), before)

    @NEEDS_ONEDNN
    def test_weights_that_layers_share_are_kept_once(self):
        model = nn.Module()
        model.a, model.b = nn.Linear(8, 8), nn.Linear(8, 8)
        model.b.weight = model.a.weight
        model.c, model.d = model.a, nn.Sequential(model.a)
        before = weight_bytes(model) - model.a.bias.nbytes * 2
        x = torch.randn(2, 8)
        expected = [layer(x) for layer in (model.a, model.b, model.c, model.d)]
        assert block_weights(model) == 4
        for layer, result in zip((model.a, model.b, model.c, model.d), expected, strict=True):
            torch.testing.assert_close(layer(x), result)
        assert weight_bytes(model) == before + model.a.bias.nbytes * 2


@NEEDS_ONEDNN
class TestWhereItIsUsed:
    def test_by_a_model_in_this_process(self):
        model = make_model("llama", 1, tie_word_embeddings=True)
        parameters = sum(p.numel() for p in model.parameters())
        local = LocalModel("x", model, make_tokenizer(), end_ids=frozenset(), context_length=64)
        assert model.lm_head in blocked(model) and local.report["parameters"] == parameters
        assert local.memory == weight_bytes(model) + local.engine.cache.bytes > 4 * (parameters + 600 * 64)

    def test_by_collect_model_outs(self, tiny, pad_folder, monkeypatch):
        loaded = []
        load = pad.models.load_models
        monkeypatch.setattr(pad.models, "load_models", lambda *words: loaded.append(load(*words)) or loaded[-1])
        assert collect(*options(tiny, "--limit", 1)) == 0
        assert collect(*options(tiny, "--limit", 1, rm="classifier", out="out/y")) == 0
        for models in loaded:
            assert models.lm.network.lm_head in blocked(models.lm.network)
        implicit, scalar = (models.make_reward(DecodingConfig(1.0, 10)) for models in loaded)
        assert blocked(implicit.policy.model) and type(implicit.policy.model.lm_head) is nn.Linear
        assert blocked(scalar.states.network)
