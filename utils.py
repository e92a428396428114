"""Files that are replaced whole or not at all, locks, and errors that a user sees as one line."""

import contextlib
import difflib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PARTIAL = ".tmp"  # ending of a file that is being written


class UserError(Exception):
    """A mistake that its reader can mend: shown as one line, without a traceback."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM came: finish what must not be cut, and stop."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def end_quietly(program: str) -> None:
    """From now on end with one line at SIGINT or SIGTERM: for the seconds of importing torch.

    There is nothing to tidy up yet, and an exception would come out of an import as a traceback.
    Inside `user_errors` these signals raise `Interrupted` instead.
    """

    def end(number: int, frame: object) -> None:
        os.write(2, f"{program}: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn what a user can meet inside the block into one line on stderr and an exit status.

    A `UserError` ends with status 2, a failed write or read (a full disk, say) and want of memory
    with 1, a write to a pipe that nobody reads any more (`... | head`) without a word, and SIGINT
    and SIGTERM, which raise `Interrupted`, with 128 plus their number.
    """

    def interrupt(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut the tidying up
        raise Interrupted(number)

    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    else:
        before = {}
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python writes when it ends
        sys.exit(1)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"{program}: error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)
    except (RuntimeError, MemoryError) as error:
        if not _lacks_memory(error):
            raise
        reason = str(error).strip().split("\n")[0]
        print(f"{program}: error: not enough memory ({reason}): --batch_size and --num_channels "
              "decide how much is needed", file=sys.stderr)  # fmt: skip
        sys.exit(1)
    except Interrupted as stop:
        print(f"{program}: stopped by {signal.Signals(stop.number).name}", file=sys.stderr)
        sys.exit(128 + stop.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _lacks_memory(error: Exception) -> bool:
    """Whether it is for want of memory, in the ways of Python, of PyTorch on a GPU and on a CPU."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "can't allocate memory" in str(error)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file beside `path`, flush it to the disk and rename it to `path`.

    A reader sees the old file or the whole new one, whatever happens. If the writing fails, the
    old file stays and the partial one is removed. The folder is made if it is missing.

    Raises
    ------
    OSError : the disk is full, read-only, ...; `filename` is `path`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be a file
            partial.unlink()
        raise OSError(error.errno, f"{error.strerror}, so it was not written", str(path)) from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_litter(folder: Path) -> None:
    """Remove the partial files that killed processes of this machine have left in a folder."""
    for path in folder.glob(f".*{PARTIAL}"):
        host, pid = path.name.removesuffix(PARTIAL).rsplit(".", 2)[-2:]
        if host == socket.gethostname() and pid.isdigit() and not is_alive(int(pid)):
            path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def locked(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, with this process's number in it, for the time of the block.

    The kernel frees the lock of a process that dies, so a stale file stops nobody.

    Raises
    ------
    UserError : a living process holds it, for `patience` seconds; it is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # its owner has just removed it; there may be a new one
            break
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
        if time.monotonic() >= until:
            raise UserError(f"{what} is in use by {owner}: wait for it, or stop it")
        time.sleep(0.05)
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' with the known word closest to `word`, or '' if none is close."""
    lower = {k.lower(): k for k in known}
    beginning = [k for k in lower if k.startswith(word.lower())]
    close = beginning or difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def plural(count: int, noun: str, several: str | None = None) -> str:
    """'1 line', '2 lines'; `several` where that is not the noun and an s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def duration(seconds: float) -> str:
    """A length of time as a person would say it: '8 s', '12 min', '3.5 h', '2.1 days'."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 and name != "min" else f"{value:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"
