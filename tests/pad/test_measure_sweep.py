"""measure_reward.py over several files and reward models: what is loaded, printed, written and drawn."""

import csv
import gc
import json
import re
import weakref

import needs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = needs.module("torch")

import measure_reward  # noqa: E402
from pad.measure_options import Wanted, build_parser, wanted_scorers  # noqa: E402
from pad.reports import means, read_file  # noqa: E402
from pad.scorers import Scorer  # noqa: E402


def write(path, preference, weight, samples=2, prompts=3, **more):
    rows = [
        {"index": i, "prompt": f"Q{i}?", "result": f"{preference} {weight} {i} {j}", "name": "g"}
        | ({"sample": j} if samples > 1 else {})
        | {"preference": preference, "rm_weight": weight}
        | more
        for i in range(prompts)
        for j in range(samples)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def measure(*words):
    return measure_reward.main([str(word) for word in words])


def options(*words):
    return build_parser(measure_reward.judge_options()).parse_args([str(word) for word in words])


def reports(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.fixture
def sweep(tmp_path):
    files = [write(tmp_path / f"{p}_{w}.jsonl", p, w) for p in ("kind", "brief") for w in (0, 1, 2)]
    return files, write(tmp_path / "base.jsonl", "", 0)


@pytest.mark.parametrize("among", [True, False])
def test_every_figure_of_a_sweep(among, sweep, scorers, tmp_path, capsys):
    files, base = sweep
    armorm = scorers / "armorm"
    out = {name: tmp_path / f"new/o{name}" for name in (".csv", ".png", ".npz", ".json")}
    words = ["--out_file", *files, *([base] if among else []), "--baseline", base, "--rm_gpu", "cpu"]
    words += ["--rm", scorers / "gpt2", f"{armorm}=3", f"{armorm}=10"]
    words += ["--save", out[".json"], "--npout", out[".npz"], "--table", out[".csv"], "--plot", out[".png"]]
    assert measure(*words) == 0
    lines = reports(capsys)
    assert len(lines) == 3 * (len(files) + among) and out[".png"].read_bytes()[:4] == b"\x89PNG"
    one = next(r for r in lines if r["dimension"] == "10" and (r["preference"], r["rm_weight"]) == ("brief", 2))
    assert (one["name"], one["n"], one["answers"]) == ("g", 3, 6)
    kept = np.load(out[".npz"])
    assert set(kept) == {
        f"{r['file']} by {r['rm']}{'=' + r['dimension'] if r['dimension'] else ''}".lstrip("/") for r in lines
    }
    scores = kept[f"{one['file']} by {armorm}=10".lstrip("/")]
    assert scores.shape == (3, 2) and one["mean"] == pytest.approx(scores.mean())
    assert one["se"] == pytest.approx(scores.mean(1).std(ddof=1) / 3**0.5)
    theirs = Scorer(str(armorm), device=torch.device("cpu"), dtype=torch.float32, dimension="10")
    baseline = means(theirs.score(list(read_file(str(base), options("--rm", "x"), print).answers.values())).scores)
    expected = scores.mean(1) - [baseline[i] for i in range(3)]
    assert one["paired"]["difference"]["mean"] == pytest.approx(expected.mean(), abs=1e-5)
    low, high = one["paired"]["difference_interval_95"]
    half = 4.302652729911275 * expected.std(ddof=1) / 3**0.5  # Student's t with two degrees of freedom
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    table = list(csv.DictReader(out[".csv"].read_text(encoding="utf-8").splitlines()))
    assert len(table) == 3 * (len(files) + 1)
    row = next(r for r in table if r["file"] == one["file"] and r["scorer"] == f"{armorm}=10")
    assert float(row["mean"]) == one["mean"] and float(row["difference_low_95"]) == low
    half = 4.302652729911275 * one["se"]
    assert [float(row[end]) for end in ("low_95", "high_95")] == pytest.approx([one["mean"] - half, one["mean"] + half])
    assert (row["preference"], float(row["rm_weight"]), row["name"], row["n"]) == ("brief", 2, "g", "3")
    assert {r["difference"] for r in table if r["file"] == str(base)} == {""}
    saved = json.loads(out[".json"].read_text())
    assert [{k: v for k, v in r.items() if k != "scores"} for r in saved] == lines
    # By itself it is what it is among others.
    assert measure("--out_file", one["file"], "--rm", armorm, "--dimension", 10, "--rm_gpu", "cpu") == 0
    assert reports(capsys)[0]["mean"] == pytest.approx(one["mean"], abs=1e-5)


def test_each_model_is_loaded_once_and_gone_before_the_next(sweep, scorers, monkeypatch):
    alive, loaded = weakref.WeakSet(), []

    class Counted(Scorer):
        def __init__(self, name, **how):
            gc.collect()
            assert not alive, "a model is still there"
            loaded.append(name)
            super().__init__(name, **how)
            alive.add(self._classifier or self._backbone)

    monkeypatch.setattr("pad.scorers.Scorer", Counted)
    armorm, gpt2 = str(scorers / "armorm"), str(scorers / "gpt2")
    words = ["--rm", f"{armorm}=0", gpt2, f"{armorm}=10", scorers / "humor", "--rm_gpu", "cpu"]
    assert measure("--out_file", *sweep[0], "--baseline", sweep[1], *words) == 0
    assert loaded == [armorm, gpt2, str(scorers / "humor")]


def test_what_is_measured_before_an_error_is_kept(sweep, scorers, tmp_path, capsys, monkeypatch):
    files, base = sweep
    whole = Scorer.score

    def fails(self, *args, **more):
        if "humor" in self.name:
            raise KeyboardInterrupt
        return whole(self, *args, **more)

    monkeypatch.setattr(Scorer, "score", fails)
    out = [tmp_path / f"o{name}" for name in (".json", ".md", ".npz", ".svg")]
    words = ["--rm", scorers / "gpt2", scorers / "humor", "--rm_gpu", "cpu"]
    written = ["--save", out[0], "--table", out[1], "--npout", out[2], "--plot", out[3]]
    assert measure("--out_file", *files, "--baseline", base, *words, *written) == 130
    assert [r["file"] for r in json.loads(out[0].read_text())] == [str(file) for file in files]
    assert out[1].read_text().count("\n| kind") == 3 and len(np.load(out[2])) == 6
    assert ">kind, g<" in out[3].read_text()


def test_a_model_that_is_not_there_is_said_before_any_is_loaded(sweep, scorers, tmp_path, capsys):
    for wrong, said in (
        (tmp_path / "none", "is no folder"),
        (f"{scorers / 'armorm'}=30", "--dimension has no choice '30'"),
    ):
        assert measure("--out_file", *sweep[0], "--rm", scorers / "gpt2", wrong, "--rm_gpu", "cpu") == 2
        shown = capsys.readouterr()
        assert said in shown.err and "mean reward" not in shown.out
    words = ["--rm", scorers / "gpt2", f"{scorers / 'armorm'}=1", "--format", "args"]
    assert measure("--out_file", *sweep[0], *words) == 2
    shown = capsys.readouterr()
    assert "--format args is for sequence classifiers" in shown.err and "np.mean" not in shown.out


@pytest.mark.parametrize(
    "option, name, said",
    [
        ("--plot", "a.gif", "its name ends in .svg or .png"),
        ("--table", "a.txt", "its name ends in .csv or .md"),
        ("--save", ".", "it is a folder"),
        ("--npout", "kind_0.jsonl/x.npz", "the folder .*kind_0.jsonl cannot be made"),
    ],
)
def test_results_that_cannot_be_are_refused_first(option, name, said, sweep, scorers, tmp_path, capsys):
    assert measure("--out_file", *sweep[0], "--rm", scorers / "gpt2", option, tmp_path / name) == 2
    shown = capsys.readouterr()
    assert option in shown.err and re.search(said, shown.err) and "mean reward" not in shown.out


def test_arrays_one_behind_the_other_are_told(sweep, scorers, tmp_path, capsys):
    files, _ = sweep
    assert measure("--out_file", *files[:2], "--rm", scorers / "gpt2", "--npout", tmp_path / "s.npy") == 0
    said = capsys.readouterr().err
    assert np.load(tmp_path / "s.npy").shape == (12,) and "2 arrays one behind the other" in said and ".npz" in said


def test_options_that_are_given_again_add_to_what_is_there(sweep, scorers, capsys):
    files, _ = sweep
    words = ["--out_file", files[0], "--out_file", files[1], "--rm", scorers / "gpt2", "--rm", scorers / "humor"]
    assert measure(*words, "--rm_gpu", "cpu") == 0
    assert [(r["file"], r["rm"]) for r in reports(capsys)] == [
        (str(file), str(scorers / model)) for model in ("gpt2", "humor") for file in files[:2]
    ]


def test_what_is_compared_on_fewer_prompts_is_said(scorers, tmp_path, capsys):
    """A mean may be above the baseline's, and the difference on common prompts below 0."""
    mine, base = write(tmp_path / "mine.jsonl", "kind", 1, prompts=4), write(tmp_path / "base.jsonl", "", 0, prompts=4)
    for path, without in ((mine, 0), (base, 3)):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["index"] != without))
    words = ["--baseline", base, "--rm", scorers / "gpt2", "--rm_gpu", "cpu"]
    assert measure("--out_file", mine, *words, "--table", tmp_path / "t.csv") == 0
    shown = capsys.readouterr()
    assert "answers 3 prompts and the baseline 3: differences are of the 2 that both answer, means of all" in shown.err
    assert re.search(r"prompts \(each counts once\) +3\nanswers +6\nskipped", shown.out)
    assert "mean difference on 2 common prompts" in shown.out
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["n"], row["pairs"]) for row in rows] == [("3", ""), ("3", "2")]


