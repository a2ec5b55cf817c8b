import pytest

from datasets_loader import DataError
from pad.answers import Answered, chat_turns, read_answer
from pad.summary import check_same_questions, mean_and_error, paired, table
from pad.text_metrics import diversity, repetition, text_metrics

SYS = "[Guidelines] Your task is to help. [Principles] humor [Instruction] "


def texts(row: dict, **options) -> tuple[str, str]:
    found = read_answer(row, 0, "f.json", **options)
    return found.question, found.answer


class TestReadAnswer:
    def test_our_own_rows_are_taken_as_they_are(self):
        question, answer = "Is a user an assistant\n\nHm [Instruction] x?", "Yes, the user\n\nassistant\n\nis."
        row = {"prompt": SYS + question, "instruction": question, "result": answer, "response": SYS + question + answer}
        assert texts(row) == (question, answer)

    def test_the_example_of_the_published_readme(self):
        row = {
            "prompt": "Are you okay? You look",
            "response": "Are you okay? You look a bit tired or stressed. Anything you'd like to talk about?",
            "method": "greedy",
        }
        assert texts(row) == ("Are you okay? You look", "a bit tired or stressed. Anything you'd like to talk about?")

    def test_a_prompt_without_preference_text_loses_nothing(self):
        assert texts({"prompt": "Who wrote the [Instruction] manual?", "result": "Ann."}) == (
            "Who wrote the [Instruction] manual?",
            "Ann.",
        )
        assert texts({"prompt": SYS + "Who?", "output": "Ann."}) == ("Who?", "Ann.")

    @pytest.mark.parametrize("field", ["result", "response"])
    def test_published_transcripts(self, field):
        """Role words are glued to the texts, the prompt stands there twice, and invented turns follow."""
        question = "Does a user need an assistant\n\nor not?"
        transcript = (
            f"user\n\n{SYS + question}assistant\n\nNo. A user does not.\n\nReally.user\n\nSure?assistant\n\nYes."
        )
        row = {"prompt": SYS + question, "response": SYS + question + transcript}
        row |= {"result": transcript} if field == "result" else {}
        assert texts(row) == (question, "No. A user does not.\n\nReally.")

    @pytest.mark.parametrize(
        "answer, hhrlhf, shp",
        [
            ("Yes.\n\nHuman: And then?", "Yes.", "Yes."),
            ("Yes. ### Human: And then?", "Yes.", "Yes. ###"),
            ("Yes. Human: And then?", "Yes. Human: And then?", "Yes."),
            ("A human: what is it?", "A human: what is it?", "A human: what is it?"),
        ],
    )
    def test_invented_turns_of_dialogues(self, answer, hhrlhf, shp):
        row = {"prompt": "Human: A? Assistant:", "response": "Human: A? Assistant: " + answer}
        assert texts(row)[1] == hhrlhf
        assert texts(row, experiment="shp")[1] == shp

    def test_numbers_and_skipped_rows(self):
        row = {"prompt": "A?", "result": "B", "elapsed": 1.5}
        assert read_answer(row, 7, "f") == Answered(7, "A?", "B", "A?", 1.5)
        assert read_answer(row | {"index": 3}, 7, "f").index == 3
        assert read_answer(row | {"index": -1}, 7, "f").index == 7
        assert read_answer(row | {"skipped": False}, 7, "f").answer == "B"
        assert read_answer({"prompt": "A?", "result": None, "skipped": "too long"}, 0, "f") is None
        assert texts(row | {"other": "C"}, field="other")[1] == "C"
        assert texts({"prompt": "A?", "result": ""}) == ("A?", "")

    @pytest.mark.parametrize(
        "row, message",
        [
            ("text", "row 4: not an object"),
            ({"result": "A"}, 'no text "prompt"'),
            ({"prompt": "A?"}, 'no text "response"; it has prompt'),
            ({"prompt": "A?", "result": 3}, 'no text "result"'),
            ({"prompt": "A?", "response": "B"}, "does not begin with its prompt; name a field by --field"),
        ],
    )
    def test_rows_without_a_question_or_an_answer(self, row, message):
        with pytest.raises(DataError) as error:
            read_answer(row, 4, "f.json")
        assert message in str(error.value) and str(error.value).startswith("f.json, row 4")


