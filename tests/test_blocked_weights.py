import pytest

torch = pytest.importorskip("torch", reason="models in this process need torch; scripts/test.sh installs it")

from tiny_models import make_model  # noqa: E402
from torch import nn  # noqa: E402

from blocked_weights import BlockedLinear, block_weights, weight_bytes  # noqa: E402

IDS = torch.tensor([[3, 17, 256, 4, 99, 41, 5]])


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


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
        assert block_weights(model) == sum(isinstance(layer, BlockedLinear) for layer in model.modules()) > 8
        close = 1e-4 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(logits(model), before, rtol=close, atol=close)
        assert isinstance(model.lm_head, BlockedLinear) and not isinstance(model.get_input_embeddings(), BlockedLinear)
        head = model.lm_head.blocked.numel() * dtype.itemsize
        assert weight_bytes(model) == bytes_before + (head if tied else 0)

    def test_a_layer_that_is_kept(self):
        model = make_model("llama", 1)
        block_weights(model, keep=model.lm_head)
        assert type(model.lm_head) is nn.Linear

    def test_other_number_formats_and_adapters_are_left_alone(self):
        model = make_model("llama", 1)
        assert block_weights(model.to(torch.float64)) == 0
        model.to(torch.float32).peft_config = {}
        assert block_weights(model) == 0
        assert not any(isinstance(layer, BlockedLinear) for layer in model.modules())

    @pytest.mark.parametrize(
        "fault", [lambda x: x[..., :1] * 0, lambda x: (_ for _ in ()).throw(RuntimeError("no kernel"))]
    )
    def test_a_processor_that_computes_it_wrongly_keeps_the_plain_layers(self, monkeypatch, fault):
        model = make_model("llama", 1)
        monkeypatch.setattr(BlockedLinear, "forward", lambda self, x: fault(x))
        assert block_weights(model) == 0
        assert not any(isinstance(layer, BlockedLinear) for layer in model.modules())
