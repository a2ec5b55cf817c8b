"""Tests of scripts/demo_screen.py: what it shows of the demo's runs, on any terminal, whatever the models wrote."""

import io
import json
import os
import re

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from made_runs import HOSTILE, failed, nudged_pieces, record, settings, write_run
from rich.console import Console
from rich.text import Text

from reporting.demo_screen import answer_text, main, read_demo, show, shown_number, verdict

MARKUP = "[bold]no markup[/bold] [link=http://x]y[/link] [/] :smile: {x} %s"
ESCAPES = "\x1b[31mred\x1b]0;title\x07 \u202eback\ud800 \x9b2J\r\x00"
LOOP = "\n".join(["What is it?"] * 11)


def write_demo(
    folder, questions=("q0", "q1"), *, kinds=("base_only", "nudging_only", "nudging"), finished=True, **texts
):
    """Runs of the demo; `texts` are answers by kind, a list of pieces for nudging."""
    usual = {"base_only": LOOP, "nudging_only": "It is right.", "nudging": [("It", " is"), (" right.", "")]}
    names = {"base_model": "demo-base", "nudging_model": "demo-aligned", "top_prob_thres": 0.4}
    for kind in kinds:
        rows = []
        for i, question in enumerate(questions):
            row = record(i, question, "right or correct", (usual | texts)[kind], None)
            rows.append(row | {"stop_reason": "length" if kind == "base_only" else row["stop_reason"]})
        used = {name: value for name, value in names.items() if name in settings(kind)}
        write_run(folder, kind, rows, settings(kind, dataset_name="justeval", **used), finished=finished)
        metadata = folder / "justeval" / "all_info" / f"{kind}.run.json"
        told = json.loads(metadata.read_text()) | {"all_settings": {"num_threads": 4}, "sessions": [{"seconds": 30.0}]}
        metadata.write_text(json.dumps(told))
    return folder / "justeval"


