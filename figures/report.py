"""The figures and tables of a folder of runs."""

from pathlib import Path

from figures.papers import figure2, three_regimes
from figures.regimes import diagram_of_runs
from figures.style import save
from figures.summaries import NO_RUNS, on_sphere
from figures.tables import period_table, table
from runs import find_runs
from utils import UserError


def report(folder: Path) -> None:
    """Save the figures of the runs below a folder, print their table; of one run its periods."""
    runs = find_runs(folder)
    if not runs:
        raise UserError(NO_RUNS.format(root=folder))
    figures = {"figure2.png": figure2}
    if on_sphere(runs):
        figures = {"three_regimes.png": three_regimes, "regime_diagram.png": diagram_of_runs}
    for name, draw in figures.items():
        save(draw(runs), folder / name)
    if len(runs) == 1 and not on_sphere(runs):
        print(f"\n{period_table(runs[0])}")
    print(f"\n{table(runs)}\n\nfigure: " + ", ".join(str(folder / name) for name in figures))
