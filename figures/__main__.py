"""Draw and tabulate the runs of an experiment, of a line, or single runs and branches.

python -m figures                                 # what there is to draw
python -m figures Experiments/demo                # periods.png in that folder, and a table
python -m figures Experiments/demo --branches     # with the branches off its runs
python -m figures RUN RUN/branch-100              # side by side
python -m figures RUN --epochs 100:200            # a part of training
python -m figures dynamics.csv                    # what monitor.py saved: dynamics.png beside it
python -m figures paths.npz                       # of measuring.paths: paths.png beside it
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from figures import paths, plt, report, save
from figures.dynamics import dynamics, read
from figures.report import listing
from options import Options, option, parse
from utils import UserError, user_errors


def epochs_of(text: str) -> tuple[float, float]:
    """The first and the last epoch of A:B; either may be left out. Raises ValueError otherwise."""
    try:
        first, last = text.split(":")
        window = float(first or 0), float(last or "inf")
        if not 0 <= window[0] <= window[1]:
            raise ValueError
    except ValueError:
        raise ValueError(f"{text} is not A:B with epochs 0 <= A <= B") from None
    return window


@dataclass(frozen=True)
class Draw(Options):
    """What to draw."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = option(  # noqa: RUF009
        (), "experiments, lines, runs or branches to draw together (none: list the experiments)"
    )
    branches: bool = option(False, "draw the branches below the folders too")
    epochs: str = option(":", "draw only the epochs A to B, as A:B, A: or :B", epochs_of)


def main(argv: list[str] | None = None) -> None:
    options, _ = parse(Draw, argv, "python -m figures", __doc__)
    if not options.folders:
        print(listing(Path("Experiments")))
        print("\npython -m figures FOLDER draws one of them, or several folders side by side")
        return
    plt.switch_backend("agg")
    tables = [path for path in options.folders if path.suffix in (".csv", ".npz")]
    folders = [path for path in options.folders if path not in tables]
    if not folders and (options.branches or options.epochs != ":"):
        raise UserError(f"--branches and --epochs choose from runs, and {tables[0]} is a table")
    for path in tables:
        if path.suffix == ".npz":
            figure, words = paths.path_barriers(paths.read(path)), "paths"
        else:
            figure, words = dynamics(read(path))
        save(figure, path.with_suffix(".png"))
        print(f"{words}; figure: {path.with_suffix('.png')}")
    if folders:
        report(folders, options.branches, epochs_of(options.epochs))


if __name__ == "__main__":
    with user_errors("figures"):
        sys.exit(main())
