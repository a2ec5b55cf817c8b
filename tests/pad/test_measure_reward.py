"""measure_reward.py with reward models: the published commands, what text each model is given, and its scores."""

import json
import shlex

import needs
import numpy as np
import pytest

torch = needs.module("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_models import make_model, make_tokenizer, save  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

import measure_reward  # noqa: E402
from command.errors import OptionError  # noqa: E402
from language_models.interface import ModelError  # noqa: E402
from pad.answers import Answered  # noqa: E402
from pad.dimension import OBJECTIVES  # noqa: E402
from pad.scorers import Scorer  # noqa: E402
from pad.text_metrics import coherence  # noqa: E402

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
ANSWER = Answered(
    0, "Why does the moon look larger?", "It does not.", "[Guidelines] ... Why does the moon look larger?"
)
# The published READMEs' commands; of those that differ in the model's name alone, one.
PUBLISHED = {
    "gpt2": r"""python measure_reward.py \
    --out_file="<your_results>.jsonl" \
    --tokenizer="Ray2333/gpt2-large-helpful-reward_model" \
    --rm="Ray2333/gpt2-large-helpful-reward_model" \
    --rm_gpu="cuda:0"
""",
    "armorm": r"""python measure_reward.py \
    --out_file="<your_results>.jsonl" \
    --tokenizer="RLHFlow/ArmoRM-Llama3-8B-v0.1" \
    --rm="RLHFlow/ArmoRM-Llama3-8B-v0.1" \
    --rm_gpu="cuda:0" \
    --dimension=10
""",
    "humor": r"""python measure_reward.py \
  --out_file="<your_results>.jsonl" \
  --tokenizer="mohameddhiab/humor-no-humor" \
  --rm="mohameddhiab/humor-no-humor" \
  --rm_gpu="cuda:0"
""",
    "args": r"""python measure_reward.py \
    --out_file="run_outs/example_out_0.json" \
    --rm_path="<path to reward model>" \
    --tokenizer="<path to base LLM>" \
    --rm_gpu="cuda:0" \
    --experiment="shp"
""",
}


def write(path, rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(*answers: str) -> list[dict]:
    prompts = [f"Question {i}?" for i in range(len(answers))]
    return [
        {"index": i, "prompt": f"Be kind. {p}", "instruction": p, "result": a, "response": f"Be kind. {p}{a}"}
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]


def measure(*words: object) -> int:
    return measure_reward.main([str(word) for word in words])


def report(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def text_of(scorer: Scorer, answered: Answered) -> str:
    return scorer.tokenizer.decode(scorer.encode(answered))


class TestPublishedCommands:
    @pytest.mark.parametrize("which", PUBLISHED)
    @pytest.mark.parametrize("form", ["array", "lines"])
    def test_they_run(self, which, form, scorers, tiny, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        # As the README has them: prompt and response, no more. ARGS' command names .json where .jsonl is written.
        made = [
            {"prompt": "Are you okay? You look", "response": "Are you okay? You look a bit tired.", "method": "greedy"}
        ]
        target = tmp_path / ("run_outs/example_out_0.jsonl" if which == "args" else "mine.jsonl")
        write(target, made)
        if form == "array":
            target.write_text(json.dumps(made, indent=4))
        command = PUBLISHED[which].replace("\\\n", "").replace("<your_results>", "mine")
        names = {"--rm": str(scorers / which), "--tokenizer": str(scorers / which)}
        if which == "args":
            names = {"--rm_path": str(tiny / "classifier"), "--tokenizer": str(tiny / "lm")}
        words = [f"{n}={names[n]}" if (n := word.partition("=")[0]) in names else word for word in shlex.split(command)]
        assert measure(*words[2:]) == 0
        shown = capsys.readouterr()
        assert "mean reward: " in shown.out and "skipped: 0" in shown.out
        assert which != "args" or "example_out_0.json is not there; reading" in shown.err


class TestTexts:
    """What each kind of model reads, as text."""

    def test_the_example_of_the_published_readme(self, scorers):
        from pad.answers import read_answer

        row = {"prompt": "Are you okay? You look", "response": "Are you okay? You look a bit tired."}
        answered = read_answer(row, 0, "f")
        gpt2, armorm = Scorer(str(scorers / "gpt2"), **CPU), Scorer(str(scorers / "armorm"), dimension="0", **CPU)
        assert (
            text_of(gpt2, answered) == "<|begin|>\n\nHuman: Are you okay? You look\n\nAssistant:a bit tired."
            or text_of(gpt2, answered) == "\n\nHuman: Are you okay? You look\n\nAssistant:a bit tired."
        )
        turn = "<|start_header|>{}<|end_header|>\n\n{}<|eot|>"
        expected = (
            "<|begin|>" + turn.format("user", "Are you okay? You look") + turn.format("assistant", "a bit tired.")
        )
        assert text_of(armorm, answered) == expected
        assert text_of(Scorer(str(scorers / "humor"), **CPU), answered) == "<|begin|>a bit tired."

    def test_dialogues_are_not_wrapped_once_more(self, scorers):
        answered = Answered(0, "\n\nHuman: Who?\n\nAssistant:", "Ann.", "")
        assert text_of(Scorer(str(scorers / "gpt2"), **CPU), answered).endswith("\n\nHuman: Who?\n\nAssistant:Ann.")
        assert text_of(Scorer(str(scorers / "gpt2"), **CPU), answered).count("Human") == 1

    def test_long_questions_lose_their_beginning_long_answers_their_end(self, scorers):
        scorer = Scorer(str(scorers / "gpt2"), **CPU)  # 64 tokens
        ids = scorer.encode(Answered(0, "x y " * 60 + "the end?", "An answer.", ""))
        text = scorer.tokenizer.decode(ids)
        assert len(ids) == 64 and text.endswith("the end?\n\nAssistant:An answer.") and "Human" not in text
        ids = scorer.encode(Answered(0, "Who?", "first " + "x y " * 60, ""))
        assert len(ids) == 64 and "first" in scorer.tokenizer.decode(ids)
        [[score, short]] = scorer.scores([Answered(0, "Who?", "x y " * 90, ""), ANSWER], 2)
        [[alone]] = scorer.scores([ANSWER])
        assert np.isfinite(score) and short == pytest.approx(alone, abs=1e-5)


class TestScores:
    @pytest.mark.parametrize("kind", ["gpt2_scorer", "llama_scorer"])
    def test_the_classifiers_own_value_in_batches(self, kind, tmp_path):
        model = make_model(kind, 5)
        folder = save(tmp_path / "m", model, make_tokenizer(template=None))
        scorer = Scorer(str(folder), **CPU)
        texts = ["It does not.", "", "It is the eye that compares it with trees and houses.", "Yes."]
        answers = [Answered(i, "Why?", text, "Why?") for i, text in enumerate(texts)]
        expected = [model(torch.tensor([scorer.encode(answer)])).logits[0, 0].item() for answer in answers]
        for batch in (1, 3):
            found = [score for part in scorer.scores(answers, batch) for score in part]
            assert found == pytest.approx(expected, abs=1e-4)
        assert len(set(expected)) == 4

    def test_humor_by_its_label(self, scorers):
        """The weights are the same: where the labels are swapped, so is the output."""
        humor, swapped = (Scorer(str(scorers / name), **CPU) for name in ("humor", "swapped"))
        assert (humor.output, swapped.output) == (1, 0)
        own = make_model("distilbert", 6)(torch.tensor([humor.encode(ANSWER)])).logits[0]
        assert list(humor.scores([ANSWER])) == [[pytest.approx(own[1].item(), abs=1e-5)]]
        assert list(swapped.scores([ANSWER])) == [[pytest.approx(own[0].item(), abs=1e-5)]]
        assert Scorer(str(scorers / "other"), dimension="good", **CPU).output == 1
        with pytest.raises(OptionError, match="--dimension is needed .*: its outputs are 0 to 1, or bad, good"):
            Scorer(str(scorers / "other"), **CPU)
        with pytest.raises(OptionError, match="no choice 'funny'; the outputs of .* are 0 to 1, or bad, good"):
            Scorer(str(scorers / "other"), dimension="funny", **CPU)

    def test_armorm_by_number_and_name(self, scorers):
        backbone, head = (
            make_model("llama", 7).model,
            load_file(scorers / "armorm/model.safetensors")["regression_layer.weight"],
        )
        for dimension, number in (("10", 10), ("beavertails-is_safe", 10), ("0", 0), ("helpsteer-helpfulness", 0)):
            scorer = Scorer(str(scorers / "armorm"), dimension=dimension, **CPU)
            hidden = backbone(torch.tensor([scorer.encode(ANSWER)]))[0][0, -1]
            assert list(scorer.scores([ANSWER])) == [[pytest.approx((head[number] @ hidden).item(), abs=1e-3)]]
        assert len(OBJECTIVES) == 19 and OBJECTIVES[18] == "code-readability"
        for dimension in (None, "19", "-1", "safety"):
            with pytest.raises(OptionError, match="--dimension"):
                Scorer(str(scorers / "armorm"), dimension=dimension, **CPU)

    def test_armorm_in_several_files_and_without_its_head(self, scorers, tmp_path):
        folder = tmp_path / "sharded"
        folder.mkdir()
        for file in (scorers / "armorm").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        parts = {"model-1.safetensors": {}, "model-2.safetensors": {}}
        for i, (name, weight) in enumerate(weights.items()):
            parts[f"model-{i % 2 + 1}.safetensors"][name] = weight
        for file, part in parts.items():
            save_file(part, folder / file, {"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        one, two = (Scorer(str(f), dimension="3", **CPU) for f in (scorers / "armorm", folder))
        assert list(one.scores([ANSWER])) == list(two.scores([ANSWER]))
        del index["weight_map"]["regression_layer.weight"]
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"has no regression_layer\.weight"):
            Scorer(str(folder), dimension="3", **CPU)
        (folder / "model.safetensors.index.json").unlink()
        save_file(
            weights | {"regression_layer.weight": torch.zeros(18, 64)}, folder / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(ModelError, match=r"regression_layer\.weight of .* is \(18, 64\), not \(19, 64\)"):
            Scorer(str(folder), dimension="3", **CPU)

    def test_armorms_own_head_raises_no_alarm(self, scorers, tmp_path, capsys, caplog):
        mine = write(tmp_path / "x.jsonl", rows("Yes."))
        assert measure("--out_file", mine, "--rm", scorers / "armorm", "--dimension", 10, "--rm_gpu", "cpu") == 0
        said = capsys.readouterr().err + caplog.text
        assert "output 10 of 19" in said and "UNEXPECTED" not in said and "REPORT" not in said

    def test_models_that_give_no_scores(self, tiny):
        with pytest.raises(OptionError, match="LlamaForCausalLM, which gives no scores; name a classifier"):
            Scorer(str(tiny / "lm"), **CPU)


class TestCommand:
    def test_figures_and_files(self, scorers, tmp_path, capsys):
        made = rows("Yes.", "No, never.", "Perhaps it does.")
        made[1] |= {"result": None, "response": None, "skipped": "too long"}
        mine = write(tmp_path / "mine_0.jsonl", made)
        base = write(tmp_path / "base.jsonl", rows("Yes.", "No.", "It does."))
        words = ["--out_file", mine, "--rm", scorers / "gpt2", "--baseline", base, "--rm_gpu", "cpu"]
        assert measure(*words, "--npout", tmp_path / "n/s.npy", "--save", tmp_path / "s/r.json") == 0
        figures = report(capsys)
        scorer = Scorer(str(scorers / "gpt2"), **CPU)
        own = [
            next(scorer.scores([Answered(0, f"Question {i}?", a, "")]))[0]
            for i, a in ((0, "Yes."), (2, "Perhaps it does."))
        ]
        assert figures["mean"] == pytest.approx(sum(own) / 2, abs=1e-5) and (figures["n"], figures["skipped"]) == (2, 1)
        assert figures["se"] == pytest.approx(abs(own[0] - own[1]) / 2, abs=1e-5)
        pairs = figures["paired"]
        assert pairs["wins"] + pairs["losses"] == 1 and pairs["ties"] == 1 and figures["baseline"]["n"] == 3
        saved = np.load(tmp_path / "n/s.npy")
        assert saved[[0, 2]] == pytest.approx(own, abs=1e-5) and np.isnan(saved[1])
        kept = json.loads((tmp_path / "s/r.json").read_text())[0]
        assert list(kept["scores"]) == ["0", "2"] and kept["mean"] == figures["mean"]

    def test_scores_that_are_no_numbers(self, scorers, tmp_path, capsys):
        model = make_model("gpt2_scorer", 5, context=64)
        with torch.no_grad():
            model.score.weight.fill_(float("inf"))
        save(tmp_path / "broken", model, make_tokenizer(template=None))
        mine = write(tmp_path / "x.jsonl", rows("Yes."))
        assert measure("--out_file", mine, "--rm", tmp_path / "broken", "--rm_gpu", "cpu") == 2
        assert "a score is not a number; try --dtype" in capsys.readouterr().err

    def test_a_tokenizer_of_a_larger_vocabulary(self, scorers, tiny, tmp_path, capsys):
        save(tmp_path / "small", make_model("gpt2_scorer", 5, vocabulary=40), make_tokenizer(template=None))
        mine = write(tmp_path / "x.jsonl", rows("Yes."))
        assert measure("--out_file", mine, "--rm", tmp_path / "small", "--rm_gpu", "cpu") == 2
        assert "and the model knows 40; see --tokenizer" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--save", "--npout"])
    def test_figures_that_cannot_be_written_are_said_first(self, option, scorers, tmp_path, capsys):
        mine = write(tmp_path / "x.jsonl", rows("Yes."))
        assert measure("--out_file", mine, "--rm", scorers / "gpt2", option, tmp_path) == 2
        shown = capsys.readouterr()
        assert "cannot be written" in shown.err and "mean reward" not in shown.out

    def test_a_pattern_of_files(self, scorers, tmp_path, capsys):
        for i in range(3):
            write(tmp_path / f"x_{i}.jsonl", rows(*["Yes."] * (i + 1)))
        words = ["--out_file", tmp_path / "x_{}.jsonl", "--start_index", 1, "--end_index", 2, "--rm", scorers / "humor"]
        assert measure(*words, "--npout", tmp_path / "s.npy") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert [(line["file"], line["n"]) for line in lines] == [
            (str(tmp_path / f"x_{i}.jsonl"), i + 1) for i in (1, 2)
        ]
        assert np.load(tmp_path / "s.npy").shape == (5,)

    def test_the_same_text_for_vanilla_and_guided_rows(self, scorers, tmp_path, capsys):
        """Rows with and without preference text, in whatever form: equal answers have equal scores, all ties."""
        made = rows("Yes.", "No.")
        vanilla = [{"prompt": row["instruction"], "result": row["result"]} for row in made]
        old = "[Guidelines] x [Principles] y [Instruction] "
        legacy = [
            {
                "prompt": old + row["instruction"],
                "result": f"user\n\n{old}{row['instruction']}assistant\n\n{row['result']}user\n\nAnd?",
                "response": "",
            }
            for row in made
        ]
        mine = write(tmp_path / "mine.jsonl", made)
        for name, others in (("vanilla", vanilla), ("legacy", legacy)):
            base = write(tmp_path / f"{name}.jsonl", others)
            for rm, more in (("gpt2", []), ("humor", []), ("armorm", ["--dimension", 10])):
                assert measure("--out_file", mine, "--baseline", base, "--rm", scorers / rm, *more) == 0
                assert report(capsys)["paired"]["ties"] == 2, (name, rm)

    @pytest.mark.parametrize(
        "more, message",
        [
            ([], "nothing to measure"),
            (["--rm", "/no/such/rm"], "'/no/such/rm' is no folder"),
            (["--out_file", "no.jsonl", "--metrics"], "no file no.jsonl"),
            (["--baseline", "other.jsonl", "--metrics"], "its row 0 answers 'Other?'"),
            (["--baseline", "twice.jsonl", "--metrics"], "two rows have the index 0"),
            (["--metrics", "--judge_model", "j"], "--judge_model compares with --baseline"),
            (["--metrics", "--batch_size", 0], "--batch_size must be at least 1"),
            (["--metrics", "--start_index", 2, "--end_index", 1], "--end_index 1 is below"),
        ],
    )
    def test_errors(self, more, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        mine = write(tmp_path / "mine.jsonl", rows("Yes."))
        write(tmp_path / "other.jsonl", [{"prompt": "Other?", "result": "Yes."}])
        write(tmp_path / "twice.jsonl", rows("Yes.") * 2)
        assert measure("--out_file", mine, *more) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("measure_reward.py: error: ") and message in error


def test_coherence_is_the_cosine_of_each_pair(tmp_path):
    torch.manual_seed(4)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertModel(BertConfig(vocab_size=600, pad_token_id=1, initializer_range=0.2, **sizes)).eval()
    tokenizer = make_tokenizer(template=None)
    folder = save(tmp_path / "bert", model, tokenizer)  # without a pad token
    answers = [ANSWER, Answered(1, "A cat?", "A cat?", "A cat?"), Answered(2, "Who?", "", "Who?")]

    def embedded(text, mean):
        output = model(torch.tensor([tokenizer(text or " ")["input_ids"]]))
        return output[0].mean(1) if mean else output.pooler_output

    for mean in (False, True):
        if mean:
            (folder / "modules.json").write_text("[]")  # sentence-transformers' mark
        pairs = [(embedded(a.question, mean), embedded(a.answer, mean)) for a in answers]
        expected = sum(torch.cosine_similarity(q, a).item() for q, a in pairs) / 3
        assert coherence(answers, str(folder), torch.device("cpu"), 2) == pytest.approx(expected, abs=1e-5)
    # A checkpoint without the layer of the pooled output, which would be drawn at random: the mean is taken, and said.
    (folder / "modules.json").unlink()
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    said = []
    assert coherence(answers, str(folder), torch.device("cpu"), 2, said.append) == pytest.approx(expected, abs=1e-5)
    assert "without the layer of its pooled output; the mean of its tokens is taken" in said[0]
    del kept["encoder.layer.0.output.dense.weight"]
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="1 of its weights are missing"):
        coherence(answers, str(folder), torch.device("cpu"), 2)
