"""The papers' claims, measured: trains what is needed, and writes estimates and verdicts.

    python -m claims --list                            # every claim: its state, and what it costs
    python -m claims --claim cause --image_folder DIR  # one claim, or several: --claim cause,adam
    python -m claims --quick                           # a few of them on digits, minutes: a look
    python -m claims --table                           # the tables, of what is on record

Margins, settings and numbers of seeds are in the functions of this package, and were fixed before
trials 40 and on were run, which alone are judged (with one exception, see docs/claims.md). Every
run goes on where it was stopped. Written after every claim: claims.json (verdicts and estimates),
and <claim>.json and <claim>.png (the rows behind them, and the seeds beside interval and margin).
With --results results/claims, README.md and docs/claims.md follow.
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
from claims.claim import CLAIMS, FIRST_TRIAL, Claim, NotMeasurable
from claims.statistics import Estimate, verdict_of
from experiments import Experiment
from experiments.cost import total
from experiments.lines import ROOT, Line, check_data, is_finished, lines_of, unfinished
from experiments.local import run_here
from options import Options, integer, not_empty, one_of, option, parse
from utils import UserError, duration, locked, plural, user_errors, write_atomically

# What is done first says most for its cost.
ORDER = (
    "toy", "cause", "consistent", "destabilisation", "angles", "sharpness", "adam", "each",
    "full_batch", "norms", "norm_in_chaos", "ordinary", "practice", "resnet18", "features", "range",
    "regimes", "minima", "turning", "optima", "frequency", "length", "improvement",
)  # fmt: skip
QUICK = ("adam", "full_batch", "sharpness")  # under four minutes on two cores
QUICK_SEEDS = 2  # trials 0 and 1
PATIENCE = 60  # seconds to wait for another process that is writing the record
RECORD = Path("results/claims")  # whose tables README.md and docs/claims.md show

Groups = Sequence[tuple[Experiment, Sequence[Line]]]  # the settings of a claim and their lines


def known_claims(text: str) -> None:
    """Keys of claims, separated by commas."""
    for key in text.split(","):
        one_of(ORDER)(key)


@dataclass(frozen=True)
class Command(Options):
    """Which claims to measure, and how."""

    claim: str | None = option(None, "which, separated by commas (None: all)", known_claims)
    quick: bool = option(False, "a few claims on digits in minutes, two seeds: decides nothing")
    seeds: int | None = option(None, "fewer seeds than designed: a look, not judged", integer(1))
    jobs: int = option(1, "runs that are trained at once", integer(1))
    results: str | None = option(
        None, "folder of the record (None: Experiments/claims[_quick])", not_empty
    )
    list: bool = option(False, "list claims, their state and cost, and run nothing")
    table: bool = option(False, "write the tables of what is on record, and run nothing")
    image_folder: str | None = option(
        None, "ImageFolder to train on in place of CIFAR-10", not_empty
    )


def main(argv: list[str] | None = None) -> None:
    options, given = parse(Command, argv, "claims", __doc__)
    default = ROOT / ("claims_quick" if options.quick else "claims")
    folder = Path(options.results or default).expanduser()
    if options.list and options.table:
        raise UserError("--list shows what is left to run, --table what is on record: choose one")
    idle = sorted(given & {"claim", "seeds", "jobs", "image_folder"})
    if options.table and idle:
        raise UserError(f"--{idle[0]} is of no use to --table, which shows all that is on record")
    if options.table and not (folder / "claims.json").exists():
        raise UserError(f"{folder} has no claims.json to show")
    record = table.read(folder / "claims.json")
    asked = options.claim.split(",") if options.claim else QUICK if options.quick else ORDER
    chosen = [CLAIMS[key] for key in ORDER if key in asked]
    long = [claim.key for claim in chosen if not all(s.quick for s in claim.settings)]
    if options.quick and long:
        raise UserError(f"{long[0]} has no quick setting, unlike {', '.join(QUICK)}")
    if not options.table:
        groups = {claim.key: lines_behind(claim, options) for claim in chosen}
        list_claims(chosen, groups, record)
        if options.list:
            return
        for claim in chosen if options.quick or options.seeds else ():
            if record.get(claim.key, {}).get("verdict", table.NOT_JUDGED) != table.NOT_JUDGED:
                raise UserError(
                    f"{folder} has a verdict on {claim.key}, which fewer seeds do not replace: "
                    "name another folder with --results"
                )
        check_data(unfinished(line for each in groups.values() for line in lines_in(each)))
    folder.mkdir(parents=True, exist_ok=True)
    if options.table:
        write(folder, options, {})
    else:
        figures.plt.switch_backend("agg")
        for claim in chosen:
            before = record.get(claim.key, {})
            entry = measure(claim, groups[claim.key], options, folder, before)
            write(folder, options, {claim.key: entry})
    print(folder / "claims.md")


def write(folder: Path, options: Command, new: dict[str, dict]) -> None:
    """Add entries to the record, to which another process may have added, and write its tables."""
    with locked(folder / runs.LOCK, str(folder), patience=PATIENCE):
        record = table.read(folder / "claims.json") | new
        if new:
            write_json(folder / "claims.json", {"claims": record})
        shown = table.page_table(record, table.read(folder / "exploratory.json"), "{}.png")
        if options.quick:
            seeds = plural(min(QUICK_SEEDS, options.seeds or QUICK_SEEDS), "seed")
            shown = f"A quick subset: {seeds}, short runs. It decides nothing.\n\n{shown}"
        write_atomically(folder / "claims.md", shown.encode())
        if folder.resolve() == RECORD.resolve():
            for page, text in table.pages(folder).items():
                write_atomically(page, text.encode())


def lines_behind(claim: Claim, options: Command) -> Groups:
    """The settings and their lines, in the trials that are measured."""
    groups = []
    for setting, seeds in zip(claim.settings, claim.seeds, strict=True):
        first = FIRST_TRIAL
        if options.quick:
            setting, seeds, first = setting.at_quick(), QUICK_SEEDS, 0
        if setting.options.dataset != "Digits":
            setting = setting.on_folder(options.image_folder)
        trials = range(first, first + min(seeds, options.seeds or seeds))
        groups.append((setting, lines_of(setting.in_trials(trials))))
    return groups


def lines_in(groups: Groups) -> list[Line]:
    return [line for _, lines in groups for line in lines]


def list_claims(chosen: Sequence[Claim], groups: dict[str, Groups], record: dict) -> None:
    """A line on each claim: what is on record, what is trained, what is left to train."""
    todo: dict[Path, Line] = {}
    for claim in chosen:
        every = lines_in(groups[claim.key])
        left = {line.folder: line for line in every if is_left(line)}
        state = record.get(claim.key, {}).get("verdict", table.NOT_RUN)
        print(
            f"{claim.key:15} {state:12} {len(every) - len(left):3} of {plural(len(every), 'run')}, "
            f"{time_left(left)} left; planned {claim.hours:g} core-hours  {claim.statement}"
        )
        todo |= left
    print(f"in all {time_left(todo)} of one core left; branches come on top")


def is_left(line: Line) -> bool:
    """Whether a line still has to be trained. A run with other options in its folder is not it."""
    try:
        return not is_finished(line)
    except UserError:
        return True


def time_left(lines: dict[Path, Line]) -> str:
    """How long what is left of these lines takes on a CPU core, as far as its speed is known."""
    seconds = total([*lines.values()], left=True).seconds if lines else 0.0
    return "unknown" if seconds is None else duration(seconds)


def measure(claim: Claim, groups: Groups, options: Command, folder: Path, old: dict) -> dict:
    """Train what is not trained yet, measure a claim, save its rows and figure, and return its
    entry. Raises UserError if a run failed."""
    start, reason, runs_of = time.time(), "", []
    for setting, lines in groups:
        if run_here(setting, lines, options.jobs) == 1:  # a run that diverged is a result
            raise UserError(f"a run of {setting.name} failed, see above")
        runs_of.append([runs.read_run(line.folder) for line in lines])
    try:
        estimates, rows = claim.measure(*runs_of)
    except NotMeasurable as error:
        estimates, rows, reason = [], [], f"not measurable: {error}"
    judged = options.seeds is None and not options.quick
    entry = plain({
        "verdict": verdict_of(estimates) if judged else table.NOT_JUDGED, "reason": reason,
        "estimates": [*map(as_entry, estimates)], "design": claim.design,
        "trials": sorted({line.options.trial for line in lines_in(groups)}),
        "code": runs.code_version() or "unknown", "seconds": round(time.time() - start),
    })  # fmt: skip
    if (old.get("design"), old.get("trials")) == (entry["design"], entry["trials"]):
        entry["code"] = old["code"]  # the commit that first judged these trials by this design
        entry["seconds"] = max(entry["seconds"], old["seconds"])
    write_json(folder / f"{claim.key}.json", {"rows": plain(rows), **entry})
    if estimates:
        drawn = figures.estimates(estimates, claim.statement)
        figures.save(drawn, folder / f"{claim.key}.png")
    words = reason or table.found(entry["estimates"])
    print(f"\n{claim.paper}: {claim.statement}\n    {entry['verdict']}: {words}\n")
    return entry


def as_entry(estimate: Estimate) -> dict[str, Any]:
    return {
        "name": estimate.name, "value": estimate.value, "low": estimate.low, "high": estimate.high,
        "inside": estimate.inside, "verdict": estimate.verdict,
        "seeds": [round(float(seed), 6) for seed in estimate.seeds][:32],
    }  # fmt: skip


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    # Lists of numbers on one line
    text = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    write_atomically(path, text.encode())


def plain(value: Any) -> Any:
    """As JSON can hold it: a run as its folder, NumPy's values as Python's, null for NaN."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, runs.Run):
        return value.folder.as_posix()
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    with user_errors("claims"):
        main()
