"""Files that are replaced whole or not at all, and errors that a user sees as one line."""

import contextlib
import difflib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO


class UserError(Exception):
    """A mistake that its reader can mend: shown as one line, without a traceback."""


@contextlib.contextmanager
def user_errors(program: str) -> Iterator[None]:
    """Turn a `UserError` inside the block into one line on stderr and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file beside `path` for writing and rename it to `path` when the block succeeds.

    A reader sees the old file or the whole new one. If the block raises, the old file stays
    and the partial one is removed. The folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    partial = Path(name)
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's file would be readable by its owner alone
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' with the known word closest to `word`, or '' if none is close."""
    lower = {k.lower(): k for k in known}
    beginning = [k for k in lower if k.startswith(word.lower())]
    close = beginning or difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def duration(seconds: float) -> str:
    """A length of time as a person would say it: '8 s', '12 min', '3.5 h', '2.1 days'."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 and name != "min" else f"{value:.0f} {name}"
    return f"{seconds / 86_400:.1f} days"
