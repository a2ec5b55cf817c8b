"""Configs of sweeps with a value of any type at any key: each is read, or refused in a line that says where."""

import datetime
import json
import math
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoilt import spoilt

from cluster import slurm
from cluster.sweep_config import ConfigError, check_directives, read_sweep
from cluster.sweep_tables import SlurmTable
from command.schema import read_as

HOST = "http://localhost:1/v1"
CONFIG = {
    "output_dir": "out",
    "data_sets": ["gsm8k", "svamp"],
    "experiments": ["base_only", "nudging"],
    "criteria": ["top_prob"],
    "thresholds": [0.2, 1],
    "num_samples": 5,
    "shards": 2,
    "options": {"num_threads": 3, "end_tokens": ["a", "b"], "judge": "none", "print_intermediate_output": True},
    "pairs": [
        {"name": "a", "base_model": "b", "base_host": HOST, "nudging_model": "n", "nudging_host": HOST},
        {
            "base_model": "b2",
            "base_host": HOST,
            "nudging_model": "n",
            "nudging_host": HOST,
            "criteria": ["top_prob", "margin", "always"],
            "thresholds": {"top_prob": 0.4, "margin": [0.1, 0.2]},
            "options": {"exp_prefix": "second"},
            "serve": "--base_gpus 0",
        },
    ],
    "slurm": {
        "max_at_once": 2,
        "serve": "--x 'y'",
        "setup": "module load x",
        "sbatch": {"time": "1:00", "requeue": True},
    },
}
TEXTS = st.sampled_from(["", "x", "3", "gsm8k", "a\nb", "\x1b", "'", "--rerun", "$NOT_SET_HERE"])
NUMBERS = st.sampled_from([-1, 0, 1, 3, 0.5, 1e300, 10**400, math.inf, math.nan, 2**70])
VALUES = st.recursive(
    st.booleans() | NUMBERS | TEXTS | st.just(datetime.date(2026, 1, 1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)


def toml(value) -> str:
    """A value as TOML writes it, tables in a line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float) or (value == 10**400 and not isinstance(value, bool)):
        return hex(value) if isinstance(value, int) else repr(value)
    return value.isoformat() if isinstance(value, datetime.date) else json.dumps(value)


def write(folder, config: dict):
    path = folder / "sweep.toml"
    path.write_text("".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in config.items()))
    return path


@given(spoilt(CONFIG, VALUES))
def test_a_config_is_read_or_refused_by_file_and_key(tmp_path_factory, found):
    config, way = found
    path = write(tmp_path_factory.mktemp("sweep"), config)
    try:
        sweep = read_sweep(path)
    except ConfigError as error:
        message = str(error)
        assert message.startswith(str(path)) and "pydantic" not in message
        told = [str(key) for key in way if isinstance(key, str) and key not in ("pairs", "slurm")]
        # What fits by its type, such as a host or a name, is refused by what comes of it, under the name of its pair.
        assert not told or any(key in message for key in told) or re.search(r"pair|experiment|dataset_name", message)
    else:
        assert all(task.options and task.label for task in sweep.tasks)
        for task in sweep.tasks:
            assert slurm._task_line(task) and isinstance(slurm._serve_line(task), str)
        assert slurm._array_script(sweep, path.parent, 3)


def test_the_config_as_it_is(tmp_path):
    sweep = read_sweep(write(tmp_path, CONFIG))
    assert len(sweep.tasks) == 2 * 2 * (1 + 2) + 2 * 2 * (1 + 1 + 2 + 1)
    assert " ".join(sweep.tasks[0].options).endswith(
        " --end_tokens a b --judge none --print_intermediate_output --shard 1/2"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shards = true", "shards must be a number, at least 1 and at most 999999; it is true"),
        ("output_dir = 3", "output_dir must be a text of one line; it is 3"),
        ('num_samples = "5"', 'num_samples must be a whole number from 1; it is "5"'),
        ("data_set = 'gsm8k'", " has an unknown key 'data_set' (is 'data_sets' meant?); known are: output_dir"),
        ("pairs = 3", "pairs must be a list; it is 3"),
        ("pairs = [3]", "pairs[0] must be a table of keys and values; it is 3"),
        ("pairs = []", "no [[pairs]] in it"),
        ("pairs = [{name = 3}]", "[[pairs]] 3: name must be a text of one line; it is 3"),
        ("pairs = [{nmae = 3}]", "[[pairs]] pair 1 has an unknown key 'nmae' (is 'name' meant?)"),
        (
            "pairs = [{base_model = 'b', base_host = 3}]",
            "[[pairs]] pair 1: base_host must be a text of one line; it is 3",
        ),
        (
            "pairs = [{thresholds = [true]}]",
            "[[pairs]] pair 1: thresholds must be a list of numbers, or a table of them",
        ),
        ("slurm = 3", "slurm must be a table of keys and values; it is 3"),
        ('slurm = {max_at_once = "4"}', '[slurm]: max_at_once must be a whole number from 0; it is "4"'),
        (
            'slurm = {serve = "\'"}',
            '[slurm]: serve must be a text of options in one line, its quotes closed; it is "\'"',
        ),
        (
            "options = {a = {b = 1}}",
            'options.a must be a text, a number, true, false, or a list of them; it is {"b": 1}',
        ),
        ("options = {help = true}", "help cannot stand in a sweep"),
        ("options = {'rerun=1' = true}", "'rerun=1' is no option of run_api.py"),
        ("options = {end_tokens = ['a', '--rerun']}", "options.end_tokens: '--rerun' begins like an option"),
        ("slurm = {sbatch = {time = inf}}", "sbatch.time must be a text of one line, a finite number, true or false"),
        ("slurm = {sbatch = {'-t' = 1}}", "'-t' is no option of sbatch"),
        ("slurm = {sbatch = {array = '1-3'}}", "array is the sweep's own"),
        ("slurm = {sbatch = {comment = 'a \"b'}}", "comment holds quotes or backslashes"),
        ('slurm = {setup = "a\\u0000"}', "setup must be a text of lines of bash, without NUL and carriage returns"),
    ],
)
def test_what_is_said(tmp_path, line, said):
    path = tmp_path / "sweep.toml"
    path.write_text(f"{line}\n" + ("" if line.startswith("pairs") else "[[pairs]]\nname = 'a'\n"))
    with pytest.raises(ConfigError) as error:
        read_sweep(path)
    assert said in str(error.value)


CONTROLS = st.text(st.characters(max_codepoint=0x2100), max_size=9)


@given(
    st.text("\n\r\0\x1b\x85\u2028", min_size=1, max_size=1),
    CONTROLS,
    CONTROLS,
    st.sampled_from(["sbatch", "serve", "model"]),
)
def test_no_value_becomes_another_line(tmp_path_factory, control, before, behind, place):
    value = before + control + behind
    config = json.loads(json.dumps(CONFIG))
    if place == "model":
        config["pairs"][0]["base_model"] = value
    else:
        config["slurm"][place] = {"time": value} if place == "sbatch" else value
    with pytest.raises(ConfigError, match="one line|cannot be read"):
        read_sweep(write(tmp_path_factory.mktemp("sweep"), config))


@given(
    st.dictionaries(st.sampled_from(["time", "gres", "comment", "requeue"]), st.booleans() | st.integers() | CONTROLS)
)
def test_every_value_stays_in_its_line(options):
    try:
        table = read_as(SlurmTable, {"sbatch": options}, "x.toml", ConfigError)
        check_directives("x.toml", table.sbatch)
    except ConfigError:
        return
    _, *lines = slurm._directives("#!/bin/sh\n#SBATCH --requeue\n", table.sbatch).splitlines()
    for name, value in options.items():
        words = [shlex.split(line[8:], comments=True) for line in lines if re.match(rf"#SBATCH --{name}(=|$)", line)]
        assert [len(each) for each in words] == [1] * (value is not False)


class TestTaskLists:
    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"label": "a", "options": ["--exp", "x"', "has no task 1 (JSONDecodeError"),
            ('{"label": "a"}', "line 1: 'options' is missing; submit the sweep again"),
            ('{"options": "--exp"}', 'line 1: options must be a list; it is "--exp"'),
            ('{"options": ["--exp", 3]}', "line 1: options[1] must be a text; it is 3"),
            ("[]", "line 1 must be a table of keys and values; it is []"),
            ("", "has no task 1"),
            ("[" * 100_000, "has no task 1 (RecursionError"),
        ],
    )
    def test_a_line_that_is_no_task(self, tmp_path, line, said):
        path = tmp_path / "tasks.jsonl"
        path.write_text(line)
        with pytest.raises(slurm.SlurmError) as error:
            slurm.read_task(path, 1)
        assert said in str(error.value) and str(path) in str(error.value)

    def test_numbers_that_no_line_has(self, tmp_path):
        path = tmp_path / "tasks.jsonl"
        path.write_text('{"label": "a", "options": ["--exp"], "new": 1}\n')
        assert slurm.read_task(path, 1) == ["--exp"]
        for number in (-1, 0, 2):
            with pytest.raises(slurm.SlurmError, match=f"has no task {number} .*it has 1 lines"):
                slurm.read_task(path, number)
