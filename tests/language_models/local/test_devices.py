"""Where a model of this process lies: one device or several, engines that follow from it, and memory that does not suffice."""

import needs
import pytest

torch = needs.module("torch")

from accelerate import dispatch_model  # noqa: E402
from local_models import BYTE_LEVEL, DRAFT, KINDS, PROMPT, TokenByToken, greedy, ids_of  # noqa: E402
from tiny_models import make_model, save  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: E402

from command.errors import OptionError  # noqa: E402
from language_models.interface import ModelError  # noqa: E402
from language_models.local import devices, loading, told  # noqa: E402
from language_models.local import model as local_model  # noqa: E402
from language_models.local.model import LocalModel  # noqa: E402

CPU, TWO_GPUS = torch.device("cpu"), [torch.device("cuda:0"), torch.device("cuda:1")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save(tmp_path_factory.mktemp("models") / "llama", make_model("llama", 1)))


def by_layers(model, device="cpu") -> dict:
    """A device for each part of a model, as accelerate has them."""
    layers = {f"model.layers.{i}": device for i in range(len(model.model.layers))}
    return {"model.embed_tokens": device, **layers, "model.norm": device, "model.rotary_emb": device, "lm_head": device}


def of(model, **options) -> LocalModel:
    return LocalModel("a model", model, BYTE_LEVEL, end_ids=frozenset(), context_length=512, **options)


class TestLayersOnSeveralDevices:
    """Of which a machine without GPUs has one; what accelerate puts around each layer is there all the same."""

    @pytest.mark.parametrize("kind", ["llama", "gemma"])
    def test_the_text_is_the_same(self, kind):
        model = KINDS[kind](4)
        spread = of(dispatch_model(model, by_layers(model), force_hooks=True), engine="packed", samples=2)
        assert hasattr(spread.engine.model.model.layers[1], "_hf_hook")
        stream = greedy(spread, n=30, draft=DRAFT)
        assert len(list(stream)) == 30
        assert ids_of(stream) == TokenByToken(KINDS[kind](4), BYTE_LEVEL).ids(PROMPT, 30)

    def test_its_passes_are_packed(self, monkeypatch):
        monkeypatch.setattr(local_model, "devices_of", lambda model: TWO_GPUS)
        monkeypatch.setattr(local_model, "device_name", lambda device: device.index and f"card {device.index}")
        spread = of(make_model("llama", 1))
        assert spread.engine.kind == "packed"
        assert spread.notes == [
            "a model is on 2 devices, cuda:0 to cuda:1: its passes are packed ones, without CUDA graphs"
        ]
        assert spread.report["devices"] == {"cuda:0": 0, "cuda:1": "card 1"}
        assert spread.in_words.startswith("a model on cuda:0 and cuda:1 in float32")

    def test_graphs_are_refused(self, monkeypatch):
        monkeypatch.setattr(local_model, "devices_of", lambda model: TWO_GPUS)
        with pytest.raises(OptionError, match="is on 2 devices, .*--engine graphs needs it on one; leave out"):
            of(make_model("llama", 1), engine="graphs")


class TestDeviceMap:
    @pytest.mark.parametrize("there, said", [([], "no CUDA GPU"), ([CPU], "one GPU")])
    def test_where_there_are_not_several_gpus(self, monkeypatch, folder, there, said):
        monkeypatch.setattr(local_model, "gpus", lambda: there)
        loaded = LocalModel.load(folder, device="cpu", device_map="auto")
        assert loaded.notes == [f"--device_map auto: this machine has {said}, so all of {folder} is on cpu"]
        assert loaded.report["devices"] == {"cpu": None}

    def test_over_all_gpus(self, monkeypatch, folder):
        """The machine's memory stands for both GPUs."""
        asked, load = [], local_model.load_causal_lm

        def with_a_map(name, **how):
            asked.append(how["device_map"])
            return load(name, **how | {"device_map": by_layers(make_model("llama", 1))})

        monkeypatch.setattr(local_model, "gpus", lambda: [CPU, CPU])
        monkeypatch.setattr(local_model, "load_causal_lm", with_a_map)
        loaded = LocalModel.load(folder, device="cpu", device_map="auto")
        assert asked == ["auto"] and loaded.notes == []
        assert ids_of_text(loaded) == ids_of_text(of(make_model("llama", 1)))

    def test_what_does_not_fit_on_the_gpus_is_not_left_beside_them(self, monkeypatch, folder):
        """accelerate would bring such layers to the GPUs in every pass."""
        for module in (local_model, loading):
            monkeypatch.setattr(module, "gpus", lambda: [CPU, CPU])
        size = sum(p.numel() * 4 for p in make_model("llama", 1).parameters()) / 1e9
        words = (
            rf"does not fit on 2 GPUs: its weights take {size:.1f} GB in float32, and .* GB are free on cpu and cpu "
        )
        with pytest.raises(ModelError, match=words + "together; take --dtype bfloat16, name another device, or serve"):
            LocalModel.load(folder, device="cpu", device_map="auto")


