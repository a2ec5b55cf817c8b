"""The report in a real browser."""

import random

import pytest
from browsers import Page
from made_runs import nudged_pieces, questions, record, settings, write_run, write_small_runs
from test_report import hostile_runs
from waiting import wait_until

from reporting.html_report import main

pytestmark = pytest.mark.slow


class Report(Page):
    """A report that is open in the browser."""

    def __init__(self, browser, path, **view):
        super().__init__(browser, path.as_uri(), **view)

    def until(self, count):
        """Wait until the line over the answers begins with a text."""
        wait_until(lambda: self.texts("#count")[0].startswith(count), f"{count!r} is shown", limit=300)

    def choose(self, outcome):
        self.click(f"#outcome option[value='{outcome}']")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_small_runs(folder)
    assert main([str(folder), "-o", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_filters(browser, small):
    page = Report(browser, small)
    page.click("input[value=list]")
    page.until("20 answers found, 1 to 20 shown")
    page.choose("failed")
    page.until("1 answer found")
    assert "8 retries" in page.texts(".error")[0]
    page.choose("correct")
    page.until("7 answers found")
    page.click("input[name=run][value='0']")
    page.until("6 answers found")
    page.choose("")
    page.until("16 answers found")
    page.browser.find_element("id", "search").send_keys("NORA has 2 pears.")
    page.until("3 answers found")
    assert page.texts("mark")[-3:] == ["First,", "Next,", "Therefore, the answer is"]
    page.click("[data-runs=none]")
    page.until("Nothing matches")
    page.click("[data-runs=all]")
    page.until("3 answers found")
    assert page.console() == []


def test_the_page_opens_on_nudged_answers_beside_the_others(browser, small):
    page = Report(browser, small)
    page.until("4 questions found")
    assert page.texts(".card:first-child h4") == ["nudging 0.2", "nudging 0.4", "nudging 0.6", "base only", "ensemble"]
    assert page.texts(".card:first-child .column:first-child mark") == ["First,", "Next,", "Therefore, the answer is"]
    page.choose("failed")
    page.until("1 question found")
    assert len(page.texts(".column")) == 5
    page.choose("differ")
    page.until("3 questions found")
    assert page.console() == []


def test_questions_that_nudging_was_not_asked_come_last(browser, tmp_path):
    asked = questions(30)
    base = [record(i, q, gold, "Perhaps.", None) for i, (q, gold) in enumerate(asked)]
    write_run(tmp_path, "base", base, settings("base_only"))
    nudged = [record(i, *asked[i], nudged_pieces(i, 1), None) for i in (20, 25)]
    write_run(tmp_path, "nudged", nudged, settings("nudging"))
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    page = Report(browser, tmp_path / "report.html")
    page.until("30 questions found, 1 to 20 shown")
    assert page.texts("h3")[:4] == [f"gsm8k, sample {i}" for i in (20, 25, 0, 1)]
    assert page.texts(".outcome") == []  # nothing is scored, and that need not be said thirty times


@pytest.mark.parametrize("experiment", ["base_only", "nudging"])
def test_without_anything_to_compare_nudging_with_answers_follow_one_another(browser, tmp_path, experiment):
    for name in ("a", "b")[: 1 + (experiment == "base_only")]:
        rows = [record(i, q, gold, nudged_pieces(i, 1), 1) for i, (q, gold) in enumerate(questions(3))]
        write_run(tmp_path, name, rows, settings(experiment))
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    Report(browser, tmp_path / "report.html").until("6 answers" if experiment == "base_only" else "3 answers")


def test_the_keyboard_reaches_every_filter_and_the_focus_shows(browser, small):
    page = Report(browser, small)
    reached = []
    for _ in range(20):
        page.browser.switch_to.active_element.send_keys("\ue004")
        name, outline = page.js(
            "const e = document.activeElement; return [e.name || e.className || e.dataset.runs, getComputedStyle(e).outlineStyle]"
        )
        reached.append(name)
        assert outline != "none" or name is None
    assert reached[:2] == ["skip", "wide"]
    assert [name for name in reached if name in ("run", "outcome", "search", "view")][:8] == [
        *["run"] * 5, "outcome", "search", "view"
    ]  # fmt: skip
    page.click("input[value=list]")
    page.until("20 answers found")
    page.js("document.querySelector('input[name=run]').focus()")
    page.browser.switch_to.active_element.send_keys(" ")
    page.until("16 answers found")


def test_no_script_of_a_result_runs(browser, tmp_path):
    hostile_runs(tmp_path)
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html"), "--title", "<img src=x onerror=hacked=1>"]) == 0
    page = Report(browser, tmp_path / "report.html")
    for selector in ("input[value=list]", "input[value=side]"):
        page.click(selector)
        page.until("7 answers" if "list" in selector else "4 questions")
        assert page.js("return window.hacked === undefined && !document.querySelector('main img, main script')")
        assert any("<script>alert(1)</script>" in text for text in page.texts(".answer"))
        assert any("\\x1b\\ud800\\u202e" in text for text in page.texts(".answer"))
    assert page.console() == []


def test_a_phone_shows_the_page_without_sideways_scrolling(browser, small, tmp_path):
    hostile_runs(tmp_path)
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    for path in (small, tmp_path / "report.html"):
        page = Report(browser, path, width=390)
        for selector in ("input[value=list]", "input[value=side]"):
            page.click(selector)
            assert page.js("return document.documentElement.scrollWidth") <= 390


TEXTS = (
    "h1", "header p", "td", "thead th", "figcaption", "svg text", "mark", ".legend", ".answer", "dt", ".notes", ".correct",
    ".wrong", ".failed", ".unscored", ".error", "#count", "select", "#search", "button", "h3 small",
)  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_in_light_and_dark(browser, small, dark):
    page = Report(browser, small, dark=dark)
    page.click("input[value=list]")
    page.until("20 answers")
    background = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (int(background[4:].split(",")[0]) < 60) == dark
    assert page.too_faint(*TEXTS) == []


def test_the_table_and_the_plot_are_there_without_scripts(browser, small):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        Report(browser, small)
        assert browser.find_element("css selector", "tbody tr").is_displayed()
        assert browser.find_element("css selector", "figure svg").is_displayed()
        assert "JavaScript" in browser.find_element("css selector", "noscript").text
        assert not browser.find_element("id", "filters").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_large_report(browser, tmp_path):
    rng = random.Random(0)
    for threshold in (0.2, 0.3, 0.4):
        rows = [
            record(i, q, gold, nudged_pieces(i, 2 * i, rng.randrange(10, 40)), i % 2)
            for i, (q, gold) in enumerate(questions(1319))
        ]
        write_run(tmp_path, f"n{threshold}", rows, settings("nudging", top_prob_thres=threshold))
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    page = Report(browser, tmp_path / "report.html")
    page.until("1,319 questions found, 1 to 20 shown")
    assert page.js("return document.getElementById('list').children.length") == 20  # what keeps it quick
    page.browser.find_element("id", "search").send_keys("1318 pears")
    page.until("1 question found")
    page.browser.find_element("id", "search").send_keys("\ue009a\ue000\ue017")  # control and a, delete
    page.until("1,319 questions")
    page.click("#next")
    page.until("1,319 questions found, 21 to 40 shown")
    assert page.texts("#page") == ["Page 2 of 66"] and page.console() == []


def test_a_question_is_shown_once_with_all_its_answers(browser, tmp_path):
    asked = questions(2)
    rows = [
        record(2 * i + j, q, gold, f"Perhaps {j}.", int(i == j)) | {"answer_number": j + 1, "answers": 2}
        for i, (q, gold) in enumerate(asked)
        for j in range(2)
    ]
    rows[3]["scores"] = {"correct": 0}
    write_run(tmp_path, "several", rows, settings("base_only", answers=2))
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    page = Report(browser, tmp_path / "report.html")
    page.until("2 questions found")
    assert page.texts("h3")[:2] == ["gsm8k, sample 0", "gsm8k, sample 1"]
    assert page.texts("h4") == ["base only, answer 1", "base only, answer 2"] * 2
    page.choose("differ")
    page.until("1 question found")
    page.click("input[value=list]")
    page.until("2 answers found")
    assert [text.split(" base only")[0] for text in page.texts("h3")] == [
        "gsm8k, sample 0, answer 1",
        "gsm8k, sample 0, answer 2",
    ]
    assert page.console() == []
