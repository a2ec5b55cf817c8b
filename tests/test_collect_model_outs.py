"""collect_model_outs.py as users run it: the published commands, errors before loading, resume."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY
from test_pad_config import SEED_ECHO

torch = pytest.importorskip("torch", reason="models in this process need torch; scripts/test.sh installs it")

from tiny_models import make_model, save  # noqa: E402

import collect_model_outs  # noqa: E402
import pad.models  # noqa: E402
from pad.config import DecodingConfig  # noqa: E402
from pad.outputs import OutputFile  # noqa: E402
from torch_loading import load_causal_lm, load_tokenizer  # noqa: E402

GREEDY = {"rm_weight": 1.0, "topk": 10, "mode": "greedy", "sample_temp": None}
PREFERENCE = "[Guidelines] Be brief. [Principles] humor [Instruction] "
# The published READMEs' commands: PAD's older and newest revision, and ARGS'. Continuations missing there are put in.
PUBLISHED = {
    "older": r"""python collect_model_outs.py \
    --run_percent 100. \
    --config="configs/hh_llama3_PAD.config" \
    --PAD="PAD4" \
    --out_file="new_results/psoups_llama3SFT_DPO12_hhh4" \
    --llm_gpu="cuda:4" \
    --rm_gpu="cuda:5" \
    --llm="princeton-nlp/Llama-3-Base-8B-SFT" \
    --rm="../ckpt/PAD/saves/llama3-8b-Instruct-PAD_HelpSteerSafeRLHF/dpo12/reward_merged" \
    --dataset="psoups" \
    --sys_prompt="[Guidelines] Your task is to generate response by considering the following principle. \
[Principles] harmless and helpfulness and humor \
[Instruction] "
""",
    "newest": r"""python collect_model_outs.py \
    --run_percent 100. \
    --config="configs/psoups_llama3SFT_hhh.config" \
    --out_file="results_3dim/psoups_llama3SFT_hhh" \
    --llm_gpu="cuda:2" \
    --rm_gpu="cuda:2" \
    --llm="princeton-nlp/Llama-3-Base-8B-SFT" \
    --rm="RuizheChen/PAD" \
    --dataset="psoups" \
    --sys_prompt="[Guidelines] Your task is to generate response by considering the following principle. \
[Principles] harmless and helpfulness and humor \
[Instruction] "
""",
    "args": r"""python collect_model_outs.py \
    --run_percent 25. \
    --config="example.config" \
    --out_file="run_outs/example_out" \
    --llm_gpu="cuda:0" \
    --rm_gpu="cuda:1" \
    --llm="models/llama-7b/" \
    --rm="models/llama-7b-rm/" \
    --dataset="Dahoas/full-hh-rlhf"