def ids_of_text(model: LocalModel) -> list[int]:
    stream = greedy(model, n=12)
    assert len(list(stream)) == 12
    return ids_of(stream)


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 224.00 MiB."),
            RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
            RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
            MemoryError(),
        ],
    )
    def test_errors_that_say_so(self, error):
        assert devices.out_of_memory(error)
        assert not devices.out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
        assert not devices.out_of_memory(ValueError("out of memory"))

    def test_weights_that_do_not_fit(self, monkeypatch, folder):
        def full(model, device):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

        monkeypatch.setattr(LlamaForCausalLM, "to", full)
        monkeypatch.setattr(devices, "free_memory", lambda device: 9_100_000_000)
        facts = r"llama does not fit on cpu: its weights take 0\.0 GB in float32, and 9\.1 GB are free on cpu; "
        with pytest.raises(
            ModelError, match=facts + "take --dtype bfloat16, spread the base .* --device_map auto, name"
        ):
            LocalModel.load(folder, device="cpu")
        with pytest.raises(ModelError, match=r"in bfloat16, and .* on cpu; spread the base model"):
            LocalModel.load(folder, device="cpu", dtype="bfloat16")
        with pytest.raises(ModelError, match=facts + "try --load_in_4bit, --dtype bfloat16 or "):
            loading.load_causal_lm(folder, device=CPU, dtype=torch.float32)

    def test_weights_for_which_the_machine_itself_has_no_room(self, monkeypatch, folder):
        def full(*_, **__):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")

        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
        with pytest.raises(ModelError, match=r"llama does not fit on cpu: its weights take .* free on cpu"):
            LocalModel.load(folder, device="cpu")

    def test_another_fault_of_the_device_is_told_as_it_is(self, monkeypatch, folder):
        def broken(model, device):
            raise RuntimeError("CUDA error: device-side assert triggered\nmore")

        monkeypatch.setattr(LlamaForCausalLM, "to", broken)
        with pytest.raises(ModelError, match=r"cannot be brought to cpu \(CUDA error: device-side assert triggered\)$"):
            LocalModel.load(folder, device="cpu")

    def test_a_device_that_tells_no_figure(self, monkeypatch):
        assert devices.free_memory(CPU) > 0
        monkeypatch.setattr(devices, "free_memory", lambda device: None if device.index else 5e9)
        assert devices.memory_words(TWO_GPUS) == "how much is free on cuda:0 and cuda:1 is not known"
        assert devices.memory_words([*TWO_GPUS, CPU]) == "how much is free on cuda:0 to cpu is not known"
        assert devices.memory_words(TWO_GPUS[:1]) == "5.0 GB are free on cuda:0"


def test_each_gpu_has_a_worker_of_its_own(monkeypatch):
    monkeypatch.setattr(local_model, "_workers", {})
    first = local_model._worker_of(torch.device("cuda"))
    assert first is local_model._worker_of(torch.device("cuda:0")) is not local_model._worker_of(torch.device("cuda:1"))
    assert local_model._worker_of(CPU) is local_model._worker_of(torch.device("cpu"))


def test_the_cache_begins_with_what_the_run_needs(monkeypatch, folder):
    asked, make = [], local_model.make_engine
    monkeypatch.setattr(
        local_model, "make_engine", lambda *args, **how: asked.append(how["expected_tokens"]) or make(*args, **how)
    )
    loaded = LocalModel.load(folder, device="cpu", engine="graphs", prompts=["short", PROMPT], answer_tokens=300)
    expected = len(BYTE_LEVEL(PROMPT)["input_ids"]) + 300
    assert asked == [expected] == [loaded.engine.expected_tokens]
    LocalModel.load(folder, device="cpu", prompts=[PROMPT], answer_tokens=3000)
    assert asked[1:] == [512]


class Set:
    """An engine that has been set up."""

    def __init__(self, device="cuda:0", fallbacks=(), **report):
        self.device, self.fallbacks = torch.device(device), fallbacks
        self.report = {"kind": "graphs", "graphs": 0, "uncaptured": {}, "capture_seconds": 11.96, "kernels": True}
        self.report |= {"kernel_seconds": 9.04} | report


def test_what_the_set_up_came_to():
    (line,) = told.set_up_notes("big", Set(graphs=8), "auto")
    assert (
        line == "big: captured 8 sizes in 12.0 s, Triton's kernels took 9.0 s (less in later runs: Triton keeps them)"
    )
    lines = told.set_up_notes("big", Set(graphs=8, kernels=False, fallbacks=["no kernels: too old"]), "graphs")
    assert lines == ["big: captured 8 sizes in 12.0 s", "no kernels: too old"]
    assert told.set_up_notes("big", Set("cpu", kind="packed"), "auto") == []
    (line,) = told.set_up_notes("big", Set("cpu"), "graphs")
    assert line.startswith("--engine graphs: big is on cpu, where passes of fixed sizes run without CUDA graphs")


@pytest.mark.parametrize(
    "report, words",
    [
        ({"kind": "packed"}, "packed"),
        ({"graphs": 8}, "CUDA graphs"),
        ({"graphs": 8, "uncaptured": {"a": "out of memory", "b": "out of memory"}}, "CUDA graphs, 2 sizes without"),
        ({"uncaptured": {"a": "out of memory"}}, "fixed sizes, no CUDA graphs"),
    ],
)
def test_how_passes_are_computed(report, words):
    assert told.passes_in_words(Set(**report).report) == words


def test_what_went_wrong_later_is_told_at_the_end():
    model = of(make_model("llama", 1))
    assert model.cost_in_words.endswith("of it cache") and "forward passes (packed)" in model.cost_in_words
    model.engine.fallbacks.append("graphs: no memory for 512 tokens; that size runs without")
    assert model.cost_in_words.endswith("of it cache; graphs: no memory for 512 tokens; that size runs without")
