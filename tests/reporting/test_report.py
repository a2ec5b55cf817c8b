"""Tests of scripts/report.py: what the page holds, whatever the result files hold."""

import json
import re
import sys
from html.parser import HTMLParser

import pytest
from made_runs import HOSTILE, failed, nudged_pieces, record, settings, write_run, write_small_runs

from reporting.html_report import embedded_json, main, outcome, render, report_data, run_labels
from reporting.run_table import find_runs
from reporting.threshold_plot import threshold_groups


class Elements(HTMLParser):
    """The elements of a page as a browser's parser cuts them: tags with attributes, and the texts of scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem:
            self.scripts[-1] += data


def runs_in(folder):
    return find_runs([folder], pytest.fail)


def page_of(folder, title="Title"):
    return render(runs_in(folder), title, pytest.fail)


def data_of(page):
    return json.loads(Elements(page).scripts[0])


@pytest.fixture
def small(tmp_path):
    write_small_runs(tmp_path)
    return tmp_path


def test_the_page_is_whole_without_network_and_without_scripts(small):
    page = page_of(small)
    elements = Elements(page)
    assert not [a for _, a in elements.tags if {"src", "srcset"} & a.keys() or (a.get("href") or "#")[0] != "#"]
    assert "@import" not in page and "url(" not in page.replace("url(#", "")
    table = page[page.index("<table") : page.index("</table>")]
    assert table.count("<tr>") == 6 and "75.0 %" in table and '<th scope="col">' in table and "<caption" in table
    assert page.index("<table") < page.index("<svg") < page.index('type="application/json"')
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_each_input_has_a_label(small):
    page = page_of(small)
    for tag, attributes in Elements(page).tags:
        if tag in ("select", "input") and attributes.get("type") not in ("checkbox", "radio"):
            assert f'<label for="{attributes["id"]}"' in page
    boxes = re.findall(r"<input type=.(?:checkbox|radio)", page)
    assert len(boxes) == page.count("<label><input") == 7


@pytest.mark.parametrize(
    ("experiments", "view"),
    [(["base_only", "nudging"], "side"), (["nudging"], "list"), (["base_only", "nudging_only"], "list")],
)
def test_the_page_opens_side_by_side_where_nudging_has_something_beside_it(tmp_path, experiments, view):
    for experiment in experiments:
        write_run(tmp_path, experiment, [record(0, "q", "1", nudged_pieces(0, 1), 1)], settings(experiment))
    assert re.findall(r'name="view" value="(\w+)" checked', page_of(tmp_path)) == [view]


def test_the_data_gives_each_question_once_and_the_pieces_by_turns(small):
    data = data_of(page_of(small))
    assert data["runs"] == ["base only", "nudging 0.2", "nudging 0.4", "nudging 0.6", "ensemble"]
    assert len(data["questions"]) == 4 and len(data["answers"]) == 20
    answer = data["answers"][4]
    assert (answer["run"], answer["question"], answer["outcome"]) == (1, 0, "correct")
    assert answer["pieces"][:2] == ["First,", " Nora has 0 pears."]
    assert answer["notes"] == "stop: nudging model stop · 37 of 73 characters by the nudging model · 0.5 s"
    error = data["answers"][15]
    assert error["outcome"] == "failed" and "8 retries" in error["error"] and "pieces" not in error


def test_pieces_joined_are_the_uncleaned_answer(tmp_path):
    row = record(0, "q", "1", nudged_pieces(1, 2), 1) | {"raw_answer": "cut"}
    row["all_nudging_words"][1] = "not how it opens"
    row["all_nudging_words"].append("one too many")
    write_run(tmp_path, "run", [row], settings("nudging"))
    (answer,) = data_of(page_of(tmp_path))["answers"]
    assert "".join(answer["pieces"]) == "".join(row["all_completions"]) and answer["cleaned"] == "cut"


def test_the_same_question_twice_in_a_run_stays_two(tmp_path):
    rows = [record(i, "same", "1", "a", 1) for i in range(2)]
    for name in ("a", "b"):
        write_run(tmp_path, name, rows, settings("base_only"))
    runs = runs_in(tmp_path)
    assert [a["question"] for a in report_data(runs, run_labels(runs))["answers"]] == [0, 1, 0, 1]


def test_labels_tell_runs_apart(tmp_path):
    row = [record(0, "q", "1", "1", 1)]
    for i, others in enumerate(({}, {}, {"base_model": "other"}, {"dataset_name": "svamp"})):
        write_run(tmp_path, f"run{i}", row, settings("base_only", **others))
    labels = run_labels(runs_in(tmp_path))
    assert len(set(labels)) == 4 and labels[0] == "base only · gsm8k · large (1 of 2)"


def test_outcomes():
    assert outcome({"error": "e"}) == "failed"
    assert outcome({"scores": None}) == outcome({}) == "unscored"
    assert outcome({"scores": {"correct": 1}}) == "correct" and outcome({"scores": {"correct": 0}}) == "wrong"
    assert outcome({"scores": {"mean": 3.0}}) == "rated"


@pytest.mark.parametrize("scores", [{}, True, "good", [1], 5, {"correct": "yes"}, {"correct": None}, {"reason": "?"}])
def test_scores_that_say_nothing_are_none(scores):
    """As in the table, which counts such answers as unscored."""
    assert outcome({"scores": scores}) == "unscored"


def test_runs_at_several_thresholds_are_plotted_with_text_as_text(small):
    (group,) = threshold_groups(runs_in(small))
    assert [run.threshold for run in group] == [0.2, 0.4, 0.6]
    page = page_of(small)
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert re.search(r">\s*Accuracy, %, with 95 % intervals\s*<", svg) and "base only" in svg
    assert "#0" not in re.sub(r'href="#\w+"|url\(#\w+\)', "", svg) and "currentColor" in svg
    assert not re.search(r"<(style|script|image|metadata)", svg)


def test_runs_that_differ_in_more_than_the_threshold_are_not_joined(tmp_path):
    for i, (threshold, total) in enumerate(((0.2, 512), (0.3, 256), (0.3, 128))):
        row = [record(0, "q", "1", nudged_pieces(0, 1), 1)]
        write_run(tmp_path, f"{i}", row, settings("nudging", top_prob_thres=threshold, max_token_total=total))
    assert threshold_groups(runs_in(tmp_path)) == []
    assert "<svg" not in page_of(tmp_path)


def test_without_matplotlib_the_page_has_no_plot_and_says_so(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    warnings = []
    assert "<svg" not in render(runs_in(small), "Title", warnings.append)
    assert len(warnings) == 1 and "matplotlib" in warnings[0]


def hostile_runs(folder):
    """Runs that hold markup wherever a result file has a text."""
    for threshold in (0.2, 0.4):
        rows = [
            record(i, f"{i} {HOSTILE}", HOSTILE, [(HOSTILE, " then"), ("\x1b\ud800\u202e", HOSTILE)], i) for i in (0, 1)
        ]
        rows[0] |= {"raw_answer": HOSTILE, "stop_reason": HOSTILE, "context": HOSTILE}
        rows[1]["scores"]["reason"] = HOSTILE
        rows.append(failed(2, HOSTILE, HOSTILE, HOSTILE))
        names = {"base_model": HOSTILE, "nudging_model": HOSTILE + "\ud800", "top_prob_thres": threshold}
        write_run(folder, f"run{threshold}", rows, settings("nudging", **names))
    other = write_run(folder, "x", [record(0, HOSTILE, HOSTILE, HOSTILE, 1)], settings("base_only"))
    metadata = {"settings": settings("base_only", dataset_name=HOSTILE) | {"exp": HOSTILE}}
    (other.parent / "x.run.json").write_text(json.dumps(metadata))


def test_markup_in_results_is_text_in_the_page(tmp_path):
    hostile_runs(tmp_path)
    page = page_of(tmp_path, HOSTILE)
    elements = Elements(page)
    names = [tag for tag, _ in elements.tags]
    assert names.count("script") == 2 and "img" not in names
    assert not [a for _, a in elements.tags if any(name.startswith("on") for name in a)]
    assert page.count("</script") == 2 and "<script>alert" not in page and "<img" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page, re.S)[0]
    assert page.encode("utf-8") and "\u2028" not in elements.scripts[0]
    texts = [text for answer in data_of(page)["answers"] for text in answer.get("pieces", [])]
    assert HOSTILE in texts and "\x1b\ud800\u202e" in texts


def test_embedded_json_has_no_sign_that_ends_a_script():
    data = {"a": "</script><!--&\u2028\u2029\ud800"}
    text = embedded_json(data)
    assert not set("<>&\u2028\u2029\ud800") & set(text) and json.loads(text) == data


def test_the_command(small, capsys):
    (small / "gsm8k" / "all_info" / "bad.json").write_text("{")
    page = small / "report.html"
    assert main([str(small), "-o", str(page), "--title", "A & B"]) == 0
    told = capsys.readouterr()
    assert "5 runs, 20 answers" in told.out and told.err.count("\n") == 1 and "bad.json" in told.err
    assert "<title>A &amp; B</title>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("result", ["missing", "bad.json", ""])
def test_nothing_to_show_is_one_plain_line(tmp_path, capsys, result):
    (tmp_path / "bad.json").write_text("{")
    assert main([str(tmp_path / result), "-o", str(tmp_path / "report.html")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("report.py: error: ") and error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_no_place_to_write_to_is_one_plain_line(small, capsys):
    assert main([str(small), "-o", str(small / "no" / "report.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
