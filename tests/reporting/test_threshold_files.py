"""Plots over thresholds as files of their own, and what the report says beside its plots."""

import re
import struct
import xml.etree.ElementTree as ET

import pytest
from made_runs import HOSTILE, nudged_pieces, record, settings, write_run, write_small_runs

from reporting.html_report import plots
from reporting.run_table import find_runs
from reporting.threshold_plot import save_plot, single_model_runs, threshold_groups


def drawn(folder, title, runs, groups, best=None, equal=()):
    """The words of the SVG, and the PNG's width and height in pixels."""
    alone = [single_model_runs(group, runs) for group in groups]
    svg, png = save_plot(folder / "plot", title, groups, alone, best, {id(run) for run in equal})
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
    words = re.sub(r"\s+", " ", " ".join(ET.fromstring(svg.read_bytes()).itertext()))
    return words, struct.unpack(">II", head[16:24])


def test_the_best_is_marked_between_the_single_models(tmp_path):
    write_small_runs(tmp_path)
    runs = find_runs([tmp_path], pytest.fail)
    (group,) = threshold_groups(runs)
    words, (width, height) = drawn(tmp_path, "gsm8k, n = 4", runs, [group], group[1], [group[0]])
    for told in (
        "gsm8k, n = 4",
        "Accuracy, %, with 95 % intervals",
        "best",
        "not told apart from the best",
        "base only",
    ):
        assert told in words
    assert "the base model's top-1 probability" in words and all(number in words for number in ("0.2", "0.4", "0.6"))
    assert width > 800 and height > 800
    assert drawn(tmp_path, "gsm8k, n = 4", runs, [group], group[1], [group[0]])[0] == words
    assert "20 %" not in words
    group[2].figures["mean_ratio_nudging"] = 0.21
    assert "20 %: above, the nudging model with help" in drawn(tmp_path, "gsm8k", runs, [group])[0]
    unmarked, _ = drawn(tmp_path, "gsm8k", runs, [group])
    assert "best" not in unmarked and "base only" in unmarked
    wide, (twice, _) = drawn(tmp_path, "gsm8k", runs, [group, group])
    assert twice > width and wide.count("small-chat") == 2


def test_any_names_are_text(tmp_path):
    for threshold in (0.2, 0.4):
        rows = [record(i, "q", "1", nudged_pieces(i, 1), None) for i in range(2)]
        names = {
            "nudging_model": HOSTILE + "\ud800\x1b\u4e2d",
            "criterion": "entropy",
            "threshold": threshold,
            "blend": "auto",
        }
        write_run(tmp_path, f"run{threshold}", rows, settings("nudging", **names))
    runs = find_runs([tmp_path], pytest.fail)
    (group,) = threshold_groups(runs)
    words, _ = drawn(tmp_path, f"{HOSTILE} $\\frac", runs, [group, group])
    assert "<script>alert(1)</script>" in words and "$x^2$" in words and "not scored yet" in words
    assert "threshold on the entropy of the base model's distribution, in nats" in words
    (told,) = plots(runs, pytest.fail)
    assert "n = 2 questions, criterion entropy, blend auto" in told["caption"]


def test_the_report_names_what_its_plots_are_of(tmp_path):
    write_small_runs(tmp_path)
    (told,) = plots(find_runs([tmp_path], pytest.fail), pytest.fail)
    assert told["caption"] == "gsm8k, large + small-chat, n = 4 questions, criterion top_prob"
