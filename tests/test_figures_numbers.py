"""Every drawn number is the one that it claims to be: the data of what is drawn, against the files.

The runs are made: every column, epoch and array of `distinct` differs, so that nothing can stand
for anything else.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import LOGGED, SI_AT, TEST_AT, TRAIN_AT, chaos, trace_of
from matplotlib.figure import Figure

import figures
import minimal
from figures import dynamics, metrics
from figures.curves import draw_seeds
from figures.regimes import regime_diagram
from runs import Curve, find_runs, write_arrays
from theory.dynamics import next_norm
from theory.periods import Periods, find_periods
from theory.regimes import REGIMES, Regime


def points(line):
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def same(line, x, y):
    np.testing.assert_allclose(points(line), (x, y), rtol=1e-6)


def marked(axis, marker):
    return [line for line in axis.lines if line.get_marker() == marker]


def entries(figure):
    """The names in the legend, and what stands there for each."""
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(zip(texts, legend.legend_handles, strict=True))


def rate_at(epochs):
    """The learning rate of `distinct`; a state within an epoch is at that epoch's rate."""
    return 0.5 * np.exp(-np.maximum(np.ceil(epochs), 1) / 100)


def joined(run, *files):
    """The epochs that two files report, and both files' arrays there."""
    both = [run.metrics(file) for file in files]
    at = np.intersect1d(*(arrays["report_epochs"] for arrays in both))
    return at, *({key: values[np.isin(arrays["report_epochs"], at)]
                  for key, values in arrays.items()} for arrays in both)  # fmt: skip


def test_overview_and_effective_steps(distinct):
    """The phase diagram is gradient times ρ, of all weights or else of the SI weights."""
    run = distinct()
    log, test, si = run.log(), run.metrics("test-em"), run.metrics("train-tm-prebn")
    for file, word in (("train-tm", "full gradient norm"), ("train-tm-prebn", "effective")):
        loss, error, norm, phases = figures.figure2([run]).axes
        same(loss.lines[0], LOGGED, log["train_loss"])
        same(norm.lines[0], LOGGED, log["si_norm"])
        same(error.lines[0], TEST_AT, 100 - 100 * test["acc"])
        assert [axis.get_ylabel() for axis in (loss, error)] == ["cross-entropy", "error, %"]
        at, gradient, prebn = joined(run, file, "train-tm-prebn")
        rho = prebn["params_norm"]
        assert norm.get_ylabel() == "ρ" and word in phases.get_ylabel()
        same(phases.lines[0], rate_at(at) / rho**2, gradient["gnorm_m"] * rho)
        same(phases.lines[1], rate_at(at)[:1] / rho[:1] ** 2, (gradient["gnorm_m"] * rho)[:1])
        (run.folder / "train-tm.npz").unlink(missing_ok=True)
        (run,) = find_runs(run.folder)
    other = distinct({"use_squared_loss": True}, line="full")
    assert figures.figure2([other]).axes[0].get_ylabel() == "squared loss"
    loss, *_, mixed = figures.figure2([other, run]).axes
    assert loss.get_ylabel() == "loss"
    assert "effective" in mixed.get_ylabel() and len(mixed.lines) == 4  # both, alike
    by_rate, by_epoch = metrics.effective_steps([run]).axes
    lr, rho = rate_at(SI_AT), si["params_norm"]
    same(by_rate.lines[0], lr / rho**2, lr * si["gnorm_m"] / rho)
    same(by_epoch.lines[0], SI_AT, lr * si["gnorm_m"] / rho)


