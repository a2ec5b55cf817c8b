"""Tests of experiment/names.py: published names where they fit, and names that every file system takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment.names import LONGEST_NAME, fitting_name, last_part
from experiment.result_files import ResultFiles
from experiment.settings import RunSettings, SettingsError

NAMES = st.text(st.characters(exclude_characters="/\\\0"), min_size=1, max_size=300)
SHARD = "_shard999999of999999"


@given(NAMES, NAMES, st.integers(1, 10**6))
def test_a_name_fits_and_is_the_published_one_where_that_does(base, nudging, samples):
    before, models, after = "split_test_top_prob_0.4_thres_nudging_", f"{base}_{nudging}", f"_{samples}_samples"
    name = fitting_name(before, models, after)
    size = len(name.encode(errors="surrogatepass"))
    assert size <= LONGEST_NAME and name.startswith(before) and name.endswith(after)
    whole = before + models + after
    assert (name == whole) == (len(whole.encode(errors="surrogatepass")) <= LONGEST_NAME)
    assert name == fitting_name(before, models, after)
    if name != whole:
        assert name != fitting_name(before, models + "x", after) != fitting_name(before, models + "y", after)


def test_all_files_of_the_longest_name_can_be_made(tmp_path):
    name = fitting_name("split_test_", "ä" * 300, "_100_samples") + SHARD
    files = ResultFiles(tmp_path, name)
    with files.locked():
        files.open_log(list, print)
        files.append({"index": 0})
        files.close_log()
        files.write_run({})
        files.write_summary({})
    assert len(list(tmp_path.rglob("*_shard*.json*"))) == 3


def settings(**more) -> RunSettings:
    host = "http://localhost:1/v1"
    return RunSettings(exp="base_only", base_model="org/base", base_host=host, **more)


def test_what_a_user_can_shorten_is_said():
    assert settings(exp_prefix="x" * 150).result_name == f"split_test_{'x' * 150}_base_None_samples"
    with pytest.raises(SettingsError, match="--exp_prefix has 300 characters"):
        settings(exp_prefix="x" * 300)


def test_a_shard_has_the_name_of_the_whole():
    whole, shard = (settings(exp_prefix="x" * 180, shard=shard).result_name for shard in (None, "7/12"))
    assert shard == f"{whole}_shard7of12"


@pytest.mark.parametrize("name, last", [("org/model", "model"), ("C:\\models\\m\\", "m"), ("m", "m"), ("/", "")])
def test_last_part(name, last):
    assert last_part(name) == last


@pytest.mark.parametrize("split", ["../x", "a/b", "a\\b", "..", "."])
def test_splits_that_are_paths(split):
    with pytest.raises(SettingsError, match="--split is the name of a split such as test, no path"):
        settings(split=split)


def test_no_option_holds_nul():
    with pytest.raises(SettingsError, match="--exp_prefix holds a NUL character"):
        settings(exp_prefix="a\0b")


def test_folders_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings(data_dir="~", output_dir="~/out").result_folder == tmp_path / "out/gsm8k"
    for option in ("data_dir", "output_dir"):
        with pytest.raises(SettingsError, match=f"--{option} names a folder"):
            settings(**{option: ""})
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SettingsError, match="--data_dir cannot be read"):
        settings(data_dir="~")
