"""The papers' claims, measured: trains what is needed, and writes a table of what holds.

    python -m claims --list                       # every claim, what it takes, what is left
    python -m claims --claim cause --jobs 2       # one claim, or several: --claim cause,adam
    python -m claims --scale quick                # a few of them on digits, minutes: a look
    python -m claims --table                      # only the table, of what is on record

The rules (`claims.rules`) and settings (`experiments`) are fixed before the trials that they judge,
10 to 14 or later ones; trials 0 to 2 are for trying. Every line goes on where it was stopped.
Written after every claim: claims.json (verdicts), claims.md (the table), and of the claim
<claim>.json (the numbers behind the verdict, run by run) and a PNG. "code" is the commit at which
the rule first judged these trials; measured again by the same rule they keep it, and "measured_by"
is the newest.
"""

from utils import end_quietly  # first: what follows takes seconds

if __name__ == "__main__":
    end_quietly("claims")

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

import figures
import runs
from claims.table import (
    CLAIMS,
    environment,
    experiments_of,
    lines_behind,
    measure,
    seconds_left,
    table,
)
from command_line import Option, Parser, integer, one_of
from experiments import IMAGE_FOLDER
from experiments.lines import ROOT, Line, check_data, unfinished
from utils import UserError, duration, nearest, plural, user_errors, write_atomically


def names(text: str) -> list[str]:
    """Keys of claims, separated by commas."""
    known = [claim.key for claim in CLAIMS]
    for name in text.split(","):
        if name not in known:
            raise UserError(f"no claim {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return text.split(",")


OPTIONS = (
    Option("--claim", names, None, "claims to measure, separated by commas (default: all)"),
    Option("--scale", one_of(("quick", "demo", "paper")), "demo", "quick, demo (CPU), paper (GPU)"),
    Option("--trials", integer(1), None, "repetitions of every line (default: what a rule needs)"),
    Option("--first_trial", integer(0), None, "number of the first of them (default: the rule's)"),
    Option("--jobs", integer(1), 1, "lines that run at once"),
    Option("--results", str, None, "folder for table and figures (Experiments/claims_<scale>)"),
    Option("--list", None, False, "list claims, lines and time left, and run nothing"),
    Option("--table", None, False, "write the table of what is on record, and run nothing"),
    IMAGE_FOLDER,
)


def trials_of(claim, options) -> list[int]:
    count = options.trials or (1 if options.scale == "quick" else claim.trials)
    first = claim.first_trial if options.first_trial is None else options.first_trial
    first = 0 if options.scale == "quick" else first
    return [*range(first, first + count)]


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="claims", description=__doc__).parse_args(argv)
    folder = Path(options.results or ROOT / f"claims_{options.scale}")
    path = folder / "claims.json"
    record = read_record(path)
    if not options.table:
        asked = options.claim or [claim.key for claim in CLAIMS]
        todo = {}
        for claim in CLAIMS:
            settings = experiments_of(claim, options.scale, options.image_folder)
            if claim.key in asked and settings is not None:
                todo[claim] = settings
        if not todo:
            raise UserError(f"no such claim has a {options.scale} setting")
        left = what_is_left(todo, options)
        if options.list:
            return
        folder.mkdir(parents=True, exist_ok=True)
        check_data(left)
        figures.plt.switch_backend("agg")
        for claim, settings in todo.items():
            old = record["claims"].get(claim.key)
            record["claims"][claim.key] = on_record(claim, settings, options, folder, old)
            record |= {"scale": options.scale, **environment()}
            write_json(path, record)
            write_table(folder, record)
    else:
        write_table(folder, record)
    print(f"{folder / 'claims.md'}")


def read_record(path: Path) -> dict:
    """What is in claims.json; without claims where there is no such file.

    Raises
    ------
    UserError : it is damaged.
    """
    try:
        record = json.loads(path.read_bytes())
        whole = isinstance(record["claims"], dict)
    except (FileNotFoundError, NotADirectoryError):
        return {"claims": {}}
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: move it away, or name another folder with --results")
    return record


def what_is_left(todo: dict, options) -> list[Line]:
    """The lines not yet finished; a line on each claim, and the total, by the cost model."""
    every = []
    for claim, settings in todo.items():
        groups = lines_behind(settings, trials_of(claim, options))
        every += groups
        lines = sum(map(len, groups))
        left = duration(seconds_left(groups))
        print(f"{claim.key:15} {plural(lines, 'line'):>9}  {left:>8} left  {claim.statement}")
    print(f"in all {duration(seconds_left(every))} of one core left; branches come on top")
    return unfinished(line for group in every for line in group)


def on_record(claim, settings, options, folder: Path, old: dict | None) -> dict:
    """Measure one claim, save its numbers and its figure: what claims.json says of it.

    `old` is what it said before; None where nothing.
    """
    start, trials = time.time(), trials_of(claim, options)
    finding = measure(claim, settings, trials, options.jobs)
    if finding.figure is not None:
        figures.save(finding.figure, folder / f"{claim.key}.png")
    write_json(folder / f"{claim.key}.json", finding.numbers)
    print(f"\n{claim.source}: {claim.statement}\n    {finding.verdict}: {finding.measured}\n")
    version, seconds = runs.code_version() or "unknown", round(time.time() - start)
    again = old is not None and (old["rule"], old["trials"]) == (claim.rule, trials)
    return {
        "claim": claim.statement, "rule": claim.rule, "holds": finding.verdict,
        "measured": finding.measured, "trials": trials,
        "code": old["code"] if again else version, "measured_by": version,
        "seconds": max(seconds, old["seconds"]) if again else seconds,
        "figure": finding.figure is not None,
    }  # fmt: skip


def write_table(folder: Path, record: dict) -> None:
    write_atomically(folder / "claims.md", table(record["claims"]).encode())


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(path, text.encode())


def plain(value: Any) -> Any:
    """As JSON can hold it: NumPy's values as Python's, null for a number that is not finite."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    with user_errors("claims"):
        main()