@pytest.mark.parametrize("optimizer, power, label", [("sgd", 2, "²"), ("adam", 1, "ρ")])
def test_effective_rates_are_those_of_the_optimiser(distinct, optimizer, power, label):
    """By epoch and of each layer; Adam's step is no multiple of the gradient."""
    run = distinct({"optimizer": optimizer})
    phases = figures.figure2([run]).axes[3]
    at, _, si = joined(run, "train-tm", "train-tm-prebn")
    np.testing.assert_allclose(points(phases.lines[0])[0], rate_at(at) / si["params_norm"] ** power)
    assert phases.get_xlabel().endswith(label)
    assert figures.layers(replace(run, metrics_folder=Path("nowhere"))) is None
    figure = figures.layers(run)
    norms, rates = figure.axes
    arrays = run.metrics("train-tm-prebn")
    assert [*entries(figure)] == ["conv.0.weight", "conv.1.weight", "linear.weight"]
    for name, norm, rate in zip(entries(figure), norms.lines, rates.lines, strict=True):
        same(norm, SI_AT, arrays[f"{name}_norm"])
        same(rate, SI_AT, rate_at(SI_AT) / arrays[f"{name}_norm"] ** power)
        assert norm.get_color() == rate.get_color() == entries(figure)[name].get_color()
    assert rates.get_ylabel().endswith("²") == (power == 2)
    assert (metrics.effective_steps([run]) is None) == (power == 1)
    both = figures.figure2([run, distinct({"optimizer": "adamw"}, line="other")]).axes[3]
    assert both.get_xlabel().endswith("η / ρ² or η / ρ") == (power == 2)


def test_marks_lie_on_their_curves_at_their_epochs(distinct):
    run = distinct()
    log = run.log()
    overview, panels = figures.figure2([run]).axes, figures.panels([run]).axes
    losses, norms = (overview[0], panels[0]), (overview[2], panels[1])
    for axes, column in ((losses, "train_loss"), (norms, "si_norm")):
        lowest = [at + np.argmin(log[column][at : at + 20]) for at in (0, 20, 40)]
        for axis in axes:
            (marks,) = marked(axis, "v")
            same(marks, log["epoch"][lowest], log[column][lowest])


def test_panels_stand_under_their_settings_with_what_their_seeds_do(distinct):
    runs = [distinct({"lr_init": lr, "trial": trial}, seed=round(50 * lr) + trial, line=f"{lr}")
            for lr in (0.1, 0.2, 0.3) for trial in range(2 if lr == 0.3 else 1)]  # fmt: skip
    vars(runs[-1])["periods"] = Periods(runs[-1].periods.cycles[:1], 60)  # one of three
    axes = figures.panels(runs).axes
    for run, loss_axis, norm_axis in zip(runs, axes[:3], axes[3:], strict=False):
        same(loss_axis.lines[0 if run.base_lr < 0.3 else 2], *run.history["train_loss"])
        same(norm_axis.lines[0 if run.base_lr < 0.3 else 2], *run.history["si_norm"])
        assert loss_axis.lines[0].get_color() == norm_axis.lines[0].get_color()
    titles = [axis.get_title().replace("\n", " ") for axis in axes[:3]]
    expected = [f"η = {run.base_lr:g}: {run.behaviour}" for run in runs[:2]]
    assert titles == [*expected, "η = 0.3, 2 seeds: 1 to 3 periods"]
    vars(runs[-1])["periods"] = Periods()
    title = figures.panels(runs).axes[2].get_title().replace("\n", " ")
    assert title == f"η = 0.3, 2 seeds: {runs[-2].behaviour}; {runs[-1].behaviour}"


def test_metrics_files_subsets_and_spectra(distinct):
    run = distinct()
    nan, six = np.nan, np.arange(6)
    extra = {"report_epochs": six, "hess_trace": six + 1.0, "cos_init": 1 - six / 10,
             "acc_normal": 0.9 + six / 50, "acc_corrupt": six / 50,
             "sharpness": [3, nan, nan, 2, nan, 1], "gm_norm": np.full(6, nan)}  # fmt: skip
    write_arrays(run.folder / "extra.npz", extra)
    figure = metrics.metrics([run])
    axes = {axis.get_title(): axis for axis in figure.axes if axis.get_visible()}
    whole, true, corrupted = axes["Error of the subsets\n(train-tm, extra)"].lines
    same(whole, TRAIN_AT, 100 - 100 * run.metrics("train-tm")["acc"])
    same(true, six, 10 - 2 * six)
    same(corrupted, six, 100 - 2 * six)
    styles = {name: line.get_linestyle() for name, line in entries(figure).items()}
    assert styles["true labels"] == true.get_linestyle() != corrupted.get_linestyle()
    assert styles["corrupted labels"] == corrupted.get_linestyle()
    same(axes["Trace of the Hessian\n(extra)"].lines[0], six, six + 1)
    same(axes["Cosine with the start\n(extra)"].lines[0], six, 1 - six / 10)
    same(axes["Sharpness on the unit sphere\n(extra)"].lines[0], [0, 3, 5], [3, 2, 1])
    for kind, name in (("hess", "Hessian"), ("fisher", "Fisher")):
        spectra = run.metrics("train-tm")[f"{kind}_evals"]
        same(axes[f"Leading {name} eigenvalue\n(train-tm)"].lines[0], TRAIN_AT, spectra.max(1))
    assert len(axes) == 6  # not the loss, which has no subsets, nor what is NaN everywhere


