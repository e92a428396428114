"""Draw and tabulate the runs of an experiment, of a line, or single runs and branches.

python -m figures                                 # what there is to draw
python -m figures Experiments/demo                # periods.png in that folder, and a table
python -m figures Experiments/demo --branches     # with the branches off its runs
python -m figures RUN RUN/branch-100              # side by side
python -m figures RUN --epochs 100:200            # a part of training
python -m figures dynamics.csv                    # what monitor.py saved: dynamics.png beside it
python -m figures paths.npz                       # of measuring.paths: paths.png beside it
"""

import argparse
import sys
from pathlib import Path

from command_line import Option, Parser
from figures import paths, plt, report, save
from figures.dynamics import dynamics, read
from figures.report import WHOLE, listing
from utils import user_errors


def window(text: str) -> tuple[float, float]:
    """A:B, the first and the last epoch; either may be left out."""
    first, separator, last = text.partition(":")
    found = float(first or 0), float(last or "inf")
    if not separator or not 0 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text} is not A:B with epochs 0 <= A <= B")
    return found


OPTIONS = (
    Option("--branches", None, False, "draw the branches too that are below the folders"),
    Option("--epochs", window, WHOLE, "draw only the epochs A to B, as A:B, A: or :B"),
)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(OPTIONS, prog="python -m figures", description=__doc__)
    words = "experiments, lines, runs or branches to draw together (none: list the experiments)"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=words)
    options = parser.parse_args(argv)
    tables = [path for path in options.folders if path.suffix in (".csv", ".npz")]
    if tables:
        plt.switch_backend("agg")
        for path in tables:
            if path.suffix == ".npz":
                figure, words = paths.path_barriers(paths.read(path)), "paths"
            else:
                figure, words = dynamics(read(path))
            save(figure, path.with_suffix(".png"))
            print(f"{words}; figure: {path.with_suffix('.png')}")
    elif options.folders:
        plt.switch_backend("agg")
        report(options.folders, options.branches, options.epochs)
    else:
        print(listing(Path("Experiments")))
        print("\npython -m figures FOLDER draws one of them, or several folders side by side")


if __name__ == "__main__":
    with user_errors("figures"):
        sys.exit(main())