""",
}


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("elapsed", "batch", "method")} for row in rows]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a configuration and six prompts of unequal lengths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.config").write_text(json.dumps(GREEDY))
    prompts = [
        "How do I bake bread?",
        "A cat",
        "Why does the moon look larger near the horizon?",
        "Who?",
        "Is it so?",
        "Ha",
    ]
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    return tmp_path


def options(tiny, *more: object, rm="rm", out="out/x") -> list[str]:
    base = [
        "--llm",
        tiny / "lm",
        "--config",
        "x.config",
        "--out_file",
        out,
        "--dataset",
        "p.json",
        "--max_new_token",
        12,
    ]
    base += ["--llm_gpu", "cpu", "--rm_gpu", "cpu"] + (["--rm", tiny / rm] if rm else [])
    return [str(word) for word in (*base, *more)]


def collect(*words: object) -> int:
    return collect_model_outs.main([str(word) for word in words])


class TestPublishedCommands:
    def words(self, command: str, tiny, rm: str) -> list[str]:
        """A command's words, the models' names swapped for tiny ones'."""
        words = shlex.split(command.replace("\\\n", ""))  # as a shell joins lines, in quotes too
        assert words[:2] == ["python", "collect_model_outs.py"]
        swapped = {"--llm": tiny / "lm", "--rm": tiny / rm}
        return [
            f"{name}={swapped[name]}" if (name := word.partition("=")[0]) in swapped else word for word in words[2:]
        ]

    @pytest.mark.parametrize("which", ["older", "newest"])
    def test_pad(self, which, tiny, folder, capsys):
        (folder / "configs").symlink_to(REPOSITORY / "configs")
        words = self.words(PUBLISHED[which], tiny, "rm")
        assert collect(*words, "--max_new_token", 8, "--limit", 2) == 0
        prefix = next(word.partition("=")[2] for word in words if word.startswith("--out_file"))
        rows = rows_of(folder / f"{prefix}_0.jsonl")
        preference = (
            "[Guidelines] Your task is to generate response by considering the following principle. "
            "[Principles] harmless and helpfulness and humor [Instruction] "
        )
        assert [row["sys_prompt"] for row in rows] == [preference] * 2
        assert rows[0]["config"] == {"rm_weight": 0.8, "topk": 10, "mode": "greedy", "sample_temp": None}
        meta = json.loads((folder / f"{prefix}_0.meta.json").read_text())
        assert meta["label"] == ("PAD4" if which == "older" else None) and meta["reward"] == "implicit"
        if not torch.cuda.is_available():
            assert "--llm_gpu cuda:" in capsys.readouterr().err

    @pytest.mark.parametrize("mode", ["greedy", "topk", "greedy_large", "greedy-large"])
    def test_args(self, mode, tiny, folder):
        """Greedy and stochastic, with a scalar reward; prompts go in as they are."""
        subprocess.run(SEED_ECHO.replace('"greedy"', f'"{mode}"'), shell=True, check=True)
        prompts = [{"prompt": f"\n\nHuman: Is {i} odd?\n\nAssistant:"} for i in range(8)]
        (folder / "d/Dahoas/full-hh-rlhf").mkdir(parents=True)
        (folder / "d/Dahoas/full-hh-rlhf/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
        words = self.words(PUBLISHED["args"], tiny, "classifier")
        assert collect(*words, "--max_new_token", 8, "--data_dir", "d") == 0
        rows = rows_of(folder / "run_outs/example_out_0.jsonl")
        assert len(rows) == 2  # 25 per cent
        tokenizer = load_tokenizer(str(tiny / "lm"))
        assert rows[0]["n_prompt_tokens"] == len(tokenizer(prompts[0]["prompt"])["input_ids"])
        assert rows[0]["response"] == prompts[0]["prompt"] + rows[0]["result"]
        assert json.loads((folder / "run_outs/example_out_0.meta.json").read_text())["reward"] == "scalar"

    def test_the_readmes_commands_can_be_read(self):
        """Options and files of this repository that the README's commands name are there."""
        import measure_reward
        from pad.settings import CollectSettings, build_parser

        text = (REPOSITORY / "README.md").read_text().replace("\\\n", "")
        lines = [
            line for line in text.splitlines() if line.startswith(("python collect_model", "python measure_reward"))
        ]
        assert len(lines) >= 5
        for line in lines:
            _, program, *words = shlex.split(line)
            parser = build_parser() if program == "collect_model_outs.py" else measure_reward.build_parser()
            options = parser.parse_args(words)
            if program == "collect_model_outs.py":
                settings = CollectSettings(**vars(options))
                assert (REPOSITORY / settings.config).is_file() or settings.config == "example.config"
            else:
                measure_reward.check(options)

    def test_a_scalar_reward_model_without_a_tokenizer(self, tiny, folder, capsys):
        """As ARGS's: the base LM's tokens are its own, which is said; with another size of vocabulary it is refused."""
        make_model("llama_scorer", 4).save_pretrained(folder / "bare")
        assert collect(*options(tiny, "--rm", folder / "bare", rm=None)) == 0
        assert "bare has no tokenizer of its own" in capsys.readouterr().err
        assert collect(*options(tiny, rm="classifier", out="out/y")) == 0
        bare, whole = (rows_of(folder / f"out/{name}_0.jsonl") for name in "xy")
        assert [row["result"] for row in bare] == [row["result"] for row in whole]
        make_model("llama_scorer", 4, vocabulary=700).save_pretrained(folder / "larger")
        assert collect(*options(tiny, "--rm", folder / "larger", rm=None, out="out/z")) == 2
        assert "the tokenizer of" in capsys.readouterr().err

    def test_every_preset_can_be_read(self):
        from pad.config import read_configs

        presets = sorted((REPOSITORY / "configs").glob("*.config"))
        assert len(presets) > 15
        for preset in presets:
            assert all(config.topk == 10 for config in read_configs(preset, pytest.fail))


class TestRows:
    def test_fields_of_a_row(self, tiny, folder):
        assert collect(*options(tiny, "--sys_prompt", PREFERENCE, "--batch_size", 4)) == 0
        rows = rows_of(folder / "out/x_0.jsonl")
        assert [row["index"] for row in rows] == list(range(6))
        row = rows[1]
        assert (
            row["prompt"] == PREFERENCE + "A cat" and row["instruction"] == "A cat" and row["sys_prompt"] == PREFERENCE
        )
        assert row["response"] == row["prompt"] + row["result"]
        assert row["config"] == GREEDY and row["seed"] == 0 and row["method"] == "out/x_0" and row["elapsed"] > 0
        assert row["finish_reason"] in ("stop", "length") and row["n_tokens"] <= 12
        assert {row["batch"] for row in rows} == {4, 2}
        tokenizer = load_tokenizer(str(tiny / "lm"))
        turns = [{"role": "user", "content": PREFERENCE + "A cat"}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert row["n_prompt_tokens"] == len(ids)

    def test_weight_0_is_the_models_own_greedy_search(self, tiny, folder):
        """And it needs no reward model: none is named, or none is loaded."""
        (folder / "x.config").write_text('{"rm_weight": 0, "topk": 10}')
        assert collect(*options(tiny, rm=None)) == 0
        assert collect(*options(tiny, "--rm", "/no/such/model", rm=None, out="out/y")) == 0
        cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
        lm, tokenizer = load_causal_lm(str(tiny / "lm"), **cpu), load_tokenizer(str(tiny / "lm"))
        for name in ("x", "y"):
            for row in rows_of(folder / f"out/{name}_0.jsonl"):
                turns = [{"role": "user", "content": row["prompt"]}]
                ids = tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, return_tensors="pt", return_dict=False
                )
                ends = [1, tokenizer.convert_tokens_to_ids("<|eot|>")]
                out = lm.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=ends
                )
                assert row["result"] == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    def test_the_preference_head_and_every_reference_count(self, tiny, folder):
        results = {}
        for name, rm, more in (
            ("head", "rm", []),
            ("no head", "plain_rm", []),
            ("none", "plain_rm", ["--ref", "none"]),
            ("self", "plain_rm", ["--ref", "self"]),
            ("path", "plain_rm", ["--ref", str(tiny / "lm")]),
            ("other tokenizer", "other_rm", ["--allow_cross_tokenizer"]),
            ("scalar", "classifier", []),
            ("scalar, template", "classifier", ["--chat_template", "on"]),
            ("no template", "plain_rm", ["--chat_template", "off"]),
        ):
            # Reference "path" is the base LM itself, here: the same as "llm".
            assert collect(*options(tiny, *more, "--sys_prompt", PREFERENCE, rm=rm, out=f"out/{name}")) == 0, name
            results[name] = [row["result"] for row in rows_of(folder / f"out/{name}_0.jsonl")]
        assert results.pop("path") == results["no head"]
        assert len({str(result) for result in results.values()}) == len(results)

    def test_an_adapter_and_its_base_model(self, tiny, folder):
        peft = pytest.importorskip("peft", reason="adapters need peft; scripts/test.sh installs it")
        model = make_model("llama", 3, layers=3)
        model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        model.save_pretrained(folder / "adapter")
        config = folder / "adapter/adapter_config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tiny / "plain_rm")})
        )
        whole = make_model("llama", 3, layers=3)
        from peft import PeftModel

        save(folder / "merged", PeftModel.from_pretrained(whole, folder / "adapter").merge_and_unload())
        results = []
        for rm in ("adapter", "merged"):
            words = options(tiny, "--rm", folder / rm, "--ref", tiny / "plain_rm", rm=None, out=f"out/{rm}")
            assert collect(*words) == 0
            results.append([row["result"] for row in rows_of(folder / f"out/{rm}_0.jsonl")])
        assert results[0] == results[1]

    def test_perspectives_and_several_configurations(self, tiny, folder, capsys):
        lines = [GREEDY, GREEDY | {"perspective": "brevity"}, GREEDY | {"mode": "topk", "seed": 5}]
        (folder / "x.config").write_text("\n\n".join(map(json.dumps, lines)))
        assert collect(*options(tiny, "--sys_prompt", PREFERENCE, "--seed", 3)) == 0
        rows = [rows_of(folder / f"out/x_{i}.jsonl")[0] for i in range(3)]
        assert [row["sys_prompt"] for row in rows] == [PREFERENCE, PREFERENCE.replace("humor", "brevity"), PREFERENCE]
        assert [row["seed"] for row in rows] == [3, 3, 5]
        assert "tokens/s; peak memory: process" in capsys.readouterr().out

    def test_ends_and_their_absence(self, tiny, folder):
        """With an end of turn that is likely, answers stop at it; --ignore_eos goes on, as published."""
        model = make_model("llama", 1)
        tokenizer = load_tokenizer(str(tiny / "lm"))
        save(folder / "lm", model)
        words = options(tiny, "--ignore_eos", rm=None)
        (folder / "x.config").write_text('{"rm_weight": 0, "topk": 10}')
        assert collect(*words) == 0
        ids = tokenizer(rows_of(folder / "out/x_0.jsonl")[0]["result"], add_special_tokens=False)["input_ids"]
        model.generation_config.eos_token_id = [1, ids[2]]
        save(folder / "lm", model)
        words[words.index("--llm") + 1] = str(folder / "lm")
        for name, more in (("stopped", words[:-1]), ("whole", words)):
            assert (
                collect(
                    *[word.replace("out/x", f"out/{name}") for word in more if word != "--ignore_eos"],
                    *(["--ignore_eos"] if name == "whole" else []),
                )
                == 0
            )
        stopped, whole = (rows_of(folder / f"out/{name}_0.jsonl") for name in ("stopped", "whole"))
        assert all(row["n_tokens"] == 12 and row["finish_reason"] == "length" for row in whole)
        assert any(row["finish_reason"] == "stop" for row in stopped)
        assert all(w["result"].startswith(s["result"]) for w, s in zip(whole, stopped, strict=True))

    def test_sampling_does_not_depend_on_batches(self, tiny, folder):
        (folder / "x.config").write_text(json.dumps(GREEDY | {"mode": "topk", "sample_temp": 2.0}))
        for rm in ("rm", "classifier"):
            for batch in (1, 4):
                assert collect(*options(tiny, "--batch_size", batch, rm=rm, out=f"out/{rm}{batch}")) == 0
            one, four = (without_times(rows_of(folder / f"out/{rm}{batch}_0.jsonl")) for batch in (1, 4))
            assert one == four
        assert collect(*options(tiny, "--seed", 1, out="out/other")) == 0
        assert [row["result"] for row in rows_of(folder / "out/other_0.jsonl")] != [row["result"] for row in one]

    def test_prompts_that_do_not_fit_are_skipped_and_said(self, tiny, folder, capsys):
        """Said before a model is loaded, recorded with the reason, and the exit code is 1; the others' answers end in time."""
        words = options(
            tiny, "--sys_prompt", "Be kind. ", "--llm", tiny / "short_lm", "--chat_template", "off", rm="rm"
        )
        (folder / "p.json").write_text(json.dumps(["x " * 40, "Who?", "y " * 17]))
        assert collect(*words, "--batch_size", 3) == 1
        error = capsys.readouterr().err
        assert "prompt 0 is skipped: it has " in error and error.index("is skipped") < error.index("preference head")
        rows = rows_of(folder / "out/x_0.jsonl")
        assert rows[0]["result"] is None and "context of the models is 48" in rows[0]["skipped"]
        assert rows[1]["n_tokens"] == 12 and 0 < rows[2]["n_tokens"] == 48 - rows[2]["n_prompt_tokens"] < 12
        assert collect(*words) == 1 and rows_of(folder / "out/x_0.jsonl") == rows