def test_names_are_no_markup_and_no_signals(scorers, tmp_path, capsys):
    files = [write(tmp_path / f"{w}.jsonl", "<b>a|b\x1b[31m</b>", w, 1) for w in (1, 2)]
    assert measure("--out_file", *files, "--rm", scorers / "gpt2", "--rm_gpu", "cpu", "--table", tmp_path / "t.md") == 0
    assert (tmp_path / "t.md").read_text().count("| &lt;b&gt;a\\|b\\x1b[31m&lt;/b&gt;") == 2
    assert "\x1b[31m" not in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".csv", ".md"])
def test_halves_of_characters_in_names(ending, scorers, tmp_path):
    files = [write(tmp_path / f"{w}\udcff.jsonl", "\ud83d", w, 1) for w in (1, 2)]
    out = [tmp_path / f"o{name}" for name in (ending, ".svg", ".npz")]
    words = ["--rm", scorers / "gpt2", "--rm_gpu", "cpu", "--table", out[0], "--plot", out[1], "--npout", out[2]]
    assert measure("--out_file", *files, *words) == 0
    assert len(out[0].read_text(encoding="utf-8").splitlines()) >= 3 and len(np.load(out[2])) == 2


def test_a_plot_that_cannot_be_written_leaves_the_rest(sweep, scorers, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reporting.reward_plot.save_reward_plot", full)
    words = ["--rm", scorers / "gpt2", "--rm_gpu", "cpu", "--table", tmp_path / "t.csv", "--plot", tmp_path / "p.svg"]
    assert measure("--out_file", *sweep[0], *words) == 2
    assert "p.svg cannot be written ([Errno 28] No space left" in capsys.readouterr().err
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 7


def test_a_baseline_of_other_prompts_is_refused_before_a_model_is_loaded(scorers, tmp_path, capsys):
    mine, base = (write(tmp_path / f"{name}.jsonl", "kind", 1, 1) for name in ("mine", "base"))
    rows = [json.loads(line) for line in base.read_text().splitlines()]
    base.write_text("".join(json.dumps(row | {"index": row["index"] + 3}) + "\n" for row in rows))
    assert measure("--out_file", mine, "--baseline", base, "--rm", scorers / "gpt2", "--rm_gpu", "cpu") == 2
    shown = capsys.readouterr()
    assert "have no answered prompt in common" in shown.err and "output 0 of 1" not in shown.err


def test_arrays_have_rows_for_skipped_prompts_at_the_end(scorers, tmp_path):
    path = write(tmp_path / "a.jsonl", "kind", 1, prompts=3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[4:] = [row | {"result": None, "skipped": "too long"} for row in rows[4:]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert measure("--out_file", path, "--rm", scorers / "gpt2", "--npout", tmp_path / "s.npz") == 0
    (found,) = np.load(tmp_path / "s.npz").values()
    assert found.shape == (3, 2) and np.isnan(found[2]).all() and np.isfinite(found[:2]).all()


def test_names_of_all_kinds_and_many_lines(scorers, tmp_path):
    """A plot has a legend entry and a look for each preference, whatever it is called."""
    same = "Answer as somebody who has all the time in the world and "
    names = [
        "$\\frac{$",
        "costs $5 or $10",
        "_",
        "_a_b",
        "baseline",
        "a & <b>",
        "誰",
        f"{same}hurries",
        f"{same}dawdles",
        "per row",
    ]
    names += [f"p{number}" for number in range(5)]
    files = [write(tmp_path / f"{i}_{w}.jsonl", n, w, 1, name=None) for i, n in enumerate(names) for w in (-1, 0, 0.01)]
    files.append(write(tmp_path / "n.jsonl", "no weight", None, 1, name=None))
    words = ["--baseline", write(tmp_path / "base.jsonl", "", 0, 1), "--rm", scorers / "gpt2", "--rm_gpu", "cpu"]
    assert measure("--out_file", *files, *words, "--plot", tmp_path / "p.svg", "--table", tmp_path / "t.md") == 0
    drawn = (tmp_path / "p.svg").read_text(encoding="utf-8")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
    expected = [
        "$\\frac{$",
        "costs $5 or $10",
        "a_b",
        "baseline",
        "baseline (2)",
        "a &amp; &lt;b&gt;",
        "誰",
        "p4",
        "none",
    ]
    assert all(texts.count(text) == 1 for text in expected), texts
    assert len({text for text in texts if text.startswith("Answer as")}) == 2
    table = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "hurries |" in table and "dawdles |" in table


@pytest.mark.parametrize("weights, lines", [((1, 2), 1), ((1, 1, 2), 0)])
def test_files_of_one_weight_are_no_line(weights, lines, scorers, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    styles, whole = [], Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda *args, **how: styles.append(how["linestyle"]) or whole(*args, **how))
    files = [write(tmp_path / f"{i}.jsonl", "kind", weight, 1) for i, weight in enumerate(weights)]
    assert measure("--out_file", *files, "--rm", scorers / "gpt2", "--rm_gpu", "cpu", "--plot", tmp_path / "p.svg") == 0
    assert styles == (["-"] if lines else ["none"])


def test_no_two_lines_look_alike():
    from reporting.reward_plot import _labels, looks

    assert len({looks(place) for place in range(28)}) == 28
    found = _labels(
        [("x" * 50, None), ("x" * 60, None), ("baseline", None), (None, None), ("", None), ("a, b", None), ("a", "b")]
    )
    assert len(set(found.values()) | {"baseline"}) == 8


def test_the_output_of_each_model(scorers):
    def read(*words):
        return wanted_scorers(options("--rm", *words))

    assert read("a=1") == [Wanted("a", "1")] == read("a", "--dimension", "1")
    assert read("a=1", "b", "a=joy") == [Wanted("a", "1"), Wanted("a", "joy"), Wanted("b")]
    assert read("x=y/model") == [Wanted("x=y/model")] and read("o/m=1=2") == [Wanted("o/m=1", "2")]
    for words in (
        ["a", "b", "--dimension", "1"],
        ["a=1", "--dimension", "1"],
        ["a", "a"],
        ["a", "b", "--tokenizer", "t"],
    ):
        with pytest.raises(measure_reward.OptionError):
            read(*words)


def test_a_folder_with_that_sign_in_its_name(scorers, tmp_path):
    (tmp_path / "m=1").symlink_to(scorers / "gpt2")
    assert wanted_scorers(options("--rm", tmp_path / "m=1")) == [Wanted(str(tmp_path / "m=1"))]


def test_a_judge_compares_single_answers(sweep, capsys):
    files, base = sweep
    assert (
        measure(
            "--out_file", files[0], "--baseline", base, "--judge_model", "j", "--judge_host", "http://127.0.0.1:9/v1"
        )
        == 2
    )
    assert "--judge_model compares one answer to a prompt with another" in capsys.readouterr().err


@given(st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 4)), st.floats(-9, 9), min_size=1))
def test_scores_are_averaged_by_prompt(scores):
    found = means(scores)
    assert found.keys() == {index for index, _ in scores}
    for index, value in found.items():
        assert value == pytest.approx(np.mean([score for (i, _), score in scores.items() if i == index]), abs=1e-9)


@given(
    st.lists(st.sampled_from(["kind", "brief", "", None]), min_size=1),
    st.lists(st.sampled_from([0, 0.5, None]), min_size=1),
)
def test_what_rows_say_of_themselves(tmp_path_factory, preferences, weights):
    pairs = list(zip(preferences, weights, strict=False))
    rows = [
        {"prompt": f"{i}?", "result": "x", "preference": p, "config": {"rm_weight": w}}
        for i, (p, w) in enumerate(pairs)
    ]
    path = tmp_path_factory.mktemp("rows") / "x.json"
    path.write_text(json.dumps(rows))
    about = read_file(str(path), options("--rm", "x"), print).about
    for name, values in (("preference", {p for p, _ in pairs}), ("rm_weight", {w for _, w in pairs})):
        assert about[name] == (values.pop() if len(values) == 1 else "per row")
    assert about["name"] is None
