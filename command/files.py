"""Files that are written whole, by one run at a time."""

import contextlib
import errno
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from command.console import visible
from command.errors import UserError
from command.provenance import now

try:
    import fcntl
except ImportError:
    fcntl = None

# What flock says where a file system has no locks.
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}
# SoftFileLock takes the marker of a dead process over at its second look, a torn one when it has not changed for 2 s.
TAKE_OVER_SECONDS = 5
_LONGEST_NAME = 150


class ResultsError(UserError):
    """Result files that cannot be written, read or continued; the message says which, why and what to do."""


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: after a crash or a full disk there is the old file or the new one, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, since it may hold keys or passwords."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.chmod(path, 0o600)  # it may have been there
        file.write(text)


def saved_elsewhere(path: Path, text: str, what: str) -> str:
    """Save a text that cannot be written to its file in a folder for temporary files, or wherever it can be.

    Args:
        what: the text is of the file's content, for the sentence.

    Returns:
        Where it is, as half a sentence for an error message.
    """
    name = re.sub(r"[^\w.-]", "_", path.name, flags=re.ASCII)[-_LONGEST_NAME:]
    reasons = []
    for folder in (tempfile.gettempdir, Path.cwd, Path.home):
        try:
            handle, place = tempfile.mkstemp(dir=folder(), prefix="saved-", suffix=f"-{name}")
            try:
                with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                os.unlink(place)
                raise
            return f"{what} is saved in {place}"
        except (OSError, RuntimeError) as error:
            reasons.append(str(error))
    return f"{what} can be saved nowhere ({'; '.join(reasons)}) and is lost"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def exclusively(lock_file: Path, written: Path, option: str) -> Iterator[Callable[[], None]]:
    """Keep other runs from a file while the context lasts; the lock goes with the process, however that ends.

    The context's value takes the lock once more (ResultsError: another run has it), after its folder was deleted and made anew.

    Args:
        lock_file: its folder is made if need be.
        written, option: the file, and the option that chooses another place, for messages.

    Raises:
        ResultsError: another run is writing the file, or the folder cannot be made.
    """
    with contextlib.ExitStack() as held:

        def take() -> None:
            held.close()
            _take(held, lock_file, written, option)

        take()
        yield take


def _take(held: contextlib.ExitStack, lock_file: Path, written: Path, option: str) -> None:
    holder_file = lock_file.with_suffix(".holder")
    remedy = "wait for it or stop it"
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        if _has_flock(lock_file.parent):
            lock = filelock.FileLock(lock_file, timeout=0, thread_local=False)
        else:
            marker = lock_file.with_suffix(".softlock")
            lock = filelock.SoftFileLock(marker, timeout=TAKE_OVER_SECONDS, thread_local=False)
            remedy += f", or delete {marker} if it is gone"
        lock.acquire()
    except filelock.Timeout:
        raise ResultsError(f"{written} is being written by another run ({_holder(holder_file)}); {remedy}") from None
    except OSError as error:
        raise not_writable(written, error, option) from None
    held.callback(lock.release)
    held.callback(_unlink, holder_file)
    try:
        # The lock file's content is filelock's own business.
        holder_file.write_text(f"process {os.getpid()} on {platform.node()}, since {now()}")
    except OSError as error:
        held.close()
        raise not_writable(written, error, option) from None


def _unlink(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def _has_flock(folder: Path) -> bool:
    """Whether the kernel's locks work on a folder's file system: those of some clusters know none.

    filelock by itself goes over to a marker file for one of the errors at most, and not in every version.
    """
    if fcntl is None:
        return True  # Windows has locks of its own, which FileLock takes there
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return False
    return True


def _holder(file: Path) -> str:
    try:
        return visible(" ".join(file.read_text(errors="replace").split()[:8])) or "another process"
    except OSError:  # it has just begun or ended
        return "another process"


def not_writable(written: Path, error: OSError, option: str) -> ResultsError:
    """The error that a file cannot be written where it should be; `option` chooses another place."""
    return ResultsError(f"results cannot be written to {written.parent} ({error}); choose another {option}")