class TestErrorsBeforeLoading:
    @pytest.fixture(autouse=True)
    def nothing_is_loaded(self, monkeypatch):
        def loaded(*_, **__):
            raise AssertionError("a model was loaded")

        monkeypatch.setattr(pad.models, "load_models", loaded)

    @pytest.mark.parametrize(
        "config, more, message",
        [
            (None, ["--config", "no.config"], "--config no.config cannot be read"),
            ('{"rm_weight": 1.0, "topk": 10}\noops', [], "x.config, line 2: not JSON"),
            ('{"rm_weight": 1.0, "topk": 10, "mode": "p_sigmoid_mixing"}', [], "mode is one of greedy, topk"),
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
    def test_what_is_wrong(self, config, more, message, tiny, folder, capsys):
        if config:
            (folder / "x.config").write_text(config)
        (folder / "long.json").write_text(json.dumps(["x " * 600]))
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
            ("rm", ["--ref", "self"], "--ref self compares with and without a preference text"),
            ("classifier", ["--ref", "none"], "--ref none is for implicit rewards"),
            ("other_rm", ["--llm", "OTHER", "--tokenizer", "LM", "--allow_cross_tokenizer"], "gives the token id"),
        ],
    )
    def test_models_that_do_not_fit_together(self, rm, more, message, tiny, folder, capsys):
        named = {"OTHER": "other_rm", "CLASSIFIER": "classifier", "LM": "lm"}
        more = [str(tiny / named[word]) if word in named else word for word in more]
        assert collect(*options(tiny, *more, rm=rm)) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]

    def test_outputs_of_other_runs_for_any_configuration(self, tiny, folder, capsys):
        (folder / "x.config").write_text(json.dumps(GREEDY) + "\n" + json.dumps(GREEDY | {"rm_weight": 0.5}))
        (folder / "out").mkdir()
        row = {"index": 0, "prompt": "How do I bake bread?", "result": "?", "config": GREEDY, "seed": 0}
        for content, message in (
            (json.dumps(row) + "\n", "line 1 has the configuration"),
            (json.dumps(row | {"prompt": "Other?"}) + "\n", "line 1 answers another prompt"),
            ('[{"prompt": "A?",\n "response": "A? B"}]\n', "line 1: not a row of this program"),
        ):
            (folder / "out/x_1.jsonl").write_text(content)
            assert collect(*options(tiny)) == 2
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert "out/x_1.jsonl" in error and message in error and "--overwrite" in error
            assert (folder / "out/x_1.jsonl").read_text() == content and not (folder / "out/x_0.jsonl").exists()


