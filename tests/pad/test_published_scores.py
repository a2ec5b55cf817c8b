"""--format upstream and args: the published programs' scores, counting and lines, for every scorer and kind of row.

What is expected comes from the rules as tests/support/published_rules.py has them, and from each
model's own forward pass on one text.
"""

import json

import needs
import numpy as np
import pytest

torch = needs.module("torch")

import published_rules  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_models import make_model, make_tokenizer, save  # noqa: E402
from tokenizers import processors  # noqa: E402
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

import measure_reward  # noqa: E402

SYS = "[Guidelines] Your task is to write replies. [Principles] harmless and helpfulness and humor [Instruction] "
QUESTIONS = [
    "Why does the moon look larger?",
    "Is my user an assistant?",
    "Which river\n\nHuman: is long?",
    "Hm [Instruction] x?",
]
ANSWERS = [
    "It does not.",
    " No, sorry!",
    "The user asks the assistant.\n\nHuman: And then?",
    "Yes.assistant\n\nuser\n\nNo.",
    "Hi\n",
]
PAIRS = [(question, answer) for question in QUESTIONS for answer in ANSWERS]


def chat(prompt: str, answer: str) -> str:
    return f"system\n\nuser\n\n{prompt}assistant\n\n{answer}"


# Kinds of rows: who wrote them, and with or without a preference text.
ROWS = {
    "transcripts with a preference": [
        {"prompt": SYS + q, "result": chat(SYS + q, a), "response": "x"} for q, a in PAIRS
    ],
    "transcripts without": [{"prompt": q, "result": chat(q, a), "response": q + chat(q, a)} for q, a in PAIRS],
    "older transcripts": [{"prompt": SYS + q, "result": f"user\n\n{SYS}{q}assistant\n\n{a}"} for q, a in PAIRS],
    "pairs": [{"prompt": q, "response": q + a} for q, a in PAIRS],
    "pairs with a colon": [{"prompt": q, "response": f"{q}: {a}"} for q, a in PAIRS],
    "pairs with a preference": [{"prompt": SYS + q, "response": SYS + q + a} for q, a in PAIRS],
    "other responses": [{"prompt": q, "response": a} for q, a in PAIRS],
    "outputs": [{"prompt": q, "output": a} for q, a in PAIRS],
    "ours": [{"prompt": SYS + q, "instruction": q, "result": a, "response": SYS + q + a} for q, a in PAIRS],
    "dialogues": [
        {"prompt": f"\n\nHuman: {q}\n\nAssistant:", "response": f"\n\nHuman: {q}\n\nAssistant:{a}"} for q, a in PAIRS
    ],
}


def write(path, rows) -> str:
    path.write_text(json.dumps(rows))
    return str(path)


def measure(*words: object) -> int:
    return measure_reward.main([str(word) for word in words])


