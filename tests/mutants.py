"""Wrong changes of the code, one at a time: do the tests notice? `make mutants`, not in CI.

    python tests/mutants.py --jobs 2               # all of mutants.txt
    python tests/mutants.py --area data training   # some chapters
    python tests/mutants.py --find "fix_si_pnorm"  # those whose text holds this

Each mutant of mutants.txt is a text of one file and a wrong one in its place. In a copy of the
tree the change is made and the tests beside it are run; one of them must fail (they must pass
without it: `make mutants` runs the suite first). A mutant whose text is no longer in its file stops
everything, and one with which no test can begin is named: the list is stale.

What is known is kept in .mutants.json, so that an interrupted run goes on: of a killed one until
its file changes, of one that survived until that or its tests do. Without the file all are tried.
"""

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".txt")
KNOWN = ROOT / ".mutants.json"
LIMIT = 300  # seconds of computing; a mutant that hangs has been noticed
SLOW_TO_IMPORT = ("torch", "sklearn.datasets", "scipy.stats", "scipy.sparse.linalg", "scipy.signal",
                  "matplotlib.pyplot", "PIL.Image", "hypothesis", "pytest", "torch._dynamo",
                  "torchvision.datasets")  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A wrong change of a file, the tests that must notice it, and why none can, where none can."""

    about: str
    file: str
    old: str
    new: str
    tests: str
    equivalent: str = ""

    @property
    def area(self) -> str:
        return self.file.split("/")[0].removesuffix(".py")

    def changed(self) -> str:
        """The file with the change. Raises SystemExit where the old text is not there once."""
        path = ROOT / self.file
        text = path.read_text() if path.exists() else ""
        if text.count(self.old) != 1:
            sys.exit(f"stale: {self.about}: {self.file} has {text.count(self.old)} of {self.old!r}")
        return text.replace(self.old, self.new)


def read_list(text: str) -> list[Mutant]:
    """The mutants of mutants.txt.

    `[file] tests` begins a file's; then for each: `# what is wrong`, lines of old text after "-",
    of new text after "+", and if need be `> other tests`, `= why no test can notice`.
    """
    found, file, tests, entry = [], "", "", {}

    def finish() -> None:
        if entry:
            lines = {kind: "\n".join(entry.get(kind, [])) for kind in "#-+>="}
            found.append(Mutant(lines["#"], file, lines["-"], lines["+"], lines[">"] or tests,
                                lines["="]))  # fmt: skip
            entry.clear()

    for line in [*text.splitlines(), ""]:
        if not line:
            finish()
        elif line[0] == "[":
            file, _, tests = line[1:].partition("] ")
        elif line[0] in "#-+>=":
            entry.setdefault(line[0], []).append(line[2:])
        else:
            sys.exit(f"{LIST.name}: what is {line!r}?")
    return found


def copy_tree(folder: Path) -> None:
    """The files that git tracks or would, without results/."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in done.stdout.splitlines():
        if (ROOT / name).is_file() and name.split("/")[0] != "results":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def fingerprint(mutant: Mutant, killed: bool) -> str:
    """Of a mutant and its file, for which alone a result holds; of a survivor also of its tests."""
    parts = [str(mutant).encode(), mutant.changed().encode()]
    if not killed:
        words = [word.split("::")[0] for word in shlex.split(mutant.tests)]
        parts += [(ROOT / word).read_bytes() for word in words if word.endswith(".py")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def run_tests(folder: Path, tests: str) -> None:
    """In a forked process: run tests in a copy of the tree, and exit with pytest's status."""
    import pytest

    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))
    signal.alarm(10 * LIMIT)
    os.chdir(folder)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.path[0] = str(folder)
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]))


def run_all(mutants: list[Mutant], jobs: int, slots: list[Path]):
    """Yield (mutant, exit status of its tests, seconds of computing), as they end."""
    todo, running, free = list(mutants), {}, list(slots[:jobs])
    while todo or running:
        if todo and free:
            mutant, slot = todo.pop(0), free.pop()
            (slot / mutant.file).write_text(mutant.changed())
            pid = os.fork()
            if pid == 0:
                run_tests(slot, mutant.tests)
            running[pid] = mutant, slot
            continue
        pid, status, used = os.wait4(-1, 0)
        mutant, slot = running.pop(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what its tests have started and not ended
        shutil.copy(ROOT / mutant.file, slot / mutant.file)
        free.append(slot)
        yield mutant, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--area", nargs="*", help="first part of the files' names")
    parser.add_argument("--find", default="", help="only mutants whose text holds this")
    options = parser.parse_args()
    mutants = [
        mutant
        for mutant in read_list(LIST.read_text())
        if (not options.area or mutant.area in options.area) and options.find in str(mutant)
    ]
    known = set(json.loads(KNOWN.read_text())) if KNOWN.exists() else set()
    prints = {
        mutant: [fingerprint(mutant, killed) for killed in (False, True)] for mutant in mutants
    }
    todo = [mutant for mutant in mutants if not known & {*prints[mutant]}]
    stale = False
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "agg"}
    sys.dont_write_bytecode = True
    for name in SLOW_TO_IMPORT:
        __import__(name)
    with tempfile.TemporaryDirectory() as folder:
        slots = [Path(folder) / str(i) for i in range(options.jobs)]
        for slot in slots:
            copy_tree(slot)
        for mutant, status, seconds in run_all(todo, options.jobs, slots):
            if status > 1:  # no tests, or none that could begin
                print(f"STALE: {mutant.about}: pytest {mutant.tests} ends with status {status}")
                stale = True
                continue
            known.add(prints[mutant][status != 0])
            KNOWN.write_text(json.dumps(sorted(known)))
            word = {0: "SURVIVES", 1: "killed"}.get(status, "killed (never ends)")
            print(f"{word:9} {seconds:4.0f} s  {mutant.file}: {mutant.about}", flush=True)
    mutants = [m for m in mutants if known & {*prints[m]}]
    alive = [m for m in mutants if prints[m][True] not in known]
    print(f"\n{'area':12}{'tried':>8}{'killed':>8}{'survive':>9}")
    tried, left = Counter(m.area for m in mutants), Counter(m.area for m in alive)
    for area, count in tried.items():
        print(f"{area:12}{count:8}{count - left[area]:8}{left[area]:9}")
    print(f"{'all':12}{len(mutants):8}{len(mutants) - len(alive):8}{len(alive):9}")
    for mutant in alive:
        print(f"survives: {mutant.file}: {mutant.about}: {mutant.equivalent or 'NOT NOTICED'}")
    return int(stale or any(not mutant.equivalent for mutant in alive))


if __name__ == "__main__":
    sys.exit(main())
