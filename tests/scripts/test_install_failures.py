"""scripts/install_failures.py, and what a user sees of installations that fail."""

import errno
import os
import re

import pytest
from installs import FULL, NO_MATCH, OFFLINE, Installer, write_program

from scripts import install
from scripts.install import main
from scripts.install_failures import reason


class TestFailures:
    @pytest.mark.parametrize(
        ("said", "message"),
        [
            (FULL, "the disk is full"),
            ("error: failed to write: No space left on device (os error 28)", "the disk is full"),
            ("[Errno 122] Disk quota exceeded", "the disk is full"),
            (OFFLINE, "the package index cannot be reached"),
            ("error: dns error\n  failed to lookup: Name or service not known", "the package index cannot be reached"),
            ("ReadTimeoutError: Read timed out.", "the package index cannot be reached"),
            ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificate is not trusted"),
            (NO_MATCH, "no version of x==1 fits this machine and this Python"),
            (
                "ERROR: Cannot install a because these package versions have conflicting\nERROR: ResolutionImpossible: for",
                "do not go",
            ),
            ("error: No solution found when resolving dependencies\n  cause: Because a", "do not go together"),
            (
                "WARNING: Retrying (Retry(total=4)) after connection broken by 'timed out'\nERROR: Failed building wheel",
                "Failed b",
            ),
            ("PermissionError: [Errno 13] Permission denied: '/x'", "cannot be written to"),
            ("Traceback\nERROR: a new kind of error\nand more", "a new kind of error"),
            ("words of another kind\nlast words", "last words"),
            ("", "no reason was given"),
        ],
    )
    def test_a_line_for_each(self, said, message):
        assert message in reason(said) and "\n" not in reason(said)

    def test_what_the_user_sees(self, monkeypatch, tmp_path, capsys):
        pip = Installer(monkeypatch, tmp_path, gpu=True, fails={"requirements.txt": OFFLINE})
        monkeypatch.setattr(install, "Environment", lambda *_: pip.environment)
        monkeypatch.setattr(pip.environment, "make", lambda: None)
        assert main(["requirements.txt"]) == 1
        assert re.fullmatch(
            r"installing requirements\.txt into \.venv \.\.\.\n"
            r"error: requirements\.txt cannot be installed: the package index cannot be reached; .*\. "
            r"The same command goes on from here \(pip's words: .*install\.log\)\n",
            capsys.readouterr().err,
        )
        pip.fails.clear()
        assert main(["requirements.txt"]) == 0

    def test_a_disk_that_is_full_from_the_start(self, monkeypatch, tmp_path, capsys):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/.venv.lock")

        monkeypatch.setattr(install, "alone", full)
        assert main(["requirements.txt"]) == 1
        assert capsys.readouterr().err.startswith("error: /x/.venv.lock: the disk is full; free some space")

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ("The virtual environment was not created because ensurepip is not\navailable.", "has no module venv"),
            ("/usr/bin/python3: No module named venv", "has no module venv"),
            ("Error: [Errno 28] No space left on device: '.venv'", "the disk is full"),
            (
                "Error: Command '[..., 'ensurepip']' returned non-zero exit status 1.",
                "non-zero exit status 1. Then the same",
            ),
        ],
    )
    def test_environments_that_cannot_be_made(self, said, message, checkout, monkeypatch, capsys):
        program = write_program(checkout / "python", f'echo "{said}"; exit 1')
        monkeypatch.setattr(install, "base_python", lambda: str(program))
        assert main(["requirements.txt"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
