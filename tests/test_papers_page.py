"""docs/papers.md names every full-size experiment, and nothing that is not there."""

import re

from conftest import ROOT

import runs
from experiments import EXPERIMENTS

PAGE = (ROOT / "docs" / "papers.md").read_text()
ROWS = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ")]
FIGURES = [row for row in ROWS if len(row) == 5]
FULL = {name for name in EXPERIMENTS if not re.search("^demo|_(cpu|quarter)$", name)}


def named(cells):
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_full_size_experiment_has_a_row():
    assert len(FIGURES) > 25 and named(row[1] for row in FIGURES) == FULL


def test_cpu_sized_results_are_of_experiments():
    small = named(row[2] for row in FIGURES)
    assert small <= EXPERIMENTS.keys() and len(small) >= 10
    done = named(row[2] for row in FIGURES if "not run yet" not in row[2]) - {"demo_regimes"}
    assert all((ROOT / "results" / name).is_dir() for name in done)


def test_the_list_says_which_figure_an_experiment_is():
    for name, experiment in EXPERIMENTS.items():
        if not name.startswith(("demo", "figure2", "three_regimes")):  # the name says it
            assert re.match(r"P[12], |new: ", experiment.shows), name


def test_periods_on_the_page_are_those_of_the_results():
    """Of the table of P1's Figure 2: a row for each rate, a column for each result."""
    found = 0
    for cells in (row for row in ROWS if len(row) == 4):
        for name, cell in zip(("figure2_quarter", "figure2_cpu"), cells[2:], strict=True):
            for run in runs.find_runs(ROOT / "results" / name):
                if f"{run.config['lr_init']:g}" == cells[0].strip():
                    assert re.search(rf"\b{len(run.periods)} periods?\b", cell)
                    assert "CV" not in cell or f", CV {run.periods.cv:.2f}" in cell
                    found += 1
    assert found == 5


def test_regimes_on_the_page_are_those_of_the_results():
    names = {run.config["elr"]: run.regime.name
             for run in runs.find_runs(ROOT / "results" / "three_regimes_cpu")}  # fmt: skip
    for cells in (row for row in ROWS if len(row) == 3 and row[0].strip()[0] in "0123456789"):
        regime = {"converge": "convergence", "hovers": "chaotic equilibrium", "stay": "divergence"}
        (expected,) = (name for word, name in regime.items() if word in cells[2])
        for elr in map(float, cells[0].split(",")):
            assert names.pop(elr) in (expected, None), elr
    assert not names
