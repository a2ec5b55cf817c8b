"""Files read back with a value of any shape at any place: taken with sound results, or refused in a line that says where."""

import contextlib
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import nudged_pieces, record, settings, write_run
from spoilt import spoilt

import eval_utils
import measure_reward
from command.errors import UserError
from command.files import ResultsError
from datasets_loader import DATA_SETS
from experiment.result_files import ResultFiles, read_records
from experiment.shards import find_sharded_runs, merge
from pad.config import DecodingConfig
from pad.outputs import OutputFile
from pad.pairwise_judge import ReplyLog
from pad.prompts import Prompt
from reporting.html_report import report_data
from reporting.run_table import find_runs, readable_table, results_table

METADATA = {
    "settings": settings("nudging"),
    "all_settings": {"num_threads": 4},
    "samples": 2,
    "samples_of_all_shards": 2,
    "sessions": [
        {"start": "2026-11-27T12:32:04+00:00", "seconds": 3.5, "versions": {"python": "3.11"}},
        {"start": "x"},
    ],
}
ASPECTS = {name: {"score": 4, "reason": ""} for name in DATA_SETS["justeval"].scoring}
ROW = {"index": 0, "prompt": "Q?", "result": "A.", "response": "Q?A.", "instruction": "Q?", "seed": 0, "elapsed": 0.5}
ROW |= {"config": DecodingConfig(1.0, 10).written()}
RECORDS = [
    record(0, "1 + 0?", "#### 1", nudged_pieces(0, 1), 1),
    record(1, "1 + 1?", "#### 2", "It is 3.", 0) | {"scores": {"correct": 0, "judge": "j", "reason": "no"}},
    record(2, "1 + 2?", "#### 3", "It is 3.", None) | {"scores": ASPECTS | {"mean": 4}},
    {"index": 3, "question": "1 + 3?", "error": "gone", "gold_answer": "4"},
]


def write(folder, metadata, records, name: str = "run", as_log: bool = False):
    """The files of a run; returns the result file."""
    path = write_run(folder, name, [], None, finished=False)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in records) if as_log else "")
    if not as_log:
        path.unlink()
        path = path.with_suffix(".json")
        path.write_text(json.dumps(records))
    path.with_name(f"{name}.run.json").write_text(json.dumps(metadata))
    return path


def refused(error: object, way: tuple) -> None:
    """A message that names the file and the spoilt key, or a place above it."""
    message = str(error)
    assert "run." in message and "pydantic" not in message and len(message.splitlines()) <= 2
    told = [str(key) for key in way if isinstance(key, str)] or ["record"]
    others = ("not a record", "cannot be read", "'raw_answer' is missing", "half a character")
    assert any(key in message for key in (*told, *others)), (message, way)


def score(path, data_set: str = "strategyqa") -> tuple[int, str]:
    return call(eval_utils.main, [str(path), "--judge", "none", "--dataset_name", data_set])


def call(main, words: list[str]) -> tuple[int, str]:
    """A command in this process: its exit code and standard error."""
    said = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace")
    out = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace")
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        code = main(words)
    said.flush()
    return code, said.buffer.getvalue().decode()


def show(folder) -> list[str]:
    """The runs of a folder as tables and as a report; returns what was left out."""
    left_out: list[str] = []
    with contextlib.suppress(ResultsError):
        runs = find_runs([folder], left_out.append)
        readable_table(results_table(runs))
        json.dumps(report_data(runs, [run.name for run in runs]))
        for run in runs:
            figures = [run.pace.latency, run.pace.answers_per_minute, run.threshold, run.figures.get("accuracy")]
            assert all(figure is None or (math.isfinite(figure) and figure >= 0) for figure in figures[:2])
    return left_out


@given(spoilt(METADATA))
def test_run_json(tmp_path_factory, found):
    metadata, way = found
    folder = tmp_path_factory.mktemp("metadata")
    path = write(folder, metadata, RECORDS[:2])
    assert all("run.run.json" in line and "\n" not in line for line in show(folder))
    try:
        assert ResultFiles.of(path).read_run() == json.loads(json.dumps(metadata)) or "NaN" in json.dumps(metadata)
    except ResultsError as error:
        refused(error, way)
        assert "mend it, or start afresh with --rerun" in str(error)
    code, said = score(path)
    assert code == 0 or (code == 2 and "run.run.json" in said)


@given(spoilt(RECORDS), st.booleans(), st.sampled_from(["gsm8k", "strategyqa", "justeval"]))
def test_records(tmp_path_factory, found, as_log, data_set):
    records, way = found
    folder = tmp_path_factory.mktemp("records")
    path = write(folder, METADATA, records, as_log=as_log)
    show(folder)
    code, said = score(path, data_set)
    try:
        read_records(path)
    except ResultsError as error:
        refused(error, way)
        assert code == 2 and "run.json" in said
    else:
        assert code == 0 or (code == 2 and "no gold answer" in said)


