"""collect_model_outs.py as users run it: the published commands, and what stands in a row."""

import json
import shlex
import subprocess

import needs
import pytest
from runs import REPOSITORY
from test_config import SEED_ECHO

torch = needs.module("torch")

from collect_runs import GREEDY, PREFERENCE, collect, options, rows_of, without_times  # noqa: E402
from tiny_models import make_model, save, save_adapter  # noqa: E402

from language_models.local.loading import load_causal_lm, load_tokenizer  # noqa: E402

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
    def test_pad(self, which, tiny, pad_folder, capsys):
        (pad_folder / "configs").symlink_to(REPOSITORY / "configs")
        words = self.words(PUBLISHED[which], tiny, "rm")
        assert collect(*words, "--max_new_token", 8, "--limit", 2) == 0
        prefix = next(word.partition("=")[2] for word in words if word.startswith("--out_file"))
        rows = rows_of(pad_folder / f"{prefix}_0.jsonl")
        preference = (
            "[Guidelines] Your task is to generate response by considering the following principle. "
            "[Principles] harmless and helpfulness and humor [Instruction] "
        )
        assert [row["sys_prompt"] for row in rows] == [preference] * 2
        assert rows[0]["config"] == {"rm_weight": 0.8, "topk": 10, "mode": "greedy", "sample_temp": None}
        meta = json.loads((pad_folder / f"{prefix}_0.meta.json").read_text())
        assert meta["label"] == ("PAD4" if which == "older" else None) and meta["reward"] == "implicit"
        if not torch.cuda.is_available():
            assert "--llm_gpu cuda:" in capsys.readouterr().err

    @pytest.mark.parametrize("mode", ["greedy", "topk", "greedy_large", "greedy-large"])
    def test_args(self, mode, tiny, pad_folder):
        """Greedy and stochastic, with a scalar reward; prompts go in as they are."""
        subprocess.run(SEED_ECHO.replace('"greedy"', f'"{mode}"'), shell=True, check=True)
        prompts = [{"prompt": f"\n\nHuman: Is {i} odd?\n\nAssistant:"} for i in range(8)]
        (pad_folder / "d/Dahoas/full-hh-rlhf").mkdir(parents=True)
        (pad_folder / "d/Dahoas/full-hh-rlhf/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
        words = self.words(PUBLISHED["args"], tiny, "classifier")
        assert collect(*words, "--max_new_token", 8, "--data_dir", "d") == 0
        rows = rows_of(pad_folder / "run_outs/example_out_0.jsonl")
        assert len(rows) == 2  # 25 per cent
        tokenizer = load_tokenizer(str(tiny / "lm"))
        assert rows[0]["n_prompt_tokens"] == len(tokenizer(prompts[0]["prompt"])["input_ids"])
        assert rows[0]["response"] == prompts[0]["prompt"] + rows[0]["result"]
        assert json.loads((pad_folder / "run_outs/example_out_0.meta.json").read_text())["reward"] == "scalar"

    def test_the_documented_commands_can_be_read(self):
        """Options and files of this repository that the page's commands name are there."""
        import measure_reward
        from pad import measure_options
        from pad.collect_options import build_parser
        from pad.settings import CollectSettings

        text = (REPOSITORY / "docs/reward_guided.md").read_text().replace("\\\n", "")
        lines = [
            line for line in text.splitlines() if line.startswith(("python collect_model", "python measure_reward"))
        ]
        assert len(lines) >= 5
        for line in lines:
            _, program, *words = shlex.split(line)
            measuring = measure_options.build_parser(measure_reward.judge_options())
            parser = build_parser() if program == "collect_model_outs.py" else measuring
            options = parser.parse_args(words)
            if program == "collect_model_outs.py":
                settings = CollectSettings(**vars(options))
                assert settings.config in (None, "example.config") or (REPOSITORY / settings.config).is_file()
            else:
                measure_options.check(options)

    def test_a_scalar_reward_model_without_a_tokenizer(self, tiny, pad_folder, capsys):
        """As ARGS's: the base LM's tokens are its own, which is said; with another size of vocabulary it is refused."""
        make_model("llama_scorer", 4).save_pretrained(pad_folder / "bare")
        assert collect(*options(tiny, "--rm", pad_folder / "bare", rm=None)) == 0
        assert "bare has no tokenizer of its own" in capsys.readouterr().err
        assert collect(*options(tiny, rm="classifier", out="out/y")) == 0
        bare, whole = (rows_of(pad_folder / f"out/{name}_0.jsonl") for name in "xy")
        assert [row["result"] for row in bare] == [row["result"] for row in whole]
        make_model("llama_scorer", 4, vocabulary=700).save_pretrained(pad_folder / "larger")
        assert collect(*options(tiny, "--rm", pad_folder / "larger", rm=None, out="out/z")) == 2
        assert "the tokenizer of" in capsys.readouterr().err

    def test_every_preset_can_be_read(self):
        from pad.config import read_configs

        presets = sorted((REPOSITORY / "configs").glob("*.config"))
        assert len(presets) > 15
        for preset in presets:
            assert all(config.topk == 10 for config in read_configs(preset, pytest.fail))


class TestRows:
    def test_fields_of_a_row(self, tiny, pad_folder):
        assert collect(*options(tiny, "--sys_prompt", PREFERENCE, "--batch_size", 4)) == 0
        rows = rows_of(pad_folder / "out/x_0.jsonl")
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

    def test_weight_0_is_the_models_own_greedy_search(self, tiny, pad_folder):
        """And it needs no reward model: none is named, or none is loaded."""
        (pad_folder / "x.config").write_text('{"rm_weight": 0, "topk": 10}')
        assert collect(*options(tiny, rm=None)) == 0
        assert collect(*options(tiny, "--rm", "/no/such/model", rm=None, out="out/y")) == 0
        cpu = {"device": torch.device("cpu"), "dtype": torch.float32}
        lm, tokenizer = load_causal_lm(str(tiny / "lm"), **cpu), load_tokenizer(str(tiny / "lm"))
        for name in ("x", "y"):
            for row in rows_of(pad_folder / f"out/{name}_0.jsonl"):
                turns = [{"role": "user", "content": row["prompt"]}]
                ids = tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, return_tensors="pt", return_dict=False
                )
                ends = [1, tokenizer.convert_tokens_to_ids("<|eot|>")]
                out = lm.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=ends
                )
                assert row["result"] == tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)

    def test_the_preference_head_and_every_reference_count(self, tiny, pad_folder):
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
            results[name] = [row["result"] for row in rows_of(pad_folder / f"out/{name}_0.jsonl")]
        assert results.pop("path") == results["no head"]
        assert len({str(result) for result in results.values()}) == len(results)

    def test_an_adapter_and_its_base_model(self, tiny, pad_folder):
        peft = needs.module("peft")
        save_adapter(pad_folder / "adapter", make_model("llama", 3, layers=3), tiny / "plain_rm")
        whole = peft.PeftModel.from_pretrained(make_model("llama", 3, layers=3), pad_folder / "adapter")
        save(pad_folder / "merged", whole.merge_and_unload())
        results = []
        for rm in ("adapter", "merged"):
            words = options(tiny, "--rm", pad_folder / rm, "--ref", tiny / "plain_rm", rm=None, out=f"out/{rm}")
            assert collect(*words) == 0
            results.append([row["result"] for row in rows_of(pad_folder / f"out/{rm}_0.jsonl")])
        assert results[0] == results[1]

    def test_perspectives_and_several_configurations(self, tiny, pad_folder, capsys):
        lines = [GREEDY, GREEDY | {"perspective": "brevity"}, GREEDY | {"mode": "topk", "seed": 5}]
        (pad_folder / "x.config").write_text("\n\n".join(map(json.dumps, lines)))
        assert collect(*options(tiny, "--sys_prompt", PREFERENCE, "--seed", 3)) == 0
        rows = [rows_of(pad_folder / f"out/x_{i}.jsonl")[0] for i in range(3)]
        assert [row["sys_prompt"] for row in rows] == [PREFERENCE, PREFERENCE.replace("humor", "brevity"), PREFERENCE]
        assert [row["seed"] for row in rows] == [3, 3, 5]
        assert "forward passes: llm" in capsys.readouterr().out

    def test_ends_and_their_absence(self, tiny, pad_folder):
        """With an end of turn that is likely, answers stop at it; --ignore_eos goes on, as published."""
        model = make_model("llama", 1)
        tokenizer = load_tokenizer(str(tiny / "lm"))
        save(pad_folder / "lm", model)
        words = options(tiny, "--ignore_eos", rm=None)
        (pad_folder / "x.config").write_text('{"rm_weight": 0, "topk": 10}')
        assert collect(*words) == 0
        ids = tokenizer(rows_of(pad_folder / "out/x_0.jsonl")[0]["result"], add_special_tokens=False)["input_ids"]
        model.generation_config.eos_token_id = [1, ids[2]]
        save(pad_folder / "lm", model)
        words[words.index("--llm") + 1] = str(pad_folder / "lm")
        for name, more in (("stopped", words[:-1]), ("whole", words)):
            assert (
                collect(
                    *[word.replace("out/x", f"out/{name}") for word in more if word != "--ignore_eos"],
                    *(["--ignore_eos"] if name == "whole" else []),
                )
                == 0
            )
        stopped, whole = (rows_of(pad_folder / f"out/{name}_0.jsonl") for name in ("stopped", "whole"))
        assert all(row["n_tokens"] == 12 and row["finish_reason"] == "length" for row in whole)
        assert any(row["finish_reason"] == "stop" for row in stopped)
        assert all(w["result"].startswith(s["result"]) for w, s in zip(whole, stopped, strict=True))

    def test_sampling_does_not_depend_on_batches(self, tiny, pad_folder):
        (pad_folder / "x.config").write_text(json.dumps(GREEDY | {"mode": "topk", "sample_temp": 2.0}))
        for rm in ("rm", "classifier"):
            for batch in (1, 4):
                assert collect(*options(tiny, "--batch_size", batch, rm=rm, out=f"out/{rm}{batch}")) == 0
            one, four = (without_times(rows_of(pad_folder / f"out/{rm}{batch}_0.jsonl")) for batch in (1, 4))
            assert one == four
        assert collect(*options(tiny, "--seed", 1, out="out/other")) == 0
        assert [row["result"] for row in rows_of(pad_folder / "out/other_0.jsonl")] != [row["result"] for row in one]

    def test_prompts_that_do_not_fit_are_skipped_and_said(self, tiny, pad_folder, capsys):
        """Said before a model is loaded, recorded with the reason, and the exit code is 1; the others' answers end in time."""
        words = options(
            tiny, "--sys_prompt", "Be kind. ", "--llm", tiny / "short_lm", "--chat_template", "off", rm="rm"
        )
        (pad_folder / "p.json").write_text(json.dumps(["x " * 40, "Who?", "y " * 17]))
        assert collect(*words, "--batch_size", 3) == 1
        error = capsys.readouterr().err
        assert "prompt 0 is skipped: it has " in error and error.index("is skipped") < error.index("preference head")
        rows = rows_of(pad_folder / "out/x_0.jsonl")
        assert rows[0]["result"] is None and "context of the models is 48" in rows[0]["skipped"]
        assert rows[1]["n_tokens"] == 12 and 0 < rows[2]["n_tokens"] == 48 - rows[2]["n_prompt_tokens"] < 12
        assert collect(*words) == 1 and rows_of(pad_folder / "out/x_0.jsonl") == rows


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        collect("--help_all")
    shown = capsys.readouterr().out
    from dataclasses import fields

    from pad.settings import CollectSettings

    assert all(f"--{field.name}" in shown for field in fields(CollectSettings))
