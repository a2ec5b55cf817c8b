"""A run that an earlier version began (commit 58d1b02, modules still flat at the top) goes on with this one."""

import json
import shutil

import pytest
from runs import REPOSITORY, final_records, nudging_options, one, run_api
from whole_runs import texts

EARLIER = REPOSITORY / "tests/fixtures/run_of_an_earlier_version"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("answers", [0, 1, 4, 6])
def test_a_run_of_an_earlier_version_goes_on(answers, undisturbed, server, data_dir, tmp_path):
    """Its log is cut behind some answers, in the middle of a line, as a kill leaves it."""
    shutil.copytree(EARLIER, tmp_path / "out")
    log = one(tmp_path / "out", "*.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:answers]) + (lines[answers][:40] if answers < len(lines) else ""))
    finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert (f"{answers} of 6 answers are there already" in finished.stderr) == (0 < answers < 6)
    assert texts(final_records(tmp_path / "out")) == texts(undisturbed[2])
    now, then = (json.loads(one(folder, "*.run.json").read_text()) for folder in (tmp_path / "out", EARLIER))
    assert now["sessions"][0] == then["sessions"][0] and len(now["sessions"]) == 1 + (answers < 6)
    assert sorted(now) == sorted([*then, "questions_sha256"]) and set(then["sessions"][0]) <= set(now["sessions"][-1])


def test_its_files_have_the_names_and_fields_of_this_one(undisturbed):
    for pattern in ("*.jsonl", "*.run.json"):
        assert one(EARLIER, pattern).name == one(undisturbed[1], pattern).name
    then = [json.loads(line) for line in one(EARLIER, "*.jsonl").read_text().splitlines()]
    assert [sorted(record) for record in then] == [sorted(record) for record in undisturbed[2]]
