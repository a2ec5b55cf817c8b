"""Fused layers: what is put together, what is left alone, what is undone. Their kernels: tests/support/interpreted_kernels.py."""

import sys

import needs
import pytest

torch = needs.module("torch")

from local_models import ARCHITECTURES  # noqa: E402
from torch import nn  # noqa: E402
from transformers.models.llama import modeling_llama  # noqa: E402

from language_models.local import fused_kernels, fused_layers  # noqa: E402
from language_models.local.blocked_weights import weight_bytes  # noqa: E402
from language_models.local.fused_layers import fuse, fuse_where_it_pays  # noqa: E402

IDS = torch.tensor([[3, 17, 256, 4, 99, 41, 5]])
LLAMA = ARCHITECTURES["llama"]
NOTHING = {"linears": 0, "norms": 0, "gates": 0, "rotary": 0}
WITHOUT_KERNELS = NOTHING | {"linears": 4, "norms": 5}


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    """Here they cannot run, even where Triton is."""
    monkeypatch.setattr(fused_layers, "run_on", lambda _: False)


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(IDS, use_cache=False).logits


def state(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_untouched(model, before: dict[str, torch.Tensor]) -> None:
    """Its weights are what they were, in storages of their own, and no layer has a forward of its own."""
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
    assert not any("forward" in module.__dict__ for module in model.modules())


class TestFuse:
    @pytest.mark.parametrize("bias", [False, True])
    def test_computes_the_same_and_can_be_undone(self, bias):
        model = ARCHITECTURES["tied llama" if bias else "llama"](3)
        before, expected, size = state(model), logits(model), weight_bytes(model)
        fusion = fuse(model)
        assert (fusion.counts, fusion.refusal) == (WITHOUT_KERNELS, "")
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
        attention = model.model.layers[0].self_attn
        joint = [
            layer.weight.untyped_storage().data_ptr()
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        assert len(set(joint)) == 1
        assert weight_bytes(model) == size
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name])
        fusion.undo("no use")
        assert (fusion.counts, fusion.refusal) == (NOTHING, "no use")
        assert_untouched(model, before)
        assert torch.equal(logits(model), expected)
        assert weight_bytes(model) == size
        assert fuse(model).counts == WITHOUT_KERNELS

    def test_twice_does_nothing_more(self):
        model = LLAMA(3)
        first, second = fuse(model), fuse(model)
        assert second.counts == NOTHING
        second.undo()
        assert first.counts == WITHOUT_KERNELS
        expected = logits(LLAMA(3))
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)

    def test_layers_may_be_called_in_any_order(self):
        model = LLAMA(3)
        plain = LLAMA(3).model.layers[1].self_attn
        fused = model.model.layers[1].self_attn
        fuse(model)
        x, y = torch.randn(1, 4, 64), torch.randn(1, 4, 64)
        for name, given in (
            ("v", x),
            ("q", x),
            ("k", y),
            ("v", y),
            ("q", y),
            ("v", x),
            ("k", x),
            ("q", x),
            ("q", y),
            ("k", y),
        ):
            expected, found = (getattr(layer, f"{name}_proj")(given) for layer in (plain, fused))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "olmo2"])
    def test_other_models_of_the_process_stay_as_they_are(self, architecture, monkeypatch):
        model, other = ARCHITECTURES[architecture](3), ARCHITECTURES[architecture](4)
        source = sys.modules[type(model).__module__]
        rotary, classes = (
            source.apply_rotary_pos_emb,
            {k: v.forward for k, v in vars(source).items() if hasattr(v, "forward")},
        )
        monkeypatch.setattr(fused_layers, "run_on", lambda _: True)
        monkeypatch.setattr(fused_layers, "rotary", rotary)
        monkeypatch.setattr(
            fused_layers, "silu_times", lambda both: nn.functional.silu(both.chunk(2, -1)[0]) * both.chunk(2, -1)[1]
        )
        expected = logits(other)
        assert fuse(model).counts["rotary"] == 2
        assert torch.equal(logits(other), expected)
        assert source.apply_rotary_pos_emb is rotary
        assert classes == {k: v.forward for k, v in vars(source).items() if hasattr(v, "forward")}
        assert_untouched(other, state(other))

    def test_the_gate_is_put_together_only_if_it_is_silu(self, monkeypatch):
        monkeypatch.setattr(fused_layers, "run_on", lambda _: True)
        monkeypatch.setattr(
            fused_layers, "silu_times", lambda both: nn.functional.silu(both.chunk(2, -1)[0]) * both.chunk(2, -1)[1]
        )
        assert fuse(LLAMA(3)).counts["gates"] == 2
        model = LLAMA(3)
        model.model.layers[0].mlp.act_fn = nn.GELU()
        for layer in model.model.layers:  # so small that SiLU and GELU hardly differ
            layer.mlp.gate_proj.weight.data *= 1e-3
        expected = logits(model)
        assert fuse(model).counts["gates"] == 1
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)

    def test_a_norm_that_computes_something_else_is_left_alone(self, monkeypatch):
        """Told by numbers, not by its name or code."""

        class OtherRMSNorm(modeling_llama.LlamaRMSNorm):
            def forward(self, hidden_states):
                return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))

        monkeypatch.setattr(modeling_llama, "LlamaRMSNorm", OtherRMSNorm)
        assert fuse(LLAMA(3)).counts == WITHOUT_KERNELS | {"norms": 0}

    def test_rotary_positions_of_another_kind_are_left_alone(self, monkeypatch):
        monkeypatch.setattr(fused_layers, "run_on", lambda _: True)
        monkeypatch.setattr(fused_layers, "rotary", lambda q, k, cos, sin: (q * cos, k * cos))
        assert fuse(LLAMA(3)).counts["rotary"] == 0

    @pytest.mark.parametrize(
        ("change", "counts"),
        [
            (lambda layer: layer.self_attn.k_proj.register_forward_hook(lambda *_: None), {"linears": 3}),
            (lambda layer: layer.mlp.up_proj.register_forward_pre_hook(lambda *_: None), {"linears": 3}),
            (lambda layer: layer.input_layernorm.register_forward_hook(lambda *_: None), {"norms": 4}),
            (lambda layer: setattr(layer.self_attn.v_proj, "forward", lambda x: x), {"linears": 3}),
            (
                lambda layer: setattr(layer.self_attn, "v_proj", type("Quantised", (nn.Linear,), {})(64, 32)),
                {"linears": 3},
            ),
            (lambda layer: setattr(layer.self_attn.k_proj, "weight", layer.self_attn.v_proj.weight), {"linears": 3}),
            (lambda layer: setattr(layer.self_attn.k_proj, "bias", nn.Parameter(torch.ones(32))), {"linears": 3}),
            (lambda layer: layer.mlp.gate_proj.to(torch.bfloat16), {"linears": 3}),
            (lambda layer: nn.utils.parametrizations.weight_norm(layer.mlp.gate_proj), {"linears": 3}),
        ],
        ids=[
            "hook",
            "pre-hook",
            "hook on a norm",
            "own forward",
            "quantised",
            "shared",
            "one bias",
            "one dtype",
            "parametrised",
        ],
    )
    def test_what_is_more_than_a_plain_layer_is_left_alone(self, change, counts):
        model = LLAMA(3)
        change(model.model.layers[0])
        assert fuse(model).counts == WITHOUT_KERNELS | counts

    def test_adapters_are_left_alone(self):
        from peft import LoraConfig, get_peft_model

        model = LLAMA(3)
        get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
        fusion = fuse(model)
        assert (fusion.counts, fusion.refusal) == (NOTHING, "the model has adapters")

    def test_no_room_for_a_joint_weight(self, monkeypatch):
        model = LLAMA(3)
        before, cat, calls = state(model), torch.cat, []

        def sometimes(*args):
            calls.append(args)
            if len(calls) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return cat(*args)

        monkeypatch.setattr(torch, "cat", sometimes)
        with pytest.raises(torch.OutOfMemoryError):
            fuse(model)
        assert len(calls) == 3
        assert_untouched(model, before)


