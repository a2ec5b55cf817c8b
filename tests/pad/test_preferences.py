"""Preferences: from options, files and rows to the text that the models read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command.errors import OptionError
from datasets_loader import DataError
from pad.preference_files import read_preferences, row_preference
from pad.preferences import (
    FRAME,
    NO_PREFERENCE,
    Preference,
    check_frame,
    from_principles,
    from_text,
)
from pad.prompt_sets import load_prompts
from pad.prompts import Asked

# The published commands' whole text.
PUBLISHED = (
    "[Guidelines] Your task is to generate response by considering the following principle. "
    "[Principles] harmless and helpfulness and humor [Instruction] "
)
WORDS = st.text(
    st.characters(exclude_characters=",:#\n\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e", exclude_categories=["Cs", "Cc"]),
    min_size=1,
)
PRINCIPLE = WORDS.map(str.strip).filter(bool)


def ignore(message: str) -> None:
    raise AssertionError(message)


@pytest.mark.parametrize("principles", ["harmless, helpfulness, humor", ["harmless", "helpfulness", "humor"]])
def test_the_published_frame(principles):
    found = from_principles(principles)
    assert (found.text, found.principles) == (PUBLISHED, "harmless and helpfulness and humor")
    assert from_principles("x, y").with_perspective("harmless and helpfulness and humor").text == PUBLISHED


@given(st.lists(PRINCIPLE, min_size=1), st.text(), st.text())
def test_frames(principles, before, after):
    frame = f"{before.replace('{', '')}{{principles}}{after.replace('{', '')}"
    check_frame(frame)
    found = from_principles(", ".join(principles), frame)
    assert found == from_principles(principles, frame)
    assert found.text.startswith(frame.replace("{principles}", " and ".join(principles)))
    assert found.text[-1].isspace() and found.text[:-1].rstrip() == found.text.rstrip()


@pytest.mark.parametrize("principles", ["", " ", ",", "a,,b", [], ["a", " "]])
def test_no_principles(principles):
    with pytest.raises(ValueError, match="no principles|is empty"):
        from_principles(principles)


@pytest.mark.parametrize("frame", ["", "Be {principle}.", "{principles} {principles}"])
def test_frames_without_a_place(frame):
    with pytest.raises(OptionError, match="--frame needs {principles} once"):
        check_frame(frame)


class TestFiles:
    def read(self, tmp_path: Path, name: str, text: str):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read_preferences(tmp_path / name, FRAME, ignore)

    @given(named=st.dictionaries(PRINCIPLE, PRINCIPLE, min_size=1))
    def test_every_form_says_the_same(self, named, tmp_path_factory):
        folder = tmp_path_factory.mktemp("preferences")
        lines = "".join(f"{name}: {text}\n" for name, text in named.items())
        rows = [{"name": name, "principles": text} for name, text in named.items()]
        expected = [from_principles(text, FRAME, name) for name, text in named.items()]
        assert self.read(folder, "a.txt", f"# theirs\n\n{lines}") == expected
        assert self.read(folder, "a.json", json.dumps(rows)) == expected
        assert self.read(folder, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)) == expected

    def test_without_names(self, tmp_path):
        for name, text in (("a.txt", "polite, brief\n"), ("a.json", '["polite, brief"]')):
            (found,) = self.read(tmp_path, name, text)
            assert found == from_principles("polite, brief") and found.name == "polite and brief"

    def test_whole_texts(self, tmp_path):
        (found,) = self.read(tmp_path, "a.json", '[{"name": "poet", "sys_prompt": "Write verse."}]')
        assert (found.text, found.name, found.principles) == ("Write verse. ", "poet", None)

    @pytest.mark.parametrize(
        "name, text, said",
        [
            ("a.txt", "", "holds no preferences"),
            ("a.txt", "# nothing\n", "holds no preferences"),
            ("a.txt", "kind\na: b,,c\n", "line 2: a principle is empty"),
            ("a.txt", "kind\nkind\n", "has the preference 'kind' twice"),
            ("a.json", "[5]", "row 1: a preference is a text, or an object"),
            ("a.json", '[{"name": "x"}]', "row 1: there are no principles"),
            ("a.json", '[{"name": 5, "principles": "x"}]', "row 1: name must be a text"),
            ("a.json", '[{"principle": "x"}]', "row 1: 'principle' is no part"),
            ("a.json", '[{"principles": "x", "sys_prompt": "y"}]', "row 1: it has principles and a sys_prompt"),
            ("a.json", '[{"principles": [1]}]', "row 1: principles must be a text or a list of texts"),
            ("a.json", "nothing", "not a line of JSON"),
        ],
    )
    def test_what_is_wrong_and_where(self, name, text, said, tmp_path):
        with pytest.raises(OptionError, match=f"--principles_file.*{said}"):
            self.read(tmp_path, name, text)

    def test_no_such_file(self, tmp_path):
        for name in ("no.txt", "no.json"):
            with pytest.raises(OptionError, match=r"--principles_file.*no\."):
                read_preferences(tmp_path / name, FRAME, ignore)


class TestRows:
    def asked(self, tmp_path: Path, *rows, **more) -> list[Asked]:
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load_prompts(str(path), say=ignore, **more)

    def test_preferences_of_rows(self, tmp_path):
        rows = ({"prompt": "A?", "principles": "kind"}, {"prompt": "B?", "sys_prompt": "Be a poet."}, {"prompt": "C?"})
        found = self.asked(tmp_path, *rows)
        assert [one.words for one in found] == ["A?", "B?", "C?"]
        assert [one.preference for one in found] == [from_principles("kind"), from_text("Be a poet."), None]
        assert found[1].preference.text == "Be a poet. "
        (one,) = self.asked(tmp_path, {"prompt": "A?", "principles": ["kind", "brief"]}, frame="Be {principles}:")
        assert one.preference.text == "Be kind and brief: "

    @given(text=st.text(min_size=1).filter(str.strip), preference=PRINCIPLE)
    def test_outputs_are_prompts_again(self, text, preference, tmp_path_factory):
        """A row of collect_model_outs.py has the preference in its prompt, and beside it."""
        text = text.encode("utf-8", "replace").decode()
        made = from_principles(preference)
        row = {"prompt": made.text + text, "instruction": text, "sys_prompt": made.text, "principles": made.principles}
        (one,) = self.asked(tmp_path_factory.mktemp("rows"), row | {"result": "x"})
        assert (one.words, one.preference.text) == (text, made.text)

    def test_an_output_is_called_as_it_was_and_its_text_stays(self, tmp_path):
        text = "Be so. [Principles]  kind,\n brief [Instruction]"
        row = {"prompt": f"{text}Q?", "instruction": "Q?", "sys_prompt": text, "principles": "kind, brief"}
        (one,) = self.asked(tmp_path, row | {"preference": "mine", "result": "x"})
        assert (one.words, one.preference) == ("Q?", Preference(text, "mine", "kind, brief"))
        (one,) = self.asked(tmp_path, row | {"prompt": "Q?", "sys_prompt": "", "principles": "polite"})
        assert one.preference == from_principles("polite")
        with pytest.raises(DataError, match="it has principles and a sys_prompt"):
            self.asked(tmp_path, row | {"principles": "polite"})

    def test_of_several_answers_to_a_prompt_it_is_asked_once(self, tmp_path):
        rows = [
            {"prompt": f"{q}?", "instruction": f"{q}?", "sys_prompt": "", "sample": k, "result": "x"}
            for q in "AB"
            for k in range(3)
        ]
        said = []
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert [one.words for one in load_prompts(str(tmp_path / "a.jsonl"), say=said.append)] == ["A?", "B?"]
        assert said == [
            f"{tmp_path / 'a.jsonl'}: 4 rows are further answers to prompts that stand there already, and are left out"
        ]

    @pytest.mark.parametrize("preference", [{"sys_prompt": "You"}, {"sys_prompt": "You are"}])
    def test_words_that_begin_as_the_preference_does_are_kept(self, preference, tmp_path):
        (one,) = self.asked(tmp_path, {"prompt": "You are a cat?"} | preference)
        assert one.words == "You are a cat?"
        with pytest.raises(DataError, match="it has principles and a sys_prompt"):
            self.asked(tmp_path, {"prompt": "Who?", "principles": "you", "sys_prompt": "Be you."})

    def test_empty_cells_beside_messages(self, tmp_path):
        turns = json.dumps([{"role": "user", "content": "B?"}]).replace('"', '""')
        (tmp_path / "mine.csv").write_text(f'prompt,messages\nA?,\n,"{turns}"\n')
        assert [one.words for one in load_prompts(str(tmp_path / "mine.csv"), say=ignore)] == ["A?", "B?"]
        rows = ({"prompt": "A?", "messages": []}, {"prompt": "", "messages": [{"role": "user", "content": "B?"}]})
        assert [one.words for one in self.asked(tmp_path, *rows)] == ["A?", "B?"]

    def test_lines_of_texts_end_where_editors_end_them(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("A\u2028B?\r\nC\x0cD\rE\x85\n".encode())
        found = load_prompts(str(tmp_path / "a.txt"), say=ignore)
        assert [one.words for one in found] == ["A\u2028B?", "C\x0cD", "E\x85"]
        found = read_preferences(tmp_path / "a.txt", FRAME, ignore)
        assert [one.principles for one in found] == ["A\u2028B?", "C\x0cD", "E"]

    @given(st.lists(st.tuples(PRINCIPLE, PRINCIPLE)), PRINCIPLE, st.none() | PRINCIPLE)
    def test_conversations(self, tmp_path_factory, pairs, last, system):
        turns = [{"role": "system", "content": system}] if system else []
        for question, answer in pairs:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        turns.append({"role": "user", "content": last})
        (one,) = self.asked(tmp_path_factory.mktemp("rows"), {"messages": turns})
        assert one.system == bool(system) and (one.preference is not None) == bool(system)
        text = one.preference.text if system else ""
        assert one.turns(text, system=one.system) == turns
        written = one.turns("P ", system=False)
        assert written[0]["content"] == f"P {pairs[0][0] if pairs else last}" and len(written) == 1 + 2 * len(pairs)
        assert one.instruction == last if not pairs else one.instruction.endswith(f"\n\nHuman: {last}\n\nAssistant:")

    def test_the_mark_of_the_instruction_is_left_out_of_a_system_turn(self):
        system, user = Asked("Q?").turns(from_principles("kind").text, system=True)
        assert system["content"].endswith("[Principles] kind") and user == {"role": "user", "content": "Q?"}
        assert Asked("Q?").turns("", system=True) == [user]

    def test_the_field_of_the_prompt(self, tmp_path):
        assert [one.words for one in self.asked(tmp_path, {"q": "A?", "prompt": 5}, field="q")] == ["A?"]
        (tmp_path / "mine.csv").write_text("question,principles\nA?,kind\nB?,\n")
        found = load_prompts(str(tmp_path / "mine.csv"), field="question", say=ignore)
        assert [(one.words, one.preference) for one in found] == [("A?", from_principles("kind")), ("B?", None)]

    @pytest.mark.parametrize(
        "row, said",
        [
            ({"prompt": ""}, "its prompt is empty"),
            ("  ", "its prompt is empty"),
            ({"prompt": 5}, '"prompt" must be a text; it is 5'),
            (5, 'neither a text nor an object with a "prompt"'),
            ({"question": "A?"}, 'there is no "prompt"; it has question; --prompt_field names the field'),
            ({"prompt": "A?", "sys_prompt": 5}, "sys_prompt must be a text; it is 5"),
            ({"prompt": "A?", "principles": 5}, "principles must be a text or a list of texts"),
            ({"prompt": "A?", "principles": "a,,b"}, "a principle is empty"),
            ({"prompt": "A?", "messages": [{"role": "user", "content": "B?"}]}, 'both "messages" and "prompt"'),
            ({"messages": [{"role": "assistant", "content": "B?"}]}, "the last of messages must be the user's"),
            ({"messages": "B?"}, "messages must be a list"),
        ],
    )
    def test_what_is_wrong_and_where(self, row, said, tmp_path):
        with pytest.raises(DataError, match=f"mine.jsonl, row 2: .*{said}"):
            self.asked(tmp_path, "A?", row)

    def test_two_preferences_of_a_row(self, tmp_path):
        turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "B?"}]
        for row in ({"messages": turns, "principles": "kind"}, {"messages": turns, "sys_prompt": "x"}):
            with pytest.raises(DataError, match="row 1: its messages have a system turn, and it has a preference too"):
                self.asked(tmp_path, row)
        late = [
            {"role": "user", "content": "A?"},
            {"role": "system", "content": "S"},
            {"role": "user", "content": "B?"},
        ]
        with pytest.raises(DataError, match="row 1: a system turn is the first"):
            self.asked(tmp_path, {"messages": late})

    @given(st.dictionaries(st.sampled_from(["principles", "sys_prompt"]), st.sampled_from([None, "", " ", []])))
    def test_nothing_is_no_preference(self, row):
        assert row_preference({"prompt": "A?"} | row, FRAME, "here") is None
        assert NO_PREFERENCE.text == NO_PREFERENCE.name == ""