def test_three_regimes_by_epoch_and_by_loss(distinct):
    run = distinct({"fix_elr": True, "elr": 0.01})
    train, si, test = (run.metrics(name) for name in ("train-tm", "train-tm-prebn", "test-em"))
    loss, error, gradient, by_loss, errors_by_loss = figures.three_regimes([run]).axes
    same(loss.lines[0], TRAIN_AT, train["loss"])
    same(error.lines[0], TEST_AT, 100 - 100 * test["acc"])
    same(gradient.lines[0], SI_AT, si["gnorm_m"] * si["params_norm"])
    _, train, si = joined(run, "train-tm", "train-tm-prebn")
    same(by_loss.lines[0], train["loss"], si["gnorm_m"] * si["params_norm"])
    _, train, test = joined(run, "train-tm", "test-em")
    same(errors_by_loss.lines[0], train["loss"], 100 - 100 * test["acc"])
    row, regime = figures.table([run]).splitlines()[-1], run.regime
    errors = points(error.lines[0])[1]
    assert row.split()[-2:] == [f"{errors[-1]:.2f}", f"{min(errors):.2f}"]
    assert f" {regime.level:.3g} " in row and f"{regime.low:.3g} to {regime.high:.3g} " in row


def test_the_toy_diagram_is_of_the_mean_over_starts(monkeypatch):
    def descend(elr, steps, runs):
        assert (elr, steps, runs) == (0.1, 10_000, 256)
        return np.repeat([[5.0], [1], [1], [1]], 60, axis=1)

    monkeypatch.setattr("figures.regimes.toy.descend", descend)
    (container,) = figures.diagram_of_toy([0.1]).axes[0].containers
    same(container[0], [0.1], [2])


def test_the_regime_diagram(distinct):
    """Each regime's level, with a bar from its low to its high."""
    rates = (0.1, 0.01, 1.0, 2.0)
    found = [Regime(name, 10.0**i, 0.7 * 10**i, 2.0 * 10**i)
             for i, name in enumerate((*REGIMES, None))]  # fmt: skip
    figure = regime_diagram(rates, found, 1.75, 2.5)
    axis = figure.axes[0]
    for elr, regime, container in zip(rates, found, axis.containers, strict=True):
        same(container[0], [elr], [regime.level])
        (bar,) = container[2][0].get_segments()
        np.testing.assert_allclose(bar, [(elr, regime.low), (elr, regime.high)])
    level, bound = axis.lines[-2:]
    assert set(points(level)[1]) == {1.75} and set(points(bound)[0]) == {2.5}
    assert [*entries(figure)] == [*REGIMES, "none yet", "random guessing", "linear stability bound"]
    infinite = regime_diagram((1, 2), [Regime("divergence", np.inf, 1, np.inf), found[0]])
    assert points(infinite.axes[0].containers[1][0])[1] == 10 * found[0].level
    runs = [distinct({"fix_elr": True, "elr": elr, "trial": trial}, line=f"{elr}")
            for elr in (0.1, 0.2) for trial in range(2)]  # fmt: skip
    (container,) = figures.diagram_of_runs(runs).axes[0].containers
    side_by_side = [elr * 1.04**place for elr in (0.1, 0.2) for place in (-0.5, 0.5)]
    same(container[0], side_by_side, [run.regime.level for run in runs])


