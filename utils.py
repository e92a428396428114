"""Atomic writes, locks, errors shown in one line, and the wording of numbers and names."""

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

PARTIAL = ".tmp"  # suffix of files that are being written


class UserError(Exception):
    """A mistake that the user can correct: shown as one line, without a traceback."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived: leave the files whole, and stop."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def end_quietly(program: str) -> None:
    """From now on, end with one line at SIGINT or SIGTERM: for the seconds in which torch is
    imported. Later, inside `user_errors`, these signals raise `Interrupted` instead."""

    def end(number: int, frame: object) -> None:
        os.write(2, f"{program}: stopped by {signal.Signals(number).name}\n".encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn errors that are not the program's fault into one line on stderr and an exit status.

    2: `UserError`, or a path leads through a file as if it were a folder. 1: a file cannot be read
    or written for another reason, memory is exhausted, torch.compile fails, or nobody reads the
    output any more (`... | head`; without a message). 128 plus the number: SIGINT and SIGTERM,
    which raise `Interrupted` inside the block.
    """

    def interrupt(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        raise Interrupted(number)

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # where it is no file of text
            stream.reconfigure(errors="replace")  # ρ, where the locale has no such letter
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout when it ends
        sys.exit(1)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"{program}: error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(2 if isinstance(error, NotADirectoryError | FileExistsError) else 1)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().split("\n")[0]
        if lacks_memory(error):
            what = (
                f"not enough memory ({reason}): a smaller --batch_size or --num_channels needs less"
            )
        elif "home directory" in str(error):  # Path.expanduser of ~nobody
            what = reason
        elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            what = f"--compile fails ({reason}): leave it out, or see what torch.compile needs"
        else:
            raise
        print(f"{program}: error: {what}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stop:
        print(f"{program}: stopped by {signal.Signals(stop.number).name}", file=sys.stderr)
        sys.exit(128 + stop.number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def lacks_memory(error: BaseException) -> bool:
    """Whether memory is exhausted, as Python, PyTorch on a GPU and PyTorch on a CPU report it."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or "can't allocate memory" in str(error)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write to a file next to `path`, flush it to the disk, and rename it to `path`, so that a
    reader sees the old file or the whole new one; of a link, the file that it leads to. The folder
    is created if it is missing. Raises OSError, with that file as its `filename`, if the disk is
    full, read-only, ..."""
    path = Path(os.path.realpath(path))  # a link stays one
    partial = path.with_name(f".{path.name}.{_host()}.{os.getpid()}{PARTIAL}")
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


def _host() -> str:
    """The name of this machine, as a part of a file's name between dots."""
    return socket.gethostname().replace(".", "-")


def remove_litter(folder: Path) -> None:
    """Remove the partial files that killed processes on this machine left in a folder."""
    for path in folder.glob(f".*{PARTIAL}"):
        host, pid = path.name.removesuffix(PARTIAL).rsplit(".", 2)[-2:]
        if host == _host() and pid.isdigit() and not is_alive(int(pid)):
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
    """Hold the lock file `path`, which names this process, while the block runs. The kernel frees
    the lock when its process dies. Raises UserError, which names the owner, if another process
    still holds it after `patience` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # its owner has just removed it; there may be a new file
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
    """' (did you mean X?)' with the known word closest to `word`; '' if none is close."""
    lower = {k.lower(): k for k in known}
    beginning = sorted((k for k in lower if k.startswith(word.lower())), key=len)
    close = beginning or difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def plural(count: int, noun: str, several: str | None = None) -> str:
    """'1 line', '2 lines'; `several` is the plural if it is not the noun with an s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def duration(seconds: float) -> str:
    """A duration in words: '8.0 s', '12 min', '3.5 h', '2.1 days'."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 and name != "min" else f"{value:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"