class TestWhereItPays:
    """On a device that says it is CUDA's."""

    @pytest.fixture
    def model(self, monkeypatch):
        model = LLAMA(3)
        monkeypatch.setattr(type(model), "device", torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        return model

    @pytest.fixture
    def before(self, model):
        return state(model)

    @pytest.mark.parametrize("seconds", [[2.0, 1.0], None])
    def test_it_does(self, model, before, seconds):
        del before
        times = seconds and iter(seconds)
        fusion = fuse_where_it_pays(model, lambda: logits(model), times and times.__next__)
        assert (fusion.counts, fusion.refusal) == (WITHOUT_KERNELS, "")

    @pytest.mark.parametrize(
        ("seconds", "reason"),
        [
            ([0.001, 0.002], "a pass takes 2 ms with it, 1 ms without"),
            ([1.0, 0.99], "a pass takes 990 ms with it, 1e+03 ms without"),
        ],
    )
    def test_it_does_not(self, model, before, seconds, reason):
        fusion = fuse_where_it_pays(model, lambda: logits(model), iter(seconds).__next__)
        assert (fusion.counts, fusion.refusal) == (NOTHING, reason)
        assert_untouched(model, before)

    @pytest.mark.parametrize("fault", [100.0, float("nan"), float("inf")])
    def test_other_logits(self, model, before, fault):
        faults = iter([0.0, fault])
        fusion = fuse_where_it_pays(model, lambda: logits(model) + torch.tensor(next(faults)) * torch.eye(7, 600))
        assert fusion.refusal.startswith("the logits differ by ")
        assert_untouched(model, before)

    def test_a_failure(self, model, before):
        def seconds():
            times.append(1.0)
            if len(times) == 2:
                raise RuntimeError("CUDA error: an illegal memory access\nmore of it")
            return 1.0

        times = []
        fusion = fuse_where_it_pays(model, lambda: logits(model), seconds)
        assert fusion.refusal.startswith("RuntimeError: CUDA error")
        assert "\n" not in fusion.refusal
        assert_untouched(model, before)

    def test_out_of_memory(self, model, before, monkeypatch):
        def full(*_):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(fused_layers._Together, "__init__", full)
        assert fuse_where_it_pays(model, lambda: logits(model)).refusal.startswith("out of memory")
        assert_untouched(model, before)

    def test_nothing_of_a_known_kind(self, monkeypatch):
        model = ARCHITECTURES["gpt2"](3)
        monkeypatch.setattr(type(model), "device", torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        assert fuse_where_it_pays(model, lambda: logits(model)).refusal == "no layers of a known kind"

    @pytest.mark.parametrize(("device", "seconds"), [("cpu", None), ("cpu", [2.0, 1.0]), ("mps", None)])
    def test_other_devices(self, monkeypatch, device, seconds):
        model = LLAMA(3)
        before = state(model)
        monkeypatch.setattr(type(model), "device", torch.device(device))
        fusion = fuse_where_it_pays(model, lambda: logits(model), seconds and iter(seconds).__next__)
        assert (fusion.counts, fusion.refusal) == (NOTHING, f"not worth it on a device of the type {device}")
        assert_untouched(model, before)


@pytest.mark.parametrize("change", [None, "batch", "partial", "odd", "stride", "keys"])
def test_which_rotary_positions_the_kernel_is_for(change):
    q, k, cos = torch.zeros(1, 4, 5, 16), torch.zeros(1, 2, 5, 16), torch.zeros(1, 5, 16)
    if change == "batch":
        q, k = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 5, 16)
    elif change == "partial":
        cos = torch.zeros(1, 5, 8)
    elif change == "odd":
        q, k, cos = q[..., :15].clone(), k[..., :15].clone(), cos[..., :15].clone()
    elif change == "stride":
        q = torch.zeros(1, 4, 16, 5).transpose(2, 3)
    elif change == "keys":
        k = torch.zeros(1, 2, 6, 16)
    assert fused_kernels.fits_rotary(q, k, cos, cos) == (change is None)