def report(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def own_score(scorers):
    """A scorer's score of a row by its own forward pass, of the text that the rules give."""

    @torch.inference_mode()
    def score(name: str, row: dict, program: str, experiment: str) -> float:
        folder = scorers / name
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = (
            published_rules.of_args(row, experiment) if program == "args" else published_rules.of_pad(row, experiment)
        )
        if name == "armorm":
            query, answer = published_rules.armorm(text)
            turns = [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
            head = load_file(folder / "model.safetensors")["regression_layer.weight"]
            return (models["armorm"](ids)[0][0, -1] @ head[10]).item()
        text = text if program == "args" else published_rules.transcript(text)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        return models[name](ids[:, :512] if name == "humor" and program == "pad" else ids).logits[0, -1].item()

    models = {
        name: AutoModelForSequenceClassification.from_pretrained(scorers / name)
        for name in ("long_gpt2", "chatty", "humor")
    }
    models["armorm"] = AutoModel.from_pretrained(scorers / "armorm")
    return score


@pytest.mark.parametrize("experiment", ["hhrlhf", "shp"])
@pytest.mark.parametrize(
    "program, scorer",
    [
        ("pad", "long_gpt2"),
        ("pad", "humor"),
        ("pad", "armorm"),
        ("pad", "chatty"),
        ("args", "long_gpt2"),
        ("args", "chatty"),
    ],
)
def test_every_row_has_the_published_score(program, scorer, experiment, scorers, own_score, tmp_path, capsys):
    rows = [row for kind in ROWS.values() for row in kind]
    if program == "args":
        rows = [row if row.keys() & {"response", "output"} else row | {"response": row["result"]} for row in rows]
    form = "args" if program == "args" else "upstream"
    words = ["--format", form, "--rm", scorers / scorer, "--rm_gpu", "cpu", "--experiment", experiment]
    words += ["--dimension", 10] if scorer == "armorm" else []
    mine = write(tmp_path / "x.jsonl", rows)
    assert measure("--out_file", mine, *words, "--npout", tmp_path / "s.npy") == 0
    shown = capsys.readouterr().out.splitlines()
    expected = [own_score(scorer, row, program, experiment) for row in rows]
    assert np.load(tmp_path / "s.npy") == pytest.approx(np.array(expected), abs=2e-4)
    line = next(line for line in shown if line.startswith("np.mean(rm_scores)="))
    assert float(line.partition("=")[2]) == pytest.approx(np.mean(expected), abs=2e-4)
    assert shown[shown.index(line) + 1] == "num_skip=0" and not any("mean reward" in line for line in shown)


class TestCounting:
    def test_an_empty_text_counts_twice_in_a_single_file(self, scorers, own_score, tmp_path, capsys):
        rows = [{"prompt": "Q?", "result": text} for text in ("Yes, it does not.", "", "system\n\nuser\n\n")]
        write(tmp_path / "x_0.jsonl", rows)
        first, empty = (own_score("humor", row, "pad", "hhrlhf") for row in rows[:2])
        words = ["--rm", scorers / "humor", "--rm_gpu", "cpu", "--format", "upstream"]
        assert measure("--out_file", tmp_path / "x_0.jsonl", *words) == 0
        single = report(capsys)
        assert single["published"]["n"] == 5
        assert single["published"]["mean"] == pytest.approx((first + 2 * empty) / 5, abs=1e-4)
        assert (single["n"], single["mean"]) == (3, pytest.approx(first / 3, abs=1e-4))
        assert measure("--out_file", tmp_path / "x_{}.jsonl", *words) == 0
        out = capsys.readouterr().out
        name = str(tmp_path / "x_0.jsonl")
        assert f"\nMean RM Score for {name}: " in out and "\nNumber of skipped entries: 0\n" in out
        pattern = json.loads(out.splitlines()[-1])
        assert pattern["published"]["mean"] == pytest.approx(first / 3, abs=1e-4) and pattern["published"]["n"] == 3

    def test_args_counts_it_twice_everywhere(self, scorers, own_score, tmp_path, capsys):
        rows = [{"prompt": "Q?", "response": text} for text in ("Yes.", "")]
        write(tmp_path / "x_0.jsonl", rows)
        expected = (sum(own_score("chatty", row, "args", "shp") for row in rows)) / 3
        words = ["--rm", scorers / "chatty", "--rm_gpu", "cpu", "--format", "args", "--experiment", "shp"]
        for name in ("x_0.jsonl", "x_{}.jsonl"):
            assert measure("--out_file", tmp_path / name, *words) == 0
            assert report(capsys)["published"]["mean"] == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize("form, limit", [("upstream", 1024), ("args", 1334)])
    @pytest.mark.parametrize("scorer", ["long_gpt2", "humor"])
    def test_long_texts_are_skipped(self, form, limit, scorer, scorers, own_score, tmp_path, capsys):
        """Of exactly that many tokens: skipped; of one less: scored, by the humor classifier its first 512 tokens."""
        if (form, scorer) == ("args", "humor"):
            scorer = "chatty"
        tokenizer = AutoTokenizer.from_pretrained(scorers / scorer)
        word = next(
            w
            for w in (" x", "x", "é")
            if len(tokenizer(w * 50)["input_ids"]) - len(tokenizer(w * 49)["input_ids"]) == 1
        )
        room = limit - (len(tokenizer(word * 50)["input_ids"]) - 50)
        rows = [{"prompt": "Q?", "response": word * n} for n in (room, room - 1)]
        assert [len(tokenizer(row["response"])["input_ids"]) for row in rows] == [limit, limit - 1]
        words = ["--rm", scorers / scorer, "--rm_gpu", "cpu", "--format", form, "--experiment", "shp"]
        assert measure("--out_file", write(tmp_path / "x.jsonl", rows), *words) == 0
        out = capsys.readouterr().out
        found = json.loads(out.splitlines()[-1])
        expected = own_score(scorer, rows[1], "args" if form == "args" else "pad", "shp")
        assert "\nnum_skip=1\n" in out and (found["published"]["n"], found["skipped"]) == (1, 1)
        assert found["published"]["mean"] == pytest.approx(expected, abs=1e-3)
        write(tmp_path / "x.jsonl", rows[:1])
        assert measure("--out_file", tmp_path / "x.jsonl", *words) == 0
        assert "np.mean(rm_scores)=nan\nnum_skip=1\n" in capsys.readouterr().out

    def test_armorm_skips_nothing(self, scorers, tmp_path, capsys):
        rows = [{"prompt": "Q?", "response": "a word " * 1100}]
        words = ["--rm", scorers / "armorm", "--rm_gpu", "cpu", "--format", "upstream", "--dimension", 0]
        assert measure("--out_file", write(tmp_path / "x.jsonl", rows), *words) == 0
        assert report(capsys)["published"]["skipped"] == 0

    def test_texts_that_no_model_of_that_length_reads(self, scorers, tmp_path, capsys):
        rows = [{"prompt": "Q?", "response": "Yes."}, {"prompt": "Q?", "response": "é" * 100}]
        words = ["--rm", scorers / "gpt2", "--rm_gpu", "cpu", "--format", "upstream"]
        assert measure("--out_file", write(tmp_path / "x.jsonl", rows), *words) == 2
        assert "the text of row 1 has " in (error := capsys.readouterr().err) and "and the model reads 64" in error

    def test_an_empty_text_without_a_token_in_front(self, tmp_path, capsys):
        """The published program stops there: nothing is scored."""
        tokenizer = make_tokenizer(template=None)
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        folder = save(tmp_path / "m", make_model("gpt2_scorer", 5, context=64), tokenizer)
        assert AutoTokenizer.from_pretrained(folder)("")["input_ids"] == []
        rows = [{"prompt": "Q?", "result": ""}]
        assert measure("--out_file", write(tmp_path / "x.jsonl", rows), "--rm", folder, "--format", "upstream") == 0
        assert report(capsys)["published"] == {"mean": 0.0, "n": 1, "skipped": 0, "pattern": False}


def test_what_args_is_not_for(scorers, tmp_path, capsys):
    mine = write(tmp_path / "x.jsonl", [{"prompt": "Q?", "response": "Q? A"}])
    words = ["--out_file", mine, "--format", "args", "--dimension", 0]
    assert measure(*words, "--rm", scorers / "armorm") == 2
    assert "--format args is for sequence classifiers" in capsys.readouterr().err
    mine = write(tmp_path / "y.jsonl", [{"prompt": "Q?", "result": "A"}])
    assert measure("--out_file", mine, "--format", "args", "--rm", scorers / "gpt2") == 2
    assert "row 0 has no text 'output' for --format args; name a field by --field" in capsys.readouterr().err