def test_half_a_character_is_a_replacement_character():
    row = {"prompt": "A\ud83d?", "instruction": "\ud83d?", "result": "B\ud83d \U0001f9ec", "judge": "\udc00"}
    found = read_answer(row, 0, "f.json")
    assert (found.question, found.answer, found.prompt) == ("\ufffd?", "B\ufffd \U0001f9ec", "A\ufffd?")
    assert found.texts["judge"] == "\ufffd"


def test_dialogues_are_messages():
    turns = chat_turns("\n\nHuman: A? Human: is here.\n\nAssistant: B.\n\nHuman: C?\n\nAssistant:", "D.")
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "A?"),
        ("user", "is here."),
        ("assistant", "B."),
        ("user", "C?"),
        ("assistant", "D."),
    ]
    assert [turn["content"] for turn in chat_turns("Who is Human: A?", "B")] == ["Who is Human: A?", "B"]


class TestSummary:
    def test_mean_and_error(self):
        assert mean_and_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx(
            {"n": 4, "mean": 3.0, "sd": 2.160247, "se": 1.080123}
        )
        assert mean_and_error([2.0]) == {"n": 1, "mean": 2.0, "sd": None, "se": None}
        assert mean_and_error([])["mean"] is None

    def test_pairs_on_common_indices(self):
        found = paired({0: 1.0, 1: 2.0, 2: 5.0, 4: 9.0}, {0: 0.0, 1: 2.0, 2: 6.0, 3: 9.0})
        assert (found["wins"], found["ties"], found["losses"]) == (1, 1, 1)
        assert found["difference"] == pytest.approx({"n": 3, "mean": 0.0, "sd": 1.0, "se": 0.57735}, abs=1e-5)
        assert found["win_rate"] == pytest.approx(1 / 3)
        with pytest.raises(DataError, match="no answered prompt in common"):
            paired({0: 1.0}, {1: 1.0})

    def test_other_questions_are_refused(self):
        mine = {0: Answered(0, "A?", "x", "A?")}
        check_same_questions(mine, {0: Answered(0, "A? ", "y", SYS + "A?"), 1: Answered(1, "B?", "y", "B?")}, "f")
        with pytest.raises(DataError, match="row 0 answers 'B\\?', not 'A\\?'"):
            check_same_questions(mine, {0: Answered(0, "B?", "y", "B?")}, "f")

    def test_the_table(self):
        figures = mean_and_error([1.0, 3.0]) | {"skipped": 1, "baseline": mean_and_error([0.0, 3.0])}
        shown = table(figures | {"paired": paired({0: 1.0, 1: 3.0}, {0: 0.0, 1: 3.0})})
        assert "2.0000 ± 1.0000" in shown and "1 / 1 / 0" in shown and "50 % (95 %: 9 to 91)" in shown


class TestTextMetrics:
    def test_repetition_by_hand(self):
        """Of "a b a b c" the 2-grams are ab, ba, ab, bc: 3 of 4 distinct, and 1 is added to the 4."""
        words = ["a", "b", "a", "b", "c"]
        assert repetition(words, 2) == pytest.approx(100 * (1 - 3 / 5))
        assert repetition(words, 3) == pytest.approx(100 * (1 - 3 / 4))
        assert repetition(words, 4) == pytest.approx(100 * (1 - 2 / 3))
        assert diversity(words) == pytest.approx(3 / 5 * 3 / 4 * 2 / 3)
        assert repetition(["a"], 2) == 100 and diversity(["a"]) == 0

    def test_means(self):
        answers = [Answered(0, "Q", "One two three four five.", "Q", 2.0), Answered(1, "Q", "", "Q")]
        found = text_metrics(answers)
        assert found["diversity"] == pytest.approx(5 / 6 * 4 / 5 * 3 / 4 / 2)
        assert (found["mean_characters"], found["mean_seconds"]) == (12, 2.0)