class TestResume:
    def test_the_same_command_goes_on(self, tiny, folder, capsys):
        words = options(tiny, "--sys_prompt", PREFERENCE)
        assert collect(*words) == 0
        path = folder / "out/x_0.jsonl"
        whole = rows_of(path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text(lines[2] + lines[4] + lines[0][:50])  # out of order, and a torn line
        assert collect(*words, "--recover") == 0
        assert without_times(rows_of(path)) == without_times(whole)
        assert rows_of(path)[2] == whole[2] and "2 of 6 answers are there already" in capsys.readouterr().err
        meta = json.loads((folder / "out/x_0.meta.json").read_text())
        assert [session["tokens"] > 0 for session in meta["sessions"]] == [True, True]

    def test_other_settings_are_refused_and_overwrite_starts_afresh(self, tiny, folder, capsys):
        assert collect(*options(tiny, "--limit", 2)) == 0
        assert collect(*options(tiny, "--limit", 2, "--max_new_token", 5)) == 2
        assert "--max_new_token was 12, is 5" in capsys.readouterr().err
        assert collect(*options(tiny, "--limit", 2, "--max_new_token", 5, "--overwrite")) == 0
        assert all(row["n_tokens"] <= 5 for row in rows_of(folder / "out/x_0.jsonl"))
        assert len(list((folder / "out").glob("x_0.jsonl.replaced-*"))) == 1

    def test_fewer_prompts_later_lose_nothing(self, tiny, folder, capsys):
        assert collect(*options(tiny, "--limit", 3)) == 0
        before = (folder / "out/x_0.jsonl").read_text()
        assert collect(*options(tiny, "--limit", 2)) == 2
        assert "line 3 answers prompt 2, and there are 2 now" in capsys.readouterr().err
        assert (folder / "out/x_0.jsonl").read_text() == before

    def test_more_prompts_later(self, tiny, folder):
        assert collect(*options(tiny, "--limit", 2)) == 0
        first = rows_of(folder / "out/x_0.jsonl")
        assert collect(*options(tiny)) == 0
        assert rows_of(folder / "out/x_0.jsonl")[:2] == first and len(rows_of(folder / "out/x_0.jsonl")) == 6

    @pytest.mark.slow
    @pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
    def test_killed_in_the_middle(self, blow, tiny, folder):
        """kill -9 loses nothing that was finished, and the result is that of an undisturbed run."""
        (folder / "x.config").write_text(json.dumps(GREEDY | {"mode": "topk"}))
        (folder / "p.json").write_text(json.dumps([f"Is {i} odd?" for i in range(30)]))
        assert collect(*options(tiny, "--max_new_token", 60, out="out/undisturbed")) == 0
        words = options(tiny, "--max_new_token", 60)
        command = [sys.executable, str(REPOSITORY / "collect_model_outs.py"), *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        path, until = folder / "out/x_0.jsonl", time.monotonic() + 60
        while not (path.exists() and path.read_bytes().count(b"\n") >= 3):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(blow)
        _, error = process.communicate(timeout=30)
        assert process.returncode == (-9 if blow == signal.SIGKILL else 143)
        assert blow == signal.SIGKILL or "the same command continues" in error
        done = path.read_bytes().count(b"\n")
        assert 3 <= done < 30
        kept = {row["index"]: row for row in map(json.loads, path.read_text().split("\n")[:done])}
        assert collect(*words) == 0
        rows = rows_of(path)
        assert all(rows[index] == row for index, row in kept.items())
        assert without_times(rows) == without_times(rows_of(folder / "out/undisturbed_0.jsonl"))

    def test_a_row_behind_a_torn_line(self, folder):
        """A second kill before the file is put in order must find whole lines."""
        output = OutputFile("x", 0, DecodingConfig(1.0, 10))
        output.path.write_text('{"index": 0}\n{"inde')
        output.open()
        output.append({"index": 1})
        output.close()
        assert rows_of(output.path) == [{"index": 0}, {"index": 1}]

    def test_two_runs_at_once(self, tiny, folder, capsys):
        with OutputFile("out/x", 0, DecodingConfig(1.0, 10)).locked():
            assert collect(*options(tiny)) == 2
        assert "is being written by another run" in capsys.readouterr().err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        collect("--help")
    shown = capsys.readouterr().out
    from dataclasses import fields

    from pad.settings import CollectSettings

    assert all(f"--{field.name}" in shown for field in fields(CollectSettings))
