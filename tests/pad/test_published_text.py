"""The published programs' texts, by string: by hand for each rule, and against the rules written down by another route."""

import published_rules
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pad.published_text import (
    PUBLISHED_FORMATS,
    args_text,
    armorm_turns,
    pad_text,
    row_text,
    transcript,
    without_preference,
)

SYS = "[Guidelines] Your task is to help. [Principles] humor [Instruction] "
CHAT = f"system\n\nuser\n\n{SYS}Who are you?assistant\n\nAnn.\n"
# Texts made of what the rules look for, whole and in part, so that marks stand in any order, twice, alone, and at either end.
PIECES = [
    *(
        "[Guidelines]",
        "[Instruction]",
        "[Instruction",
        "[Guide",
        "assistant",
        "assistant\n\n",
        "user",
        "user\n\n",
        "users",
    ),
    *(
        "system\n\nuser\n\n",
        "system\n\n",
        "Human:",
        "human:",
        "HUMAN:",
        "\n\nHuman:",
        ": ",
        ":",
        " ",
        "\n",
        "]",
        "a",
        "Yes.",
    ),
    *("Is a user an assistant?", "été", "", "🙂", "No, sorry!"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


class TestByHand:
    @pytest.mark.parametrize(
        "text, prompt, expected",
        [
            ("Q: Yes.", "Q", "Yes."),
            ("Q Yes.", "Q", "Q Yes."),
            ("Q:Yes.", "Q", "Q:Yes."),
            (": Yes.", "Q", "Yes."),
            ("Q: Yes. Human: And?", "Q", "Yes. Human: And?"),
            (CHAT, SYS + "Who are you?", f"{SYS}Who are you?assistant\n\nAnn.\n"),
            ("system\n\nuser\n\nAsystem\n\nuser\n\nB", "", "AB"),
            ("user\n\nA", "", "user\n\nA"),
        ],
    )
    def test_pad(self, text, prompt, expected):
        assert pad_text(text, prompt, "hhrlhf") == expected
        assert pad_text(text, prompt, "shp") == text

    @pytest.mark.parametrize(
        "text, prompt, expected",
        [
            ("Human: A? Assistant: No, sorry!", "Human: A? Assistant:", "Human: A? Assistant: No, sorry!"),
            ("Q yes\n\nHUMAN: And?", "Q", "Q yes\n\n"),
            ("Q: yes", "Q", "Q: yes"),
            ("Other", "Q", "QOther"),
            ("Human: A?", "Q", "Q"),
            ("", "Q", "Q"),
        ],
    )
    def test_args(self, text, prompt, expected):
        assert args_text(text, prompt, "hhrlhf") == expected
        assert args_text(text, prompt, "shp") == text

    @pytest.mark.parametrize(
        "text, expected",
        [
            (f"a {SYS}b", "a  b"),
            ("a b", "a b"),
            ("[Guidelines] x [Instruction]a[Guidelines] x [Instruction]b", "ab"),
            ("[Instruction] then [Guidelines]", "[Instruction] then [Guidelines]"),
            ("ab[Guidelines] x", "abs] x"),  # up to the 12th character
            ("much further [Guidelines] x", "much further [Guidelines] x"),
            ("Read the [Instruction]", "Read the [Instruction"),
            ("Read [the] [Instruction]", "Read [the [Instruction"),
            ("The [Instruction] manual", "The [Instruction] manual"),
            ("Hi", "Hi"),
            ("", ""),
        ],
    )
    def test_the_preference(self, text, expected):
        assert without_preference(text) == expected

    @pytest.mark.parametrize(
        "text, expected",
        [
            (f"user\n\n{SYS}Who?assistant\n\nAnn.", "Human:\n\n Who? Assistant:\n\nAnn."),
            ("user\n\nIs my user ok?assistant\n\nYes.", "Human:\n\nIs my user ok? Assistant:\n\nYes."),
            ("user\n\nAn assistant?assistant\n\nYes.", "Human:\n\nAn  Assistant:?assistant\n\nYes."),
            ("Two users.", "Two Human:s."),
            ("Are you okay? You look a bit tired.", "Are you okay? You look a bit tired."),
        ],
    )
    def test_the_transcript(self, text, expected):
        assert transcript(text) == expected

    @pytest.mark.parametrize(
        "text, query, answer",
        [
            (f"{SYS}Who?assistant\n\n Ann.\n", " Who?", "Ann."),
            (f"user\n\n{SYS}Who?assistant\n\nAnn.assistant\n\nBob.", " Who?", "Ann.assistant\n\nBob."),
            ("Are you okay? You look a bit tired.", "? You look a bit tired", "ay? You look a bit tired."),
            ("What is the longest river?assistant\n\nThe Nile.", "longest river?", "The Nile."),
            ("Who?assistant\n\nAnn.", "", "Ann."),
            ("[Instruction] a [Instruction] bassistant\n\nc", " a  b", "c"),
            ("short", "", ""),
        ],
    )
    def test_armorm(self, text, query, answer):
        assert armorm_turns(text) == (query, answer)

    def test_the_fields(self):
        row = {"prompt": "Q", "result": "1", "output": "2", "response": "3"}
        for gone, pad, args in (([], "1", "Q3"), (["result"], "2", "Q3"), (["result", "output"], "3", "Q3")):
            left = {name: text for name, text in row.items() if name not in gone}
            assert row_text(left, "upstream", "hhrlhf") == pad and row_text(left, "args", "hhrlhf") == args
        assert row_text({"prompt": "Q", "output": "2"}, "args", "shp") == "2"
        assert row_text(row | {"mine": "4"}, "upstream", "hhrlhf", "mine") == "4"
        for text_format, missing in (("upstream", "response"), ("args", "output")):
            with pytest.raises(KeyError, match=missing):
                row_text({"prompt": "Q"}, text_format, "hhrlhf")

    def test_how_long_is_too_long(self):
        assert {name: rules.too_long for name, rules in PUBLISHED_FORMATS.items()} == {"upstream": 1024, "args": 1334}


@settings(max_examples=1500)
@given(text=TEXTS)
def test_what_models_read_is_what_the_rules_say(text):
    assert transcript(text) == published_rules.transcript(text)
    assert armorm_turns(text) == published_rules.armorm(text)


@settings(max_examples=1500)
@given(prompt=TEXTS, behind=TEXTS, begins=st.booleans(), experiment=st.sampled_from(["hhrlhf", "shp"]))
def test_the_text_of_a_row_is_what_the_rules_say(prompt, behind, begins, experiment):
    text = prompt + behind if begins else behind
    for names in (["response"], ["output"], ["result"], ["output", "response"], ["result", "response"]):
        row = {"prompt": prompt} | {name: text + str(i) for i, name in enumerate(names)}
        assert row_text(row, "upstream", experiment) == published_rules.of_pad(row, experiment)
        if names != ["result"]:
            assert row_text(row, "args", experiment) == published_rules.of_args(row, experiment)
