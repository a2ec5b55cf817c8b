"""Questions with answers before each question (--few_shot): which they are, and how each model is asked them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import final_records, gsm8k_rows, nudging_options, one, run_api, write_rows
from whole_runs import plain_error

from datasets_loader import DATA_SETS, DataError, Example, fingerprint
from experiment.asking import load_asked
from experiment.command_line import parse_settings
from experiment.conversations import asked_prompt
from experiment.prompts import prompt_builders
from questions.few_shot import with_shots

GSM8K = DATA_SETS["gsm8k"]
PAIR = [
    "--exp",
    "nudging",
    "--base_model",
    "base-lm",
    "--base_host",
    "http://h:1/v1",
    "--nudging_model",
    "qwen2.5-instruct",
]
PAIR += ["--nudging_host", "http://h:1/v1"]


def example(i: int, question: str, gold: str = "1") -> Example:
    return Example(i, question, gold)


@given(
    asked=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4),
    pool=st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.sampled_from(["1", "", " "])), max_size=20),
    number=st.integers(1, 4),
)
def test_none_is_asked_itself_none_stands_there_twice_and_all_have_answers(asked, pool, number):
    rows = [example(i, question, gold) for i, (question, gold) in enumerate(pool)]
    questions = [example(i, question) for i, question in enumerate(asked)]
    fitting = {question for question, gold in pool if gold.strip()} - set(asked)
    if len(fitting) < number:
        with pytest.raises(
            DataError, match=f"--few_shot {number}: the pool has {len(fitting)} questions with an answer"
        ):
            with_shots(questions, rows, number, GSM8K, "the pool")
        return
    found = with_shots(questions, rows, number, GSM8K, "the pool")
    shots = found[0].shots
    assert all(one.shots == shots for one in found) and found == with_shots(questions, rows, number, GSM8K, "the pool")
    assert len(shots) == number == len({asked_before for asked_before, _ in shots})
    assert {text.removeprefix("Question: ") for text, _ in shots} <= fitting and all(gold == "1" for _, gold in shots)
    assert fingerprint(found) != fingerprint(questions)


def test_fewer_are_the_first_of_more():
    pool = [example(i, f"q{i}") for i in range(100)]
    few, more = (with_shots([example(0, "x")], pool, n, GSM8K, "")[0].shots for n in (3, 8))
    assert more[:3] == few and [text for text, _ in few] != ["Question: q0", "Question: q1", "Question: q2"]


def test_questions_with_turns_before_them_are_refused():
    talk = Example("t", "q", "1", history=(("user", "a"), ("assistant", "b")))
    with pytest.raises(DataError, match="the question with the id 't' has messages before it"):
        with_shots([talk], [example(0, "p")], 1, GSM8K, "")


def test_prompts_of_both_models():
    settings = parse_settings(PAIR)
    (asked,) = with_shots([Example(0, "How many?", "3", "Cats.\n")], [example(1, "1 + 1?", "#### 2")], 1, GSM8K, "")
    prompts = {role: asked_prompt(GSM8K, asked, build) for role, build in prompt_builders(settings).items()}
    system = GSM8K.system_prompt
    assert prompts["base"] == (f"{system}\nQuestion: 1 + 1?\nAnswer:\n#### 2\n\nCats.\nQuestion: How many?\nAnswer:\n")
    assert prompts["nudging"] == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nQuestion: 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
        "#### 2<|im_end|>\n<|im_start|>user\nCats.\nQuestion: How many?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_pairs_of_a_file_for_questions_of_ones_own(tmp_path):
    (tmp_path / "mine.txt").write_text("One?\nTwo?\n")
    (tmp_path / "pairs.csv").write_text("question,answer\nOne?,1\nThree?,3\nFour?,\n")
    words = [
        *PAIR,
        "--questions",
        str(tmp_path / "mine.txt"),
        "--few_shot",
        "1",
        "--few_shot_file",
        str(tmp_path / "pairs.csv"),
    ]
    settings = parse_settings(words)
    asked = load_asked(settings)
    assert [one.shots for one in asked] == [(("Three?", "3"),)] * 2
    prompt = asked_prompt(settings.data_set, asked[1], prompt_builders(settings)["base"])
    assert prompt == "You are a helpful assistant.\nQuestion: Three?\nAnswer:\n3\n\nQuestion: Two?\nAnswer:\n"
    assert settings.result_name.startswith("questions_few_shot_1_") and settings.decisive["few_shot"] == 1
    settings = parse_settings([*words[:-4], "--few_shot", "2", *words[-2:]])
    with pytest.raises(DataError, match="--few_shot 2: .*pairs.csv has 1 questions with an answer that are not asked"):
        load_asked(settings)


@pytest.mark.parametrize("name", [name for name, one in DATA_SETS.items() if "train" not in one.splits])
def test_a_data_set_without_a_train_split_is_refused_by_name(name, capsys):
    with pytest.raises(SystemExit):
        parse_settings([*PAIR, "--dataset_name", name, "--few_shot", "2"])
    told = capsys.readouterr().err
    assert f"--few_shot: {name} has no train split to take questions from" in told and "--few_shot_file" in told


@pytest.mark.slow
class TestWholeRuns:
    def options(self, server, folder, *more):
        data = write_rows(folder / "data", "gsm8k", gsm8k_rows(3))
        write_rows(
            folder / "data",
            "gsm8k",
            [*gsm8k_rows(2), *({"question": f"{i}?", "answer": f"{i}"} for i in range(9))],
            "train",
        )
        return [*nudging_options(server.host, data, folder / "out"), *more]

    def test_a_run_its_repetition_and_another_number(self, server, tmp_path):
        options = self.options(server, tmp_path, "--few_shot", 2)
        assert run_api(*options).returncode == 0
        records = final_records(tmp_path / "out")
        assert all(record["full_prefix_base"].count("\nAnswer:\n") == 3 for record in records)
        assert all(record["full_prefix_nudging"].count("[INST]") == 3 for record in records)
        assert one(tmp_path, "split_test_few_shot_2_top_prob_0.4_*.run.json")
        run = json.loads(one(tmp_path, "*.run.json").read_text())
        assert run["settings"]["few_shot"] == 2
        before = server.stats()
        assert run_api(*options).returncode == 0 and server.stats() == before
        write_rows(tmp_path / "data", "gsm8k", [{"question": f"{i} + 1?", "answer": f"{i}"} for i in range(9)], "train")
        assert "was asked of the base model in another prompt" in plain_error(run_api(*options))

    def test_no_train_rows(self, server, tmp_path):
        data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(3))
        told = plain_error(run_api(*nudging_options(server.host, data, tmp_path / "out"), "--few_shot", 2))
        assert "gsm8k/train.jsonl" in told and "splits there: test" in told