def test_growth_minus_decay_is_the_change_of_rho_in_a_step(make):
    """To first order, also where the rate changes; phases reach from turning point to the next."""
    run = make(*chaos(60), {"lr_init": 0.2, "wd": 0.05, "epochs": 100})
    lr, rho, rows = 0.1 * np.exp(-np.arange(400) / 2000), 1.5, []
    for step, rate in enumerate(lr):
        since = step % 100
        gradient = (2.45 if since >= 80 else 0.05) * (1 + 0.02 * np.sin(step))
        rows.append((10.0 ** (-2 * since / 80) if since < 80 else 1.0, rho, gradient / rho))
        rho = float(next_norm(rho, gradient, rate, 0.05))
    loss, norm, gradient = np.array(rows).T
    trace_of(run, {"loss": loss, "si_norm": norm, "gradient_norm": gradient, "lr": lr})
    figure = figures.one_period([run])
    for column in (0, 1):
        losses, norms, forces = figure.axes[column::2]
        time, _ = points(norms.lines[0])
        first = round(4 * time[0])
        at = slice(first, first + len(time))
        same(norms.lines[0], np.arange(400)[at] / 4, norm[at])
        same(losses.lines[0], time, loss[at])
        decay, growth = (points(line)[1] for line in forces.lines)
        change = np.convolve(np.diff(norm), np.full(4, 1 / 4), mode="same")[at]
        inside = slice(3, len(change) - 3)
        np.testing.assert_allclose((growth - decay)[inside], change[inside], atol=1e-3)
        assert np.abs(change[inside]).max() > 0.015
    colours = {name[:3]: handle.get_color() for name, handle in entries(figure).items()}
    assert colours == {"ηλρ": forces.lines[0].get_color(), "η²‖": forces.lines[1].get_color()}
    cycles = find_periods(np.arange(400) / 4, loss, norm).cycles
    period = max(cycles, key=lambda cycle: cycle.rho_end / cycle.rho_turn)
    shaded = [(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[0].patches]
    bounds = itertools.pairwise((period.start, period.turn, period.high, period.end))
    np.testing.assert_allclose(shaded, [*bounds])
    letters = [text.get_text() for axis in figure.axes[:2] for text in axis.texts]
    assert letters == ["B", "C", "A"]
    assert figures.one_period([replace(run, config={**run.config, "momentum": 0.9})]) is None
    assert period.start < figure.axes[0].texts[0].xy[0] < period.turn


def test_published_stars_stand_at_the_rate_and_the_share_of_the_run_they_speak_of(distinct):
    runs = [distinct({"lr_init": lr, "epochs": 50}, line=f"{lr}") for lr in (0.01, 0.02, 1.0)]
    figure = figures.figure2(runs, published=True)
    loss_axis, error_axis = figure.axes[:2]
    losses, errors = marked(loss_axis, "*"), marked(error_axis, "*")
    same(losses[0], [10, 43], [3e-3, 1.5e-4])
    same(errors[1], [49.5, 50], [25, 65])
    for loss, error, name in zip(losses, errors, ("η = 0.01", "η = 1"), strict=True):
        assert loss.get_color() == error.get_color() == entries(figure)[name].get_color()
    jumps = [line.get_xdata()[0] for line in loss_axis.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(jumps, [10, 20, 27.5, 43])
    # In the window alone, and not of branches
    part = figures.figure2([replace(runs[0], window=(0, 25))], published=True)
    assert part.axes[0].get_xlim()[1] < 27.5 and "published" in entries(part)
    branch = distinct({"lr_init": 0.01, "resume_epoch": 60}, line="branch")
    for other in (replace(runs[0], window=(0, 3)), branch):
        assert "published" not in entries(figures.figure2([other], published=True))


def test_the_period_table_has_each_number_of_its_own_epoch(distinct):
    run = distinct()
    train, test, si = (dict(zip(*run.curves[name], strict=True))
                       for name in ("train_loss", "test_error", "si_norm"))  # fmt: skip
    rows = [[cell.strip() for cell in row.split("  ") if cell.strip()]
            for row in figures.period_table(run).splitlines()[2:]]  # fmt: skip
    begin = -1
    for (turn, low, loss, error, rho), cycle in zip(rows, run.periods.cycles, strict=True):
        assert float(turn) == cycle.turn
        inside = [epoch for epoch in train if begin < epoch <= cycle.turn]
        assert float(low) == min(inside, key=train.get)
        assert float(loss) == pytest.approx(train[float(low)], rel=0.05)
        for cell, column in ((error, test), (rho, si)):
            known = column.get(float(low))
            assert cell == ("not measured" if known is None else f"{known:.2f}")
        begin = cycle.high
    row = figures.table([run]).splitlines()[-1].split()
    errors, periods = 100 - 100 * run.metrics("test-em")["acc"], run.periods
    numbers = [f"{periods.mean:.1f}", f"{periods.cv:.2f}", f"{errors.min():.2f}"]
    assert row == ["0.5", "0.02", "3", *numbers]


def test_comparison_has_means_over_seeds_and_bars_from_the_lowest_to_the_highest(distinct):
    runs = [distinct({"lr_init": lr, "wd": wd, "trial": t}, seed=t + round(97 * lr * wd * 1e3),
                     line=f"{lr}_{wd}") for lr, wd, t in
            itertools.product((0.3, 0.1), (0.01, 0.02), (0, 1, 2))]  # fmt: skip
    figure = figures.comparison(runs, "lr_init")
    assert [*entries(figure)] == ["λ = 0.01", "λ = 0.02"]
    periods = [run.periods.mean for run in runs]
    errors = [100 - 100 * run.metrics("test-em")["acc"].max() for run in runs]
    for axis, numbers in zip(figure.axes, (periods, errors), strict=True):
        by_rate = np.reshape(numbers, (2, 2, 3))[::-1]  # rates, λ, seeds
        for i, container in zip((0, 1), axis.containers, strict=True):
            seeds = by_rate[:, i]
            same(container[0], [0.1, 0.3], seeds.mean(1))
            bars = [bar[:, 1] for bar in container[2][0].get_segments()]
            np.testing.assert_allclose(np.sort(bars), np.c_[seeds.min(1), seeds.max(1)])
    assert len({*errors}) == 12


def test_seeds_are_drawn_as_mean_and_range(distinct):
    runs = [distinct({"trial": trial}, seed=trial, line="seeds") for trial in range(3)]
    figure = figures.figure2(runs)
    loss_axis, error_axis = figure.axes[:2]
    losses = np.array([run.history["train_loss"].values for run in runs])
    errors = np.array([run.curves["test_error"].values for run in runs])
    same(loss_axis.lines[0], LOGGED, np.exp(np.log(losses).mean(0)))
    same(error_axis.lines[0], TEST_AT, errors.mean(0))
    for axis, values, x in ((loss_axis, losses, LOGGED), (error_axis, errors, TEST_AT)):
        corners = {tuple(corner) for corner in axis.collections[0].get_paths()[0].vertices}
        for side in (values.min(0), values.max(0)):
            assert {*zip(x, side, strict=True)} <= corners
    assert "η = 0.5, 3 seeds" in entries(figure)
    assert "lowest to highest" in figure.legends[0].get_title().get_text()
    assert not [mark for axis in figure.axes[:3] for mark in marked(axis, "v")]
    # At the epochs that all have; a single value is a point
    axis = figures.plt.figure().subplots()
    some = [Curve(np.array([0, 2, 4]), np.array([9, 2, 4])),
            Curve(np.array([2, 3, 4]), np.array([8, 1, 4]))]  # fmt: skip
    draw_seeds(axis, some, "C0", "log")
    same(axis.lines[0], [2, 4], [4, 4])
    signs = [Curve(np.array([4]), np.array([value])) for value in (-1, 3)]  # as of a trace
    draw_seeds(axis, signs, "C0", "symlog")
    same(axis.lines[1], [4], [1])
    assert len(marked(axis, ".")) == 1
    # One that ends early, as by divergence, does not end the others
    draw_seeds(axis, [*some, Curve(np.array([0, 2, 4, 9]), np.array([2, 4, 4, 7]))], "C0", "linear")
    same(axis.lines[2], [2, 4, 9], [14 / 3, 4, 7])


def test_a_branch_is_drawn_from_its_checkpoint_and_its_parent_up_to_there(distinct):
    parent = distinct()
    branches = []
    for epoch in (20, 8):
        made = distinct({"resume_epoch": epoch}, seed=epoch, line=f"{epoch}")
        branches += find_runs(made.folder.rename(parent.folder / f"branch-{epoch}"))
    figure = figures.figure2(branches)
    logged = [replace(branch, metrics_folder=Path("nowhere")) for branch in branches]
    assert len(figures.figure2(logged[:1]).axes[0].lines[1].get_xdata()) == len(LOGGED)
    grey, *own = figure.axes[0].lines[:3]
    at = TRAIN_AT <= 20
    same(grey, TRAIN_AT[at], parent.metrics("train-tm")["loss"][at])
    for line, branch in zip(own, branches, strict=True):
        same(line, TRAIN_AT, branch.metrics("train-tm")["loss"])
    assert entries(figure)["before the branch"].get_color() == grey.get_color()
    part = figures.figure2([replace(branch, window=(4, 60)) for branch in branches])
    assert points(part.axes[0].lines[0])[0].tolist() == TRAIN_AT[at & (TRAIN_AT >= 4)].tolist()
    assert "before the branch" not in entries(figures.figure2([parent, *branches]))


def test_what_the_monitor_saved_is_drawn_in_its_own_panels(tmp_path):
    keys = dynamics.WANTED
    table = {key: np.random.default_rng(i).uniform(1, 2, 90) for i, key in enumerate(keys)}
    table["step"] = np.arange(0, 900, 10.0)
    table["si_norm"] = np.tile(np.geomspace(3, 1, 30), 3)
    fall = np.append(np.geomspace(1, 0.01, 26), (0.02, 0.03, 0.04, 0.05))  # lowest before the turn
    table["loss"] = np.tile(fall, 3)
    rows = np.array([table[key] for key in keys]).T.tolist()
    text = [f"other,{7 * row[0]},1,1,1,1,1\nall,{','.join(map(repr, row))}" for row in rows]
    (tmp_path / "d.csv").write_text("\n".join([",".join(("group", *keys)), *text, ""]))
    figure, periods = dynamics.dynamics(dynamics.read(tmp_path / "d.csv"))
    axes = dict(zip(("loss", "si_norm", "effective_lr", "angle"), figure.axes, strict=True))
    for (key, axis), word in zip(axes.items(), ("loss", "ρ", "η̃", "angle"), strict=True):
        same(axis.lines[0], table["step"], table[key])
        assert word in axis.get_ylabel()
    same(axes["angle"].lines[-1], table["step"], table["equilibrium_angle"])  # on the same axis
    turns = [line.get_xdata()[0] for line in axes["si_norm"].lines[1:]]
    assert turns == periods.turns.tolist() == [290, 590]
    table |= {"angle": np.full(90, 0.01), "equilibrium_angle": np.full(90, 0.1)}
    low, high = dynamics.dynamics(table)[0].axes[3].get_ylim()
    assert low < 0.01 < 0.1 < high  # both are seen


def test_minimals_line_is_where_the_drawn_norm_is_smallest(monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    losses = [10.0 ** (-2 * (i % 30) / 30) for i in range(100)]
    rhos = [3 * 0.97 ** (i % 30) for i in range(100)]
    minimal.draw(losses, rhos, "made")
    loss_axis, norm_axis = drawn[0].axes
    epochs, norms = points(norm_axis.lines[0])
    turns = [line.get_xdata()[0] for line in norm_axis.lines[1:]]
    assert turns == [line.get_xdata()[0] for line in loss_axis.lines[1:]] == [30, 60, 90]
    lowest = [turn - 15 + np.argmin(norms[turn - 15 : turn + 15]) for turn in turns]
    assert epochs[lowest].tolist() == turns
    same(loss_axis.lines[0], epochs, losses)
