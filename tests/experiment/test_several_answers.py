"""--answers N: what is refused, the names and settings, the figures, and whole runs that are continued, sharded and shown."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import gsm8k_rows, one, run_api, write_rows

from command.intervals import grouped_mean_interval, grouped_wilson_interval, wilson_interval
from experiment.diversity import diversity
from experiment.merge import main as merge
from experiment.settings import RunSettings, SettingsError
from experiment.summary import summarise
from reporting.html_report import report_data, run_labels
from reporting.run_table import find_runs, readable_table, results_table
from reporting.told import told_by_name

MODELS = {
    f"{role}_{what}": told
    for role in ("base", "nudging", "proxy_chat")
    for what, told in (("model", f"{role}-lm"), ("host", "http://localhost:1/v1"))
}


def settings(**more) -> RunSettings:
    return RunSettings(**MODELS | {"nudging_template": "chatml"} | more)


class TestSettings:
    @pytest.mark.parametrize(
        "how, options",
        [
            ({"exp": "base_only"}, ["base"]),
            ({"exp": "base_only", "nudging_temperature": 1}, ["base"]),
            ({"exp": "nudging_only"}, ["nudging"]),
            ({"exp": "baseline", "nudging_temperature": 1}, ["base"]),
            ({"exp": "nudging"}, ["base", "nudging"]),
            ({"exp": "nudging", "seed": 3}, ["base", "nudging"]),
            ({"exp": "nudging", "criterion": "always", "base_temperature": 1}, ["nudging"]),
            ({"exp": "nudging", "criterion": "never", "nudging_temperature": 1}, ["base"]),
            ({"exp": "nudging", "criterion": "random"}, ["base", "nudging"]),
            ({"exp": "nudging", "blend": "auto", "nudging_temperature": 1}, ["base"]),
        ],
    )
    def test_answers_that_would_all_be_the_same_are_refused(self, how, options):
        with pytest.raises(SettingsError) as raised:
            settings(answers=2, **how)
        told = " or ".join(f"--{role}_temperature" for role in options)
        assert f"set {told} above 0, such as --{options[0]}_temperature 1.0" in str(raised.value)
        settings(**how)  # one answer is fine
        assert settings(answers=2, **how | {f"{role}_temperature": 0.5 for role in options}).answers == 2

    def test_random_nudges_are_drawn_at_temperature_0(self):
        assert settings(exp="nudging", criterion="random", seed=1, answers=2).answers == 2

    @pytest.mark.parametrize("wrong", [{"answers": 0}, {"answers": 1001}, {"seed": -1}])
    def test_numbers_that_cannot_be(self, wrong):
        with pytest.raises(SettingsError, match=f"--{next(iter(wrong))} must be"):
            settings(exp="base_only", base_temperature=1, **wrong)

    def test_names_and_decisive_settings_have_them_only_where_given(self):
        plain, more = settings(exp="base_only"), settings(exp="base_only", base_temperature=1, answers=3, seed=0)
        assert not {"answers", "seed"} & plain.decisive.keys() and plain.result_name.endswith("_None_samples")
        assert (more.decisive["answers"], more.decisive["seed"]) == (3, 0)
        assert more.result_name == plain.result_name + "_3_answers"
        sharded = settings(exp="base_only", base_temperature=1, answers=3, shard="2/4")
        assert sharded.result_name == plain.result_name + "_3_answers_shard2of4"
        assert told_by_name(more.result_name, []).num_samples is None
        assert told_by_name(more.result_name, []).models == told_by_name(plain.result_name, []).models == ("base-lm",)

    @pytest.mark.parametrize("then, now", [({}, {"seed": 1}), ({"seed": 1}, {}), ({"seed": 1}, {"seed": 2})])
    def test_another_seed_is_another_run(self, then, now):
        before = json.loads(json.dumps(settings(exp="base_only", **then).decisive))
        assert settings(exp="base_only", **now).differing(before) == ["seed"]


def records_of(questions: list[list[dict]], n: int) -> list[dict]:
    """Records of questions by what is said of each of their answers: a text, an error, scores."""
    return [
        {"index": q * n + j, "answer_number": j + 1, "answers": n, "question": f"q{q}"} | told
        for q, answers in enumerate(questions)
        for j, told in enumerate(answers)
    ]


def right(correct: int, text: str = "a b c") -> dict:
    return {"raw_answer": text, "scores": {"correct": correct}}


class TestFigures:
    def test_accuracy_is_the_mean_of_all_answers_and_its_interval_goes_by_question(self):
        shares = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]]
        fields = summarise(records_of([[right(one) for one in group] for group in shares], 4), "rule").fields
        assert (fields["samples"], fields["questions"], fields["answers_per_question"]) == (16, 4, 4)
        assert fields["accuracy"] == 0.5 and fields["accuracy_interval_95"] == grouped_wilson_interval(shares)
        assert fields["accuracy_interval_95"][0] < wilson_interval(8, 16)[0]
        assert (fields["pass_at_n"], fields["pass_at_n_questions"]) == (0.75, 4)
        assert fields["pass_at_n_interval_95"] == wilson_interval(3, 4)

    def test_failed_and_unscored_answers(self):
        failed, unscored = {"error": "no"}, {"raw_answer": "a b", "scores": None}
        asked = [[right(1), right(0)], [right(1), failed], [right(0), unscored], [failed, failed]]
        fields = summarise(records_of(asked, 2), "judge").fields
        assert (fields["answered"], fields["failed"], fields["unscored"], fields["scored"]) == (5, 3, 1, 4)
        assert fields["accuracy"] == 0.5
        assert fields["accuracy_interval_95"] == grouped_wilson_interval([[1, 0], [1], [0]])
        # Of questions that have all their answers, and all of them scored.
        assert fields["pass_at_n_questions"] == 1 and fields["pass_at_n"] == 1
        assert fields["diversity"] == diversity([["a b c", "a b c"], ["a b c", "a b"]])

    def test_an_unfinished_run_knows_how_many_answers_there_will_be(self):
        fields = summarise(records_of([[right(1), right(1)]], 3), "rule").fields
        assert fields["answers_per_question"] == 3 and not {"pass_at_n", "diversity"} & fields.keys()

    @pytest.mark.parametrize("name", ["mean_score", "mean_own_score"])
    def test_mean_scores_go_by_question_too(self, name):
        groups = [[1.0, 0.5], [0.25, 0.0], [0.75, 1.0]]
        scoring = ("help",) if name == "mean_score" else "own"
        told = [
            [
                {
                    "raw_answer": "a",
                    "scores": {"help": {"score": s}, "mean": s} if name == "mean_score" else {"score": s},
                }
                for s in group
            ]
            for group in groups
        ]
        fields = summarise(records_of(told, 2), scoring).fields
        assert fields[name] == pytest.approx(3.5 / 6)
        assert fields[f"{name}_interval_95"] == grouped_mean_interval(groups) and "pass_at_n" not in fields

    @given(st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=8))
    def test_one_answer_each_has_the_figures_of_before(self, scores):
        records = [{"raw_answer": "a", "scores": None if s is None else {"correct": s}} for s in scores]
        fields, known = summarise(records, "rule").fields, [s for s in scores if s is not None]
        assert not {"questions", "answers_per_question", "diversity", "pass_at_n"} & fields.keys()
        if known:
            assert fields["accuracy_interval_95"] == wilson_interval(sum(known), len(known))

    def test_the_table_says_them(self):
        asked = [[right(1, "a b c"), right(0, "a b d")], [right(0, "x"), right(0, "x")]]
        table = summarise(records_of(asked, 2), "rule").table()
        rows = {line[:46].strip(): line[46:].strip() for line in table.splitlines()}
        assert rows["answers"] == "4 (2 to each of 2 questions)"
        assert rows["pass@2, a right answer at least"].startswith("50.0 % (95 %: 9.5 to 90.5; n = 2")
        assert rows["distinct-1, of a question's answers"].startswith("0.583 (95 %: ")
        assert rows["distinct-2, of a question's answers"] == "0.750 (n = 1 questions)"
        assert rows["self-BLEU, 0 to 100, of a question's answers"].endswith("n = 2 questions)")


TEXT_FIELDS = (
    "index",
    "id",
    "answer_number",
    "answers",
    "question",
    "raw_answer",
    "all_completions",
    "stop_reason",
    "scores",
)


def options(server, data, output, *more) -> list:
    models = ["--base_model", "base-lm", "--base_host", server.host]
    models += ["--nudging_model", "llama-2-chat", "--nudging_host", server.host]
    sampling = ["--answers", 3, "--seed", 1, "--base_temperature", 1.0, "--max_token_total", 24]
    return ["--exp", "nudging", *models, *sampling, "--data_dir", data, "--output_dir", output, *more]


def texts(folder) -> list[dict]:
    return [{f: record[f] for f in TEXT_FIELDS} for record in json.loads(one(folder, "*_answers.json").read_text())]


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """A run of five questions with three answers each: its data, its folder, and what it said."""
    folder = tmp_path_factory.mktemp("answers")
    data = write_rows(folder / "data", "gsm8k", gsm8k_rows(5))
    finished = run_api(*options(server, data, folder / "out"))
    assert finished.returncode == 0, finished.stderr
    return data, folder / "out", finished


@pytest.mark.slow  # runs the command line, many times
class TestRuns:
    def test_each_answer_is_a_record(self, whole):
        found = texts(whole[1])
        assert [(r["index"], r["id"], r["answer_number"]) for r in found] == [(i, i // 3, i % 3 + 1) for i in range(15)]
        assert len({(r["id"], r["raw_answer"]) for r in found}) == 15
        metadata = json.loads(one(whole[1], "*.run.json").read_text())
        assert (metadata["samples"], metadata["samples_of_all_shards"]) == (15, 15)
        assert "15 (3 to each of 5 questions)" in whole[2].stdout and "self-BLEU" in whole[2].stdout
        assert json.loads(one(whole[1], "*.summary.json").read_text())["diversity"]["self_bleu"]["questions"] == 5
        assert "[4, answer 2] Question: Tom has 1 apples" in one(whole[1], "*_answers.txt").read_text()

    @pytest.mark.parametrize("kept", [1, 7])
    def test_a_killed_run_goes_on_with_the_same_answers(self, kept, whole, server, tmp_path):
        data, folder, _ = whole
        log = tmp_path / "out" / one(folder, "*.jsonl").relative_to(folder)
        log.parent.mkdir(parents=True)
        lines = one(folder, "*.jsonl").read_text().splitlines(keepends=True)
        random.Random(kept).shuffle(lines)  # they are written as they are finished
        log.write_text("".join(lines[:kept]) + lines[kept][:40])
        (log.parent / one(folder, "*.run.json").name).write_text(one(folder, "*.run.json").read_text())
        finished = run_api(*options(server, data, tmp_path / "out"))
        assert finished.returncode == 0 and f"{kept} of 15 answers are there already" in finished.stderr
        assert texts(tmp_path / "out") == texts(folder)

    def test_another_seed_is_refused_and_rerun_begins_anew(self, whole, server, tmp_path):
        data = whole[0]
        more = ("--num_samples", 1)
        assert run_api(*options(server, data, tmp_path / "out", *more)).returncode == 0
        first = texts(tmp_path / "out")
        other = run_api(*options(server, data, tmp_path / "out", *more, "--seed", 2))
        assert other.returncode == 2 and "--seed was 1, is 2" in other.stderr
        assert run_api(*options(server, data, tmp_path / "out", *more, "--seed", 2, "--rerun")).returncode == 0
        path = next(p for p in (tmp_path / "out").rglob("*_answers.json") if "replaced" not in str(p))
        assert not {r["raw_answer"] for r in json.loads(path.read_text())} & {r["raw_answer"] for r in first}

    def test_shards_have_all_answers_of_their_questions_and_join_to_the_whole(self, whole, server, tmp_path, capsys):
        data, folder, _ = whole
        assert run_api(*options(server, data, tmp_path / "out", "--shard", "2/2")).returncode == 0
        log = one(tmp_path, "*_shard2of2.jsonl")
        assert [json.loads(line)["index"] for line in log.read_text().splitlines()] == [3, 4, 5, 9, 10, 11]
        assert merge([str(tmp_path / "out")]) == 1 and "missing shard 1 of 2" in capsys.readouterr().err
        assert run_api(*options(server, data, tmp_path / "out", "--shard", "1/2")).returncode == 0
        left = log.read_text().splitlines(keepends=True)
        log.write_text("".join(left[:-1]))
        assert merge([str(tmp_path / "out")]) == 1
        assert "missing sample 11 of 15; continue shard 2 of 2" in capsys.readouterr().err
        log.write_text("".join(left))
        assert merge([str(tmp_path / "out")]) == 0, capsys.readouterr().err
        assert texts(tmp_path / "out") == texts(folder)
        ours, theirs = (json.loads(one(f, "*_answers.summary.json").read_text()) for f in (tmp_path / "out", folder))
        for name in ("accuracy", "accuracy_interval_95", "diversity", "pass_at_n", "questions"):
            assert ours[name] == theirs[name]

    def test_random_nudges_differ_by_the_seed_at_temperature_0(self, whole, server, tmp_path):
        more = ("--base_temperature", 0, "--criterion", "random", "--threshold", 0.4, "--num_samples", 2)
        assert run_api(*options(server, whole[0], tmp_path / "out", *more)).returncode == 0
        assert len({r["raw_answer"] for r in texts(tmp_path / "out")}) == 6

    def test_a_shard_of_more_than_the_questions_is_refused(self, whole, server, tmp_path):
        said = run_api(*options(server, whole[0], tmp_path / "out", "--shard", "6/6"))
        assert said.returncode == 2 and "--shard 6/6 has no samples, since there are 5 in all" in said.stderr

    def test_a_dry_run_says_how_many(self, whole, server, tmp_path):
        said = run_api(*options(server, whole[0], tmp_path / "out", "--dry_run"))
        assert "5 questions, 3 answers to each, " in said.stdout

    def test_tables_and_the_report(self, whole):
        runs = find_runs([whole[1]], pytest.fail)
        table = results_table(runs)
        (row,) = table.to_dict("records")
        assert (row["questions"], row["answers_per_question"], row["n"]) == (5, 3, 15)
        assert 0 < row["distinct_1_low"] < row["distinct_1"] < row["distinct_1_high"] < 1
        assert row["self_bleu_questions"] == 5 and row["pass_at_n"] >= row["accuracy"]
        (shown,) = readable_table(table).to_dict("records")
        assert shown["Answers"] == "15\n3 per question"
        assert shown["Self-BLEU, 0 to 100 (95 % interval)"].endswith("\nn = 5")
        data = report_data(runs, run_labels(runs))
        assert len(data["questions"]) == 5
        told = [(answer["question"], answer["sample"], answer["number"]) for answer in data["answers"]]
        assert told == [(i // 3, str(i // 3), i % 3 + 1) for i in range(15)]

    def test_scored_later(self, whole, capsys):
        from eval_utils import main

        assert main([str(one(whole[1], "*_answers.json"))]) == 0
        assert "15 (3 to each of 5 questions)" in capsys.readouterr().out


def test_columns_are_there_only_where_a_run_has_several(tmp_path):
    from made_runs import record, write_run
    from made_runs import settings as made

    write_run(tmp_path, "one", [record(0, "q", "1", "a", 1)], made("base_only"))
    assert not {"questions", "distinct_1", "pass_at_n"} & set(results_table(find_runs([tmp_path], pytest.fail)))
    several = [record(i, "q", "1", "a", 1) | {"answer_number": i + 1, "answers": 2} for i in range(2)]
    write_run(tmp_path, "two", several, made("base_only", answers=2))
    runs = find_runs([tmp_path], pytest.fail)
    first, second = results_table(runs).to_dict("records")
    assert math.isnan(first["self_bleu"]) and second["self_bleu"] == pytest.approx(100)
    data = report_data(runs, run_labels(runs))  # one question in both
    assert [answer["question"] for answer in data["answers"]] == [0, 0, 0]
    assert run_labels(runs) == ["base only · all samples", "base only · all samples, 2 answers each"]