@given(spoilt(METADATA), st.integers(1, 2))
def test_shards(tmp_path_factory, found, which):
    metadata, _ = found
    folder = tmp_path_factory.mktemp("shards")
    for i in (1, 2):
        mine = metadata if i == which else METADATA
        told = mine.get("settings") if isinstance(mine, dict) else None
        mine = mine | {"settings": told | {"shard": f"{i}/2"}} if isinstance(told, dict) else mine
        write(folder, mine, RECORDS[i - 1 : i], f"run_shard{i}of2", as_log=True)
    (run,) = find_sharded_runs([folder])
    try:
        assert "2 samples of 2 shards" in merge(run)
    except ResultsError as error:
        assert "run" in str(error) and "pydantic" not in str(error)
    else:
        assert len(ResultFiles.of(run.whole.json).records()) == 2


@given(spoilt({"settings": {"llm": "x", "seed": 0}, "sessions": [{"tokens": 3}], "label": None}))
def test_meta_files(tmp_path_factory, found):
    meta, way = found
    output = OutputFile(str(tmp_path_factory.mktemp("meta") / "run"), 0, DecodingConfig(1.0, 10))
    output.path.write_text("")
    output.meta_path.write_text(json.dumps(meta))
    try:
        output.earlier_rows({}, 0, {"llm": "x"}, print)
        output.read_meta().get("sessions", []).append({})
    except ResultsError as error:
        assert ("run_0" in str(error) and str(way[0]) in str(error)) or "--llm was" in str(error)


@given(spoilt([ROW]))
def test_rows_of_guided_decoding(tmp_path_factory, found):
    """As collect_model_outs.py continues them, and as measure_reward.py scores them."""
    rows, way = found
    folder = tmp_path_factory.mktemp("rows")
    output = OutputFile(str(folder / "run"), 0, DecodingConfig(1.0, 10))
    output.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        told = output.earlier_rows({(0, 0): Prompt(0, "Q?", "", ())}, 0, {}, print)
        assert not rows or (told[0, 0]["prompt"], told[0, 0].keys()) == ("Q?", rows[0].keys())
    except ResultsError as error:
        assert "run_0.jsonl" in str(error) and "line 1" in str(error)
    code, said = call(measure_reward.main, ["--out_file", str(output.path), "--metrics"])
    assert code == 0 or (code == 2 and "run_0.jsonl" in said), (said, way)
    assert "Traceback" not in said and len(said) < 3000


@given(spoilt([{"key": "k", "reply": "r", "judge": "j"}]))
def test_judges_replies(tmp_path_factory, found):
    rows, way = found
    path = tmp_path_factory.mktemp("replies") / "run.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        assert all(isinstance(text, str) for item in ReplyLog(path).replies.items() for text in item)
    except UserError as error:
        assert "line 1: not a judge's reply" in str(error) and str(path) in str(error)
        assert len(way) == 1 or way[-1] in str(error)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"seconds": "x"},
            'sample 1: seconds must be a number of seconds from 0; it is "x"; no record of this program',
        ),
        ({"index": "1"}, 'line 2: index must be a whole number from 0; it is "1"; mend or delete the line'),
        ({"index": math.inf}, "line 2: index must be a whole number from 0; it is Infinity"),
        ({"raw_answer": None}, "sample 1: raw_answer must be a text; it is null"),
        ({"all_completions": ["a", 3]}, "sample 1: all_completions[1] must be a text; it is 3"),
        (
            {"usage": {"base": {"requests": -1}}},
            "sample 1: usage.base.requests must be a number of requests or tokens; it is -1",
        ),
        (
            {"scores": {"judge": 1}},
            'sample 1: scores must hold scores: an object with numbers, or null; it is {"judge": 1}',
        ),
    ],
)
def test_what_is_said_of_a_record(tmp_path, change, said):
    path = write(tmp_path, METADATA, [RECORDS[0], RECORDS[1] | change], as_log=True)
    with pytest.raises(ResultsError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}, {said}")


def test_fields_that_are_missing_or_new(tmp_path):
    """As the published program has them, or a later version."""
    few = [
        {"question": "q", "raw_answer": "a", "scores": {"helpfulness": {"score": "4"}}},
        {"question": "q", "error": 3},
    ]
    more = [entry | {"new": {"x": [None]}} for entry in RECORDS]
    more[0]["usage"]["base"]["cached_tokens"] = 3
    for records in (few, more):
        path = write(tmp_path, METADATA | {"new": 1}, records)
        assert [entry["question"] for entry in read_records(path)] == [entry["question"] for entry in records]
        assert not show(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "\x00", '{"a": 1' + "0" * 5000 + "}"])
def test_files_that_are_no_json(tmp_path, text):
    path = write(tmp_path, METADATA, RECORDS)
    files = ResultFiles.of(path)
    files.run.write_text(text)
    with pytest.raises(ResultsError, match=r"run\.run\.json cannot be read"):
        files.read_run()
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"run\.json cannot be read"):
        read_records(path)
