"""Paths as a person writes them, and texts as a person has saved them."""

import os
import stat
from pathlib import Path

_BOM = b"\xef\xbb\xbf"
_PIPES = ("/dev/", "/proc/")  # of a shell: <(...), standard input


def expanded(text: str) -> str:
    """A path in which a leading ~ or ~user is the home folder; without such a user it stays as it is."""
    return os.path.expanduser(text)


def user_path(text: str) -> Path:
    """The path that a person means; the type of options that take one."""
    return Path(expanded(text))


def is_folder(text: str | Path) -> bool:
    """Whether there is such a folder; no for a name that no folder can have, or that must not be looked at."""
    return os.path.isdir(expanded(str(text)))


def is_file(text: str | Path) -> bool:
    """Whether there is such a file; no for a name that no file can have, or that must not be looked at."""
    return os.path.isfile(expanded(str(text)))


def why_not_writable(folder: Path) -> str:
    """Why nothing can be written below a folder that may still have to be made; "" where it can."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        return f"{place} is no folder"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written to"


def decoded(data: bytes, first_line: int = 1) -> str:
    """The text of bytes in UTF-8, without the mark that some programs put before it.

    Args:
        first_line: the number of their first line, for messages.

    Raises:
        ValueError: they are in another encoding; UTF-16 and UTF-32 are told by name.
    """
    zeros = data[:4].count(0)  # of four bytes, where nobody has put a mark before the text
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or 0 < zeros < 4:
        kind = "UTF-32" if zeros == 3 or data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") else "UTF-16"
        raise ValueError(f"it is in {kind}; save it as UTF-8")
    data = data.removeprefix(_BOM)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first_line
        raise ValueError(f"line {line} is no text in UTF-8: byte 0x{data[error.start]:02x}; save it as UTF-8") from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without the mark before it.

    Raises:
        OSError: it cannot be read, or is none: reading from a pipe in its place would wait for ever.
        ValueError: see `decoded`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode) and not (path.is_dir() or str(path).startswith(_PIPES)):
        raise OSError("it is no file but a pipe or a device")
    return decoded(path.read_bytes())
