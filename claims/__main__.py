"""The papers' claims, measured: trains what is needed, and writes estimates and verdicts.

    python -m claims --list                            # every claim: its state, and what it costs
    python -m claims --claim cause --image_folder DIR  # one claim, or several: --claim cause,adam
    python -m claims --quick                           # a few of them on digits, minutes: a look
    python -m claims --table                           # the tables, of what is on record

Margins, settings and numbers of seeds are in the functions of this package, and were fixed before
trials 40 and on were run, which alone are judged. Every run goes on where it was stopped. Written
after every claim: claims.json (verdicts and estimates), and <claim>.json and <claim>.png (the rows
behind them, and the seeds beside interval and margin). With --results results/claims, README.md and
docs/claims.md follow.
"""

from utils import end_quietly  # first: what follows takes seconds

if __name__ == "__main__":
    end_quietly("claims")

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import figures
import runs
from claims import mechanism, minima, periodic, sphere, table  # noqa: F401
from claims.claim import CLAIMS, FIRST_TRIAL, Claim, Finding, NotMeasurable, at_quick
from experiments.cost import total
from experiments.lines import ROOT, Line, check_data, is_finished, lines_of, run_of, unfinished
from experiments.local import run_here
from options import Options, integer, option, parse
from utils import UserError, duration, nearest, plural, user_errors, write_atomically

# What is done first says most for its cost.
ORDER = (
    "toy", "cause", "consistent", "destabilisation", "angles", "sharpness", "adam", "each",
    "full_batch", "norms", "norm_in_chaos", "ordinary", "practice", "resnet18", "features", "range",
    "regimes", "minima", "turning", "optima", "frequency", "length", "improvement",
)  # fmt: skip
QUICK = ("toy", "adam", "full_batch", "sharpness")  # under four minutes on two cores
RECORD = Path("results/claims")  # whose tables README.md and docs/claims.md show


def names(text: str) -> list[str]:
    """Keys of claims, separated by commas.

    Raises
    ------
    ValueError : there is no such claim.
    """
    for name in text.split(","):
        if name not in ORDER:
            known = ", ".join(sorted(ORDER))
            raise ValueError(f"no claim {name!r}{nearest(name, ORDER)}; known: {known}")
    return text.split(",")


@dataclass(frozen=True)
class Command(Options):
    """Which claims to measure, and how."""

    claim: str | None = option(None, "claims to measure, separated by commas (default: all)", names)
    quick: bool = option(False, "a few claims on digits in minutes, two seeds: decides nothing")
    seeds: int | None = option(
        None, "fewer seeds than designed: a look, which is not judged", integer(1)
    )
    jobs: int = option(1, "runs that are trained at once", integer(1))
    results: str | None = option(
        None, "folder of the record (Experiments/claims, .../claims_quick)"
    )
    list: bool = option(False, "list claims, their state and cost, and run nothing")
    table: bool = option(False, "write the tables of what is on record, and run nothing")
    image_folder: str | None = option(
        None, "take this ImageFolder's images instead of a setting's data set"
    )


def lines_behind(claim: Claim, options) -> list[list[Line]]:
    """The lines of each setting, in the trials that are measured."""
    found = []
    for setting, seeds in zip(claim.settings, claim.seeds, strict=True):
        count = min(seeds, options.seeds or seeds)
        first = 0 if options.quick else FIRST_TRIAL
        on_images = setting.options.dataset != "Digits"
        setting = setting.on_folder(options.image_folder) if on_images else setting
        found.append(lines_of(setting.in_trials(range(first, first + count))))
    return found