def screen(folder, width=80, coloured=False, **options):
    """The screen as a terminal would get it."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False, **options)
    if coloured:
        console = Console(
            file=out,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
            force_terminal=True,
            color_system="standard",
        )
    show(read_demo(folder, pytest.fail), console)
    return out.getvalue()


def test_one_question_the_table_and_the_differences(tmp_path):
    shown = screen(write_demo(tmp_path))
    assert (
        "q0" in shown
        and "question 1 of 2" in shown
        and "the first whose nudged answer is good" in " ".join(shown.split())
    )
    assert "[It] is [right.]" in shown and "What is it?" in shown and "... (3 more lines)" in shown
    table = shown[shown.index("2 questions") :]
    assert re.search(r"end by themselves +0 \(0 to 66\) +100 \(34 to 100\) +100 \(34 to 100\)", table)
    assert re.search(r"repeat themselves +100 \(34 to 100\) +0 \(0 to 66\) +0 \(0 to 66\)", table)
    assert re.search(r"answers per minute +4\.0 +4\.0 +4\.0\b", table)
    assert re.search(r"latency, s per answer +0\.5 +0\.5 +0\.5", table) and "(2 at a time)" in table
    assert re.search(r"good in all three +\+100 \(\+\d+ to \+100\) +\+0 \(-\d+ to \+\d+\)", table)
    assert "SmolLM2-135M-Instruct" in shown and "2.6 times" in shown


def test_the_sentence_says_what_is_there(tmp_path):
    runs_on = " ".join(screen(write_demo(tmp_path / "a")).split())
    assert "the base model alone runs on until it is cut off and repeats itself; nudged, it ends by itself" in runs_on
    folder = write_demo(tmp_path / "b", base_only="right.", nudging=[("It", " is")])
    for path in folder.glob("all_info/base_only.json*"):
        path.write_text(path.read_text().replace('"length"', '"stop"'))
    for path in folder.glob("all_info/nudging.json*"):
        path.write_text(path.read_text().replace('"nudging_model_stop"', '"length"'))
    ends = " ".join(screen(folder).split())
    assert "the base model alone ends by itself; nudged, it is cut off as well" in ends
    assert "the first of all, since no nudged answer is good" in ends


def test_the_shown_question_is_the_first_with_words_of_both(tmp_path):
    folder = write_demo(tmp_path, ("q0", "q1", "q2"))
    path = folder / "all_info" / "nudging.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"all_completions": ["It is right."], "all_nudging_words": ["It is right."]}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert shown_number(read_demo(folder, pytest.fail))[0] == 1


def test_verdicts(tmp_path):
    many = [f"q{i}" for i in range(12)]
    said = verdict(read_demo(write_demo(tmp_path / "a", many), pytest.fail))
    assert said == (
        "Nudged: more good answers than the base model alone; no certain difference to the nudging model alone."
    )
    worse = write_demo(tmp_path / "b", many, nudging=[("It", " is"), (" wrong.", "")])
    said = verdict(read_demo(worse, pytest.fail))
    assert (
        said
        == "Nudged: no certain difference to the base model alone; fewer good answers than the nudging model alone."
    )


@pytest.mark.parametrize("width", [20, 40, 63, 64, 80, 110, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path, width):
    folder = write_demo(tmp_path, ("a question of many words " * 9 + "x" * 300, HOSTILE), base_only="y" * 500 + " z")
    lines = screen(folder, width).splitlines()
    assert max(map(len, lines)) <= width
    if width == 80:
        assert any(re.match(r" latency, s per answer +\d", line) for line in lines)  # no heading or cell is broken


def test_colours_mark_the_words_where_there_are_colours(tmp_path):
    folder = write_demo(tmp_path)
    coloured = screen(folder, coloured=True)
    assert re.search(r"\x1b\[[\d;]*33mIt\x1b\[0m is", coloured) and "[It]" not in coloured
    assert "\x1b" not in screen(folder)


@pytest.mark.parametrize(
    ("variables", "marked"),
    [({"TERM": "xterm-256color"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True)],
)
def test_on_a_terminal_marks_stand_where_there_are_no_colours(tmp_path, monkeypatch, variables, marked):
    folder = write_demo(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = re.sub(r"\x1b\[[\d;]*m", "", screen(folder, force_terminal=True))
    assert ("[It] is [right.]" in shown) == marked and ("It is right." in shown) != marked


@pytest.mark.parametrize("text", [MARKUP, ESCAPES, HOSTILE, "[", "\\[/", "[[[", "]"])
def test_what_models_write_stays_text(tmp_path, text):
    folder = write_demo(
        tmp_path, (text, "q1"), base_only=text, nudging_only=text, nudging=[(text, text), (f" {text} ", text)]
    )
    for coloured in (False, True):
        shown = re.sub(r"\x1b\[[\d;]*m", "", screen(folder, 110, coloured=coloured))
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown)
        if text == MARKUP:
            assert "[bold]no markup[/bold]" in " ".join(shown.split()) and ":smile:" in shown


TEXTS = st.text(st.characters() | st.sampled_from("[]\\/:\x1b\n\t\r\u202e"), max_size=60)


@given(TEXTS, TEXTS, st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.integers(10, 120), st.booleans())
@example("", "", [("", "")], 10, True)
@hypothesis_settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_can_be_shown(tmp_path_factory, question, base, pieces, width, coloured):
    folder = write_demo(tmp_path_factory.mktemp("demo"), (question,), base_only=base, nudging=pieces)
    shown = re.sub(r"\x1b\[[\d;]*m", "", screen(folder, width, coloured))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_an_answer_is_shown_whole_and_only_marked(pieces):
    row = record(0, "q", "right", pieces, None)
    plain = answer_text(row, coloured=True).plain
    marked = answer_text(row, coloured=False)
    assert isinstance(marked, Text)
    if plain != "(empty)":
        assert len(marked.plain) - len(plain) in (2 * sum(bool(words.strip()) for words, _ in pieces), *range(0, 12, 2))


def test_an_empty_answer_is_said_to_be_empty(tmp_path):
    assert "(empty)" in screen(write_demo(tmp_path, base_only=""))


def test_questions_that_failed_are_left_out_and_counted(tmp_path, capsys):
    folder = write_demo(tmp_path, ("q0", "q1", "q2"))
    path = folder / "all_info" / "base_only.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] = failed(0, "q0", "right", "gone")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "2 questions" in shown and "q1" in shown and "1 question left out" in " ".join(shown.split())


def error_of(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("demo_screen.py: error: ") and told.err.count("\n") == 1 and told.out == ""
    return told.err


@pytest.mark.parametrize("missing", ["base_only", "nudging_only", "nudging"])
def test_a_missing_run_is_one_line(tmp_path, capsys, missing):
    kinds = [kind for kind in ("base_only", "nudging_only", "nudging") if kind != missing]
    assert "scripts/demo.sh" in error_of(capsys, write_demo(tmp_path, kinds=kinds))


def test_an_unfinished_run_is_one_line(tmp_path, capsys):
    folder = write_demo(tmp_path)
    os.unlink(folder / "all_info" / "nudging.json")
    assert "nudging.jsonl is unfinished" in error_of(capsys, folder)


def test_nothing_there_is_one_line(tmp_path, capsys):
    error_of(capsys, tmp_path)
    error_of(capsys, tmp_path / "nowhere")


def test_no_question_in_common_is_one_line(tmp_path, capsys):
    write_demo(tmp_path, ("q0",))
    assert "in common" in error_of(capsys, write_demo(tmp_path, ("q1",), kinds=["nudging"]))


@pytest.mark.parametrize("change", [{"gold_answer": None}, {"all_completions": "text"}, {"all_nudging_words": None}])
def test_records_of_another_shape_are_one_line(tmp_path, capsys, change):
    folder = write_demo(tmp_path)
    path = folder / "all_info" / "nudging.jsonl"
    rows = [json.loads(line) | change for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error_of(capsys, folder)


def test_of_two_runs_the_newest_is_shown_and_said(tmp_path, capsys):
    folder = write_demo(tmp_path)
    rows = [record(i, f"q{i}", "right", nudged_pieces(0, 1), None) for i in range(2)]
    other = write_run(tmp_path, "other", rows, settings("nudging", dataset_name="justeval", top_prob_thres=0.7))
    for suffix in (".json", ".jsonl"):
        os.utime(other.with_suffix(suffix), (1, 1))
    assert main([str(folder)]) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "2 runs of nudged" in told.err and "below 0.4" in " ".join(told.out.split())
