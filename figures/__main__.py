"""Draw and tabulate the runs of an experiment, of a line, or single runs and branches.

python -m figures                                 # what there is to draw
python -m figures Experiments/demo                # periods.png in that folder, and a table
python -m figures Experiments/demo --branches     # with the branches off its runs
python -m figures RUN RUN/branch-100              # side by side
"""

import sys
from pathlib import Path

from figures import plt, report
from figures.report import listing
from options import Option, Parser
from utils import user_errors

OPTIONS = (Option("--branches", None, False, "draw the branches too that are below the folders"),)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(OPTIONS, prog="python -m figures", description=__doc__.split("\n")[0])
    words = "experiments, lines, runs or branches to draw together (none: list the experiments)"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=words)
    options = parser.parse_args(argv)
    if options.folders:
        plt.switch_backend("agg")
        report(options.folders, options.branches)
    else:
        print(listing(Path("Experiments")))
        print("\npython -m figures FOLDER draws one of them, or several folders side by side")


if __name__ == "__main__":
    with user_errors("figures"):
        sys.exit(main())