def main(argv: list[str] | None = None) -> None:
    options, _ = parse(Command, argv, "claims", __doc__)
    folder = Path(options.results or ROOT / ("claims_quick" if options.quick else "claims"))
    record = table.read(folder / "claims.json")
    asked = names(options.claim) if options.claim else QUICK if options.quick else ORDER
    chosen = [claim for claim in sorted(CLAIMS, key=lambda c: ORDER.index(c.key))
              if claim.key in asked]  # fmt: skip
    if options.quick:
        chosen = [at_quick(claim) for claim in chosen if claim.is_quick]
    if not chosen:
        raise UserError("none of these claims has a quick setting")
    if not options.table:
        groups = {claim.key: lines_behind(claim, options) for claim in chosen}
        list_claims(chosen, groups, record)
        if options.list:
            return
        folder.mkdir(parents=True, exist_ok=True)
        every = [line for lines in groups.values() for group in lines for line in group]
        check_data(unfinished(every))
        figures.plt.switch_backend("agg")
        for claim in chosen:
            record[claim.key] = measure(claim, groups[claim.key], options, folder, record)
            write_json(folder / "claims.json", {"claims": record})
    shown = table.page_table(record, table.read(folder / "exploratory.json"), "{}.png")
    if options.quick:
        shown = f"A quick subset: two seeds, short runs. It decides nothing.\n\n{shown}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "claims.md", shown.encode())
    if folder == RECORD:
        table.write_pages(folder, Path())
    print(folder / "claims.md")


def list_claims(chosen: Sequence[Claim], groups: dict, record: dict) -> None:
    """A line on each claim: what is on record, what is trained, what is left to train."""
    todo: dict[Path, Line] = {}
    for claim in chosen:
        every = [line for group in groups[claim.key] for line in group]
        left = {line.folder: line for line in every if not is_finished(line)}
        state = record.get(claim.key, {}).get("verdict", table.NOT_RUN)
        print(
            f"{claim.key:15} {state:12} {len(every) - len(left):3} of {plural(len(every), 'run')}, "
            f"{time_left(left)} left; planned {claim.hours:g} core-hours  {claim.statement}"
        )
        todo |= left
    print(f"in all {time_left(todo)} of one core left; branches come on top")


def time_left(lines: dict[Path, Line]) -> str:
    """What is left of these lines takes, on a core of a CPU, by what is known of its speed."""
    seconds = total([*lines.values()], left=True).seconds if lines else 0.0
    return "unknown" if seconds is None else duration(seconds)


def measure(claim: Claim, groups, options, folder: Path, record: dict) -> dict[str, Any]:
    """Train what is not trained yet, measure a claim, save its rows and figure: its entry.

    Raises
    ------
    UserError : a run failed.
    """
    start, found = time.time(), []
    for setting, lines in zip(claim.settings, groups, strict=True):
        if run_here(setting, lines, options.jobs) == 1:  # a run that diverged is a result
            raise UserError(f"a run of {setting.name} failed, see above")
        found.append([run_of(line) for line in lines])
    reason = ""
    try:
        finding = claim.measure(*found)
    except NotMeasurable as error:
        finding, reason = Finding((), []), f"not measurable: {error}"
    whole = options.seeds is None and not options.quick
    verdict = (finding.verdict if not reason else "undecided") if whole else "not judged"
    entry = {
        "verdict": verdict, "reason": reason, "estimates": [*map(as_entry, finding.estimates)],
        "design": claim.design, "trials": trials_of(groups),
        "code": runs.code_version() or "unknown", "seconds": round(time.time() - start),
    }  # fmt: skip
    old = record.get(claim.key, {})
    if (old.get("design"), old.get("trials")) == (entry["design"], entry["trials"]):
        entry["code"] = old["code"]  # the commit that first judged these trials by this design
        entry["seconds"] = max(entry["seconds"], old["seconds"])
    write_json(folder / f"{claim.key}.json", {"rows": finding.rows, **entry})
    if finding.estimates:
        drawn = figures.estimates(finding.estimates, claim.statement)
        figures.save(drawn, folder / f"{claim.key}.png")
    words = reason or table.found(entry["estimates"])
    print(f"\n{claim.paper}: {claim.statement}\n    {verdict}: {words}\n")
    return entry


def trials_of(groups: Sequence[Sequence[Line]]) -> list[int]:
    return sorted({line.options.trial for group in groups for line in group})


def as_entry(estimate) -> dict[str, Any]:
    interval = estimate.interval
    numbers = {"value": interval.value, "low": interval.low, "high": interval.high}
    return plain({
        "name": estimate.name, **numbers, "inside": estimate.inside, "verdict": estimate.verdict,
        "seeds": [round(float(seed), 6) for seed in estimate.seeds][:32],
    })  # fmt: skip


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
    # Lists of numbers on one line
    text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    write_atomically(path, text.encode())


def plain(value: Any) -> Any:
    """As JSON can hold it: NumPy's values as Python's, null for a number that is not finite."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | range):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    with user_errors("claims"):
        main()
