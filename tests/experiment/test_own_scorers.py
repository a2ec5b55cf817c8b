"""Scoring by a function of one's own (--scoring FILE.py:function): what it may give, and what goes wrong in it."""

import pytest

from command.errors import OptionError
from experiment.scorers import own_scorer
from experiment.scoring import score_all, scored

RECORD = {"index": 0, "question": "q", "raw_answer": "a", "gold_answer": "g", "columns": {"level": 2}}


def scorer(folder, code: str):
    (folder / "mine.py").write_text(code)
    return own_scorer(f"{folder}/mine.py:score")


@pytest.mark.parametrize(
    ("given", "scores"),
    [
        ("True", {"correct": 1}),
        ("0", {"correct": 0}),
        ("1.0", {"correct": 1}),
        ("0.25", {"score": 0.25}),
        ("None", None),
        ("{'correct': True, 'reason': 'so'}", {"correct": 1, "reason": "so"}),
        ("{'score': 1, 'n': 3}", {"score": 1.0, "n": 3}),
        ("__import__('numpy').bool_(True)", {"correct": 1}),
        ("__import__('numpy').float32(0.5)", {"score": 0.5}),
    ],
)
def test_what_it_may_give(tmp_path, given, scores):
    assert scorer(tmp_path, f"def score(record):\n    return {given}\n").score(RECORD) == scores


@pytest.mark.parametrize(
    "given", ["2", "-0.1", "float('nan')", "'yes'", "[1]", "{}", "{'correct': 0.5}", "{'score': 'x'}"]
)
def test_what_it_may_not_give_is_told_and_the_answer_kept(tmp_path, given):
    (tmp_path / "mine.py").write_text(f"def score(record):\n    return {given}\n")
    scores, fault = scored(RECORD, f"{tmp_path}/mine.py:score")
    assert scores is None and "it gave " in fault and "a number from 0 to 1" in fault


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{'correct': 1, 'judge': 'me'}", "it gave 'judge', which has a meaning"),
        ("{'correct': 1, 'x': {2}}", "set is not JSON"),
    ],
)
def test_objects_that_scores_cannot_hold(tmp_path, given, said):
    (tmp_path / "mine.py").write_text(f"def score(record):\n    return {given}\n")
    assert said in scored(RECORD, f"{tmp_path}/mine.py:score")[1]


def test_it_sees_a_copy_and_its_own_folder(tmp_path):
    (tmp_path / "beside_mine.py").write_text("WORD = 'a'\n")
    code = (
        "import re\nfrom beside_mine import WORD\n"
        "def score(record):\n    record['columns']['level'] = 9\n    return bool(re.search(WORD, record.pop('raw_answer')))\n"
    )
    assert scorer(tmp_path, code).score(RECORD) == {"correct": 1}
    assert RECORD["raw_answer"] == "a" and RECORD["columns"] == {"level": 2}


def test_one_that_fails_for_some(tmp_path):
    (tmp_path / "mine.py").write_text("def score(record):\n    return record['index'] / record['index']\n")
    records = [RECORD | {"index": i} for i in range(3)] + [{"index": 3, "error": "no server"}]
    said = []
    assert score_all(records, f"{tmp_path}/mine.py:score", said.append) == 1
    assert [record.get("scores") for record in records] == [None, {"correct": 1}, {"correct": 1}, None]
    assert said == [
        f"1 answers could not be scored by --scoring {tmp_path}/mine.py:score; the first: sample 0: "
        "ZeroDivisionError: division by zero"
    ]


@pytest.mark.parametrize(
    ("code", "told", "said"),
    [
        ("def other(record): pass\n", "mine.py:score", "there is no function 'score' in"),
        ("score = 3\n", "mine.py:score", "there is no function 'score' in"),
        ("def score(:\n", "mine.py:score", "cannot be run: SyntaxError"),
        ("import no_such_module\n", "mine.py:score", "cannot be run: ModuleNotFoundError"),
        ("", "other.py:score", "there is no file"),
        ("", "mine.txt:score", "it takes FILE.py:function"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, code, told, said):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(OptionError, match=said) as error:
        own_scorer(f"{tmp_path}/{told}")
    assert "\n" not in str(error.value)
