"""What is read in answers without a judge: wordings that are read, and words that must not be taken for choices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_loader import DATA_SETS
from experiment.reading import options_of, read_choice, read_coin, read_plausible, read_yes_no
from experiment.reading_words import read_date, read_word
from experiment.scorers import SCORERS

OPTIONS = {"A": "the bank", "B": "a river", "C": "New York", "D": "New York City", "E": "none of these"}

CHOICES = [
    ("The answer is B.", "B"),
    ("The answer is (C)", "C"),
    ("**Answer: D**", "D"),
    ("Answer:\n\nB. a river", "B"),
    ("So the correct answer is **A. the bank**.", "A"),
    ("The correct option is E because nothing fits.", "E"),
    ("B", "B"),
    ("B. a river\nRivers carry water.", "B"),
    ("(B) is right.", "B"),
    (r"Therefore $\boxed{C}$", "C"),
    ("I would say the answer is a river, since it flows.", "B"),
    ("The answer is New York City.", "D"),
    ("The answer is New York.", "C"),
    ("The answer is A. No, wait. The answer is B.", "B"),
    ("A man walks into a bank. I think he wants money.", None),
    ("The answer is a man who walks.", None),
    ("A. the bank\nB. a river\nC. New York\nD. New York City\nE. none of these", None),
    ("It could be A or B.", None),
    ("It flows, so it has to be a river and nothing else.", "B"),
    ("I don't know.", None),
    ("", None),
    ("As an AI, Certainly. Both banks and Cars.", None),
    ("Option B is correct.", "B"),
    ("B is the correct answer.", "B"),
    ("I choose B because it fits.", "B"),
    ("I would go with D.", "D"),
    ("A is wrong. B is right.", "B"),
    ("The answer is A and B.", None),
    ("The answer is A or B.", None),
    ("Both A and C are correct.", None),
    ("The answer is not B.", None),
    ("The answer is (b).", "B"),
    ("Answer - B", "B"),
    ("Hence option C", "C"),
    ("$\\text{B}$", "B"),
    ("The answer is C. a river.", None),
    ("B. New York\nIt is large.", None),
    ("The answer is a.", None),
    ("The answer is A.\nQuestion: What else?\nThe answer is C.", "A"),
    ("The answer is A. The answer is B. The answer is A. The answer is C.", None),
    ("It is not a river.", None),
    ("A river has water. So one has to think.", None),
    ("Rivers flow. Therefore, it is a river.", "B"),
    ("A. the bank\nB. a river\nC. New York\nD. New York City\nE. none of these\nA.", None),
]


@pytest.mark.parametrize(("answer", "label"), CHOICES)
def test_choices(answer, label):
    assert read_choice(answer, OPTIONS) == label


def test_an_option_may_name_others():
    options = {"A": "ice", "B": "snow", "C": "A and B", "D": "neither A nor B"}
    assert read_choice("The answer is A and B.", options) == read_choice("C. A and B", options) == "C"
    assert read_choice("The answer is neither A nor B.", options) == "D"


TEMPLATES = [
    "The answer is {}.",
    "Step one. Step two.\nSo the answer is: {}",
    "The correct answer is ({}).",
    "**The final answer is {}**",
    "Answer: {}",
    "The best choice is '{}'.",
    "{}",
    "({})",
    "{}) because it fits",
    "Let me think, there is a lot to it.\n\n{}.",
]


@given(st.sampled_from(TEMPLATES), st.sampled_from("ABCDE"), st.sampled_from(["", " ", "\n", "  \n\n"]))
def test_any_wording_of_a_known_choice_is_read(template, label, blanks):
    assert read_choice(blanks + template.format(label) + blanks, OPTIONS) == label


WORDS = st.lists(st.from_regex(r"[A-E][a-z]{1,8}|[a-e]|[a-z]{2,7}", fullmatch=True), min_size=2, max_size=12)


@given(WORDS)
def test_letters_that_begin_words_are_no_choices(words):
    assert read_choice(" ".join(words), {label: f"option {label} of many" for label in "ABCDE"}) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, because it floats.", "yes"),
        ("No. It sinks.", "no"),
        ("The answer is **no**.", "no"),
        ("It has many. Therefore, yes, it would.", "yes"),
        ("First there is no evidence. So the answer is yes.", "yes"),
        ("There is no way to know what it was.", None),
        ("true", "yes"),
        ("The statement is False.", None),
        ("Yes. No.", "yes"),
        ("Nobody knows. Yesterday it rained.", None),
        ("", None),
        ("No one flips the coin.", None),
        ("No evidence suggests it.", None),
        ("Yes and no.", None),
        ("So no flips happened.", None),
        ("Answer: yes or no?", None),
        ("No he did not.", "no"),
        ("- **Yes**", "yes"),
        ("The answer is yes.\nQuestion: And now?\nThe answer is no.", "yes"),
        ("1. The answer is yes.\n2. The answer is no.\n3. The answer is yes.", None),
        ("Yes, it floats. Wait, so the answer is no.", "no"),
    ],
)
def test_yes_and_no(answer, said):
    assert read_yes_no(answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, the coin is still heads up.", "yes"),
        ("After two flips the coin is heads up.", "yes"),
        ("The coin is not heads up anymore.", "no"),
        ("The coin is no longer heads up.", "no"),
        ("So it is now tails up.", "no"),
        ("At first it is heads up. Tom flips it. Now it is tails up.", "no"),
        ("The answer is no.", "no"),
        ("Tom flips the coin.", None),
        ("A coin is heads up. Tom flips it.", None),
        ("To determine whether the coin is still heads up, count.", None),
        ("Is the coin still heads up?", None),
        ("The coin is not tails up.", None),
        ("If the coin is heads up, it is now tails.", None),
        ("The coin ended up tails.", "no"),
        ("The coin does not remain heads up.", "no"),
        ("So now it is tails. Ann flips it. Now it is heads. Al flips it. It is now tails.", "no"),
        ("The probability of heads is now 1/2.", None),
        ("Now it is heads or tails.", None),
        ("No one flips the coin, so it is still heads up.", "yes"),
    ],
)
def test_coins(answer, said):
    assert read_coin(answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("The sentence is plausible.", "yes"),
        ("It is not plausible that he did.", "no"),
        ("That is implausible.", "no"),
        ("Yes, it is plausible.", "yes"),
        ("The answer is no, since he plays basketball.", "no"),
        ("He is a player.", None),
        ("To determine whether the statement is plausible or implausible, look at it.", None),
        ("We ask if it is plausible.", None),
        ("Plausible/implausible?", None),
        ('The statement "X" is **plausible**.', "yes"),
        ("To determine whether it is plausible, look at it.\n\nIt is implausible, as he plays chess.", "no"),
    ],
)
def test_plausible(answer, said):
    assert read_plausible(answer) == said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("The answer is 05/01/2021.", "05/01/2021"),
        ("Today is 04/30/2021, so tomorrow is 05/01/2021", "05/01/2021"),
        ("So the answer is 5/1/2021, a day after 04/30/2021.", "05/01/2021"),
        ("Tomorrow is May 1st, 2021.", "05/01/2021"),
        ("It is 1 May 2021.", "05/01/2021"),
        ("2021-05-01", "05/01/2021"),
        ("The 30th of February 2021, that is 02/30/2021.", None),
        ("In 10 days.", None),
        ("May 1, 2021, not 05/02/21", "05/02/2021"),
        ("12/31/99", "12/31/1999"),
        ("2021/05/01", "05/01/2021"),
        ("05-01-2021", "05/01/2021"),
        ("January 3rd of 2021", "01/03/2021"),
        ("The answer is MM/DD/YYYY.", None),
        ("2021-05-01T00", None),
        ("1/2/3/2021", None),
    ],
)
def test_dates(answer, said):
    assert read_date(answer) == said


@given(st.dates())
def test_every_day_is_read_in_every_form(day):
    day = day.replace(year=max(1000, day.year))
    wanted = day.strftime("%m/%d/%Y")
    forms = (f"{day.month}/{day.day}/{day.year}", day.isoformat(), f"{day:%B} {day.day}, {day.year}")
    for form in (wanted, *forms, f"{day.day} {day:%b} {day.year}"):
        assert read_date(f"So it is {form}.") == wanted


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("The answer is nk.", "nk"),
        ('Concatenated this gives "nk".', "nk"),
        ("The last letters are n and k.\nThe answer is **NK**", "nk"),
        ('The letters "n" and "k" give "n-k".', "nk"),
        ("So the answer is n, k", "nk"),
        ("nk", "nk"),
        ("I cannot tell.", None),
        ('The answer is "Jai" and "Lou".', None),
        ('So, the answer is "JORG LUIS".', None),
        ("Concatenated: nk", "nk"),
        ("The result is nk.", "nk"),
        ('"Dog" has the last letter "g".', None),
        ("The last letters are: n, k.", None),
        ("Ann Dick.", None),
        ("Answer: n k", "nk"),
        ("\\boxed{nk}", "nk"),
        ("g", None),
    ],
)
def test_words(answer, said):
    assert read_word(answer) == said


@given(st.sampled_from(sorted(SCORERS)), st.text(max_size=60), st.text(max_size=20))
def test_any_answer_has_a_score_or_none(name, answer, gold):
    scores = SCORERS[name].score({"raw_answer": answer, "gold_answer": gold, "question": "Which?\nA. x\nB. y"})
    assert scores is None or scores["correct"] in (0, 1)
    assert scores is None or name == "rule" or scores["read"] is not None or not scores["correct"]


def test_options_stand_at_a_questions_end():
    assert options_of("What? A. or so\nA. one\nB. two words\nC. 3") == {"A": "one", "B": "two words", "C": "3"}
    two = {"A": "both", "B": "none"}
    assert options_of("Two claims:\n1. It is.\n2. It was.\nWhich hold?\nA. both\nB. none") == two
    assert options_of("Which?\n(A) both\n(B) none") == options_of("Which?\n A) both\n B) none") == two
    assert options_of("What then?\nE. coli is one.") == {}


def test_long_answers_of_nothing_are_read_at_once():
    """Patterns that try every split of a run of blanks would take minutes."""
    for text in ("\n" * 3000, "*" * 3000, "- " * 3000, "The answer is " * 500):
        for read in (
            lambda text: read_choice(text, OPTIONS),
            read_yes_no,
            read_coin,
            read_plausible,
            read_date,
            read_word,
        ):
            assert read(f"{text}x") is None


def test_every_judged_data_set_with_one_answer_has_a_reader():
    reads = {name: data_set.reads for name, data_set in DATA_SETS.items()}
    for name, data_set in DATA_SETS.items():
        assert (reads[name] is not None) == (data_set.scoring == "judge")
        assert reads[name] is None or SCORERS[reads[name]].what


PLAIN = [
    "The answer is B.",
    "B. a river",
    "So the answer is no.",
    "Now it is tails up.",
    "It is plausible.",
    "The answer is 05/01/2021.",
]


@given(st.sampled_from(PLAIN), st.sampled_from(["**", "*", "__", "`", ""]), st.text(alphabet=" \n", max_size=4))
def test_readings_do_not_depend_on_marks_and_blanks(answer, mark, blanks):
    marked = f"{blanks}{mark}{answer}{mark}{blanks}"
    for read in (lambda text: read_choice(text, OPTIONS), read_yes_no, read_coin, read_plausible, read_date, read_word):
        assert read(marked) == read(answer)
