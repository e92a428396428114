"""Every drawn number is the one that it claims to be: the data of what is drawn, against the files.

The runs are made: every column, epoch and array of `distinct` differs, so that nothing can stand
for anything else.
"""

import itertools

import numpy as np
import pytest
from made_runs import LOGGED, SI_AT, TEST_AT, TRAIN_AT, chaos, trace_of

import figures
from figures import dynamics, metrics
from figures.regimes import regime_diagram
from runs import find_runs, write_arrays
from theory.dynamics import next_norm
from theory.regimes import Regime, find_regime


def points(line):
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def same(line, x, y):
    np.testing.assert_allclose(points(line), (x, y), rtol=1e-6)


def axis_of(figure, ylabel, title=""):
    """The one axis with this quantity."""
    (axis,) = (a for a in figure.axes if ylabel in a.get_ylabel() and title in a.get_title())
    return axis


def rate_at(epochs):
    """The learning rate of `distinct`; a state within an epoch is at that epoch's rate."""
    return 0.5 * np.exp(-np.maximum(np.ceil(epochs), 1) / 100)


def common(run, *files):
    """The epochs that several files report, and each file's arrays there."""
    arrays = [run.metrics(file) for file in files]
    at = sorted(set.intersection(*({*a["report_epochs"]} for a in arrays)))
    picked = [
        {k: v[np.isin(a["report_epochs"], at)] for k, v in a.items() if len(v)} for a in arrays
    ]
    return np.array(at), *picked


def test_curves_by_epoch(distinct):
    """Loss and ρ are the log's, test error the measured one, each at its own epochs."""
    run = distinct()
    figure = figures.figure2([run])
    log, test = run.log(), run.metrics("test-em")
    same(axis_of(figure, "cross-entropy", "Train loss").lines[0], LOGGED, log["train_loss"])
    same(axis_of(figure, "ρ", "Norm of").lines[0], LOGGED, log["si_norm"])
    same(axis_of(figure, "error, %", "Test error").lines[0], TEST_AT, 100 - 100 * test["acc"])


def test_the_phase_diagram_is_gradient_times_rho_against_the_effective_rate(distinct):
    run = distinct()
    for file, word in (("train-tm", "full gradient norm"), ("train-tm-prebn", "effective")):
        axis = axis_of(figures.figure2([run]), word)
        at, gradient, si = common(run, file, "train-tm-prebn")
        rho = si["params_norm"]
        same(axis.lines[0], rate_at(at) / rho**2, gradient["gnorm_m"] * rho)
        same(axis.lines[1], rate_at(at)[:1] / rho[:1] ** 2, (gradient["gnorm_m"] * rho)[:1])
        (run.folder / "train-tm.npz").unlink(missing_ok=True)
        (run,) = find_runs(run.folder)


def test_effective_steps_and_their_rates(distinct):
    run = distinct()
    by_rate, by_epoch = metrics.effective_steps([run]).axes
    si = run.metrics("train-tm-prebn")
    lr, rho = rate_at(SI_AT), si["params_norm"]
    same(by_rate.lines[0], lr / rho**2, lr * si["gnorm_m"] / rho)
    same(by_epoch.lines[0], SI_AT, lr * si["gnorm_m"] / rho)


def test_effective_rates_are_those_of_the_optimiser(distinct):
    """Of Adam η / ρ, by epoch and of each layer; its step is no multiple of the gradient."""
    run = distinct({"optimizer": "adam"})
    axis = axis_of(figures.figure2([run]), "full gradient norm")
    at, _, si = common(run, "train-tm", "train-tm-prebn")
    np.testing.assert_allclose(points(axis.lines[0])[0], rate_at(at) / si["params_norm"])
    assert axis.get_xlabel().endswith("η / ρ")
    norms, rates = figures.layers(run).axes
    same(rates.lines[0], SI_AT, rate_at(SI_AT) / points(norms.lines[0])[1])
    assert rates.get_ylabel().endswith("layer)") and metrics.effective_steps([run]) is None
    both = axis_of(figures.figure2([run, distinct(line="sgd")]), "full gradient norm")
    assert both.get_xlabel().endswith("η / ρ² or η / ρ")


def test_marks_lie_on_their_curves_at_their_epochs(distinct):
    run = distinct()
    log = run.log()
    overview, panels = figures.figure2([run]).axes, figures.panels([run]).axes
    for axes in ((overview[0], overview[2]), panels):
        losses, norms = ([line for line in axis.lines if line.get_marker() == "v"] for axis in axes)
        turns, lows = points(norms[0])[0], points(losses[0])[0]
        assert len(turns) == len(lows) == 3
        for mark, column in ((norms[0], "si_norm"), (losses[0], "train_loss")):
            x, y = points(mark)
            assert np.array_equal(y, log[column][x.astype(int) - 1])
        assert not {*turns} & {*lows}
        for begin, turn, low in zip((0, 20, 40), turns, lows, strict=True):
            inside = (log["epoch"] > begin) & (log["epoch"] <= begin + 20)
            assert turn == log["epoch"][inside][np.argmin(log["si_norm"][inside])]
            assert low == log["epoch"][inside][np.argmin(log["train_loss"][inside])]


def test_panels_stand_under_the_name_of_their_run(distinct):
    runs = [distinct({"lr_init": lr}, seed=i, line=f"{i}") for i, lr in enumerate((0.1, 0.2, 0.3))]
    figure = figures.panels(runs)
    losses, norms = figure.axes[:3], figure.axes[3:]
    for run, loss_axis, norm_axis in zip(runs, losses, norms, strict=True):
        assert loss_axis.get_title().startswith(f"η = {run.config['lr_init']:g}:")
        assert run.behaviour in loss_axis.get_title().replace("\n", " ")
        same(loss_axis.lines[0], *run.history["train_loss"])
        same(norm_axis.lines[0], *run.history["si_norm"])
        assert loss_axis.lines[0].get_color() == norm_axis.lines[0].get_color()


def test_a_layers_rate_times_its_squared_norm_is_the_learning_rate(distinct):
    run = distinct()
    norms, rates = figures.layers(run).axes
    arrays = run.metrics("train-tm-prebn")
    names = [text.get_text() for text in norms.figure.legends[0].get_texts()]
    assert names == ["conv.0.weight", "conv.1.weight", "linear.weight"]
    for name, norm, rate in zip(names, norms.lines, rates.lines, strict=True):
        same(norm, SI_AT, arrays[f"{name}_norm"])
        same(rate, SI_AT, rate_at(SI_AT) / arrays[f"{name}_norm"] ** 2)
        assert norm.get_color() == rate.get_color()


def test_of_a_spectrum_the_largest_eigenvalue_is_drawn(distinct):
    run = distinct()
    axes = {axis.get_title().split("\n")[0]: axis for axis in figures.metrics.metrics([run]).axes}
    for kind in ("hess", "fisher"):
        spectra = run.metrics("train-tm")[f"{kind}_evals"]
        title = {"hess": "Leading Hessian eigenvalue", "fisher": "Leading Fisher eigenvalue"}[kind]
        same(axes[title].lines[0], TRAIN_AT, np.max(spectra, axis=1))


def test_subsets_errors_and_files_of_the_panels(distinct):
    run = distinct()
    extra = {"acc_normal": np.linspace(0.9, 1, 6), "acc_corrupt": np.linspace(0, 0.1, 6),
             "hess_trace": np.arange(1.0, 7), "cos_init": np.linspace(1, 0.5, 6)}  # fmt: skip
    write_arrays(run.folder / "extra.npz", {"report_epochs": np.arange(6), **extra})
    axes = {axis.get_title(): axis for axis in figures.metrics.metrics([run]).axes}
    whole, true, corrupted = axes["Error of the subsets\n(train-tm, extra)"].lines
    same(whole, TRAIN_AT, 100 - 100 * run.metrics("train-tm")["acc"])
    same(true, np.arange(6), np.linspace(10, 0, 6))
    same(corrupted, np.arange(6), np.linspace(100, 90, 6))
    legend = axes["Trace of the Hessian\n(extra)"].figure.legends[0]
    styles = {text.get_text(): line.get_linestyle() for text, line in
              zip(legend.get_texts(), legend.get_lines(), strict=True)}  # fmt: skip
    assert styles["true labels"] == true.get_linestyle() != corrupted.get_linestyle()
    assert styles["corrupted labels"] == corrupted.get_linestyle()
    same(axes["Trace of the Hessian\n(extra)"].lines[0], np.arange(6), np.arange(1, 7))
    same(axes["Direction and the start's\n(extra)"].lines[0], np.arange(6), np.linspace(1, 0.5, 6))


def test_three_regimes_by_epoch_and_by_loss(distinct):
    run = distinct({"fix_elr": True, "elr": 0.01})
    figure = figures.three_regimes([run])
    train, si, test = (run.metrics(name) for name in ("train-tm", "train-tm-prebn", "test-em"))
    error, gradient = 100 - 100 * test["acc"], si["gnorm_m"] * si["params_norm"]
    loss_axis, error_axis, gradient_axis, by_loss, errors_by_loss = figure.axes
    same(loss_axis.lines[0], TRAIN_AT, train["loss"])
    same(error_axis.lines[0], TEST_AT, error)
    same(gradient_axis.lines[0], SI_AT, gradient)
    _, one, two = common(run, "train-tm", "train-tm-prebn")
    same(by_loss.lines[0], one["loss"], two["gnorm_m"] * two["params_norm"])
    _, one, two = common(run, "train-tm", "test-em")
    same(errors_by_loss.lines[0], one["loss"], 100 - 100 * two["acc"])


def test_bars_reach_from_the_10th_to_the_90th_percentile():
    """Of an unequal spread, half the record away from its start."""
    rng = np.random.default_rng(0)
    losses = [rng.lognormal(-1 + i, 0.8, 400) for i in range(3)]
    losses[1][:200] = 99
    regimes = [find_regime(loss, np.full(400, d)) for loss, d in zip(losses, (0, 0.5, 1),
                                                                     strict=True)]  # fmt: skip
    axis = regime_diagram((0.1, 0.01, 1.0), regimes).axes[0]
    for elr, loss, container in zip((0.1, 0.01, 1.0), losses, axis.containers, strict=True):
        (((x, low), (_, high)),) = container[2][0].get_segments()
        late = np.sort(loss[200:])
        assert x == elr == points(container[0])[0][0]
        np.testing.assert_allclose((low, high), (late[20], late[179]), rtol=0.02)
        assert points(container[0])[1][0] == pytest.approx(np.median(late), rel=0.02)


def test_each_regime_has_its_name_and_what_has_none_is_drawn_too(make):
    names = ("convergence", "chaotic equilibrium", "divergence", None)
    regimes = [Regime(name, *(10.0**i * np.array([2, 1, 3]))) for i, name in enumerate(names)]
    figure = regime_diagram(range(1, 5), [*regimes[:3], Regime(None, 1e3, 5e2, 2e3)], 1.75, 2.5)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*names[:3], "none yet", "random guessing", "linear stability bound"]
    axis = figure.axes[0]
    levels = [float(points(container[0])[1][0]) for container in axis.containers]
    assert levels == [2, 20, 200, 1000]
    level, bound = axis.lines[-2:]
    assert set(points(level)[1]) == {1.75} and set(points(bound)[0]) == {2.5}
    infinite = regime_diagram((1, 2), [Regime("divergence", np.inf, 1, np.inf), regimes[0]])
    assert np.isfinite(infinite.axes[0].get_ylim()).all()


def test_growth_minus_decay_is_the_change_of_rho_in_a_step(make):
    """To first order, also where the rate changes; and loss and ρ are those of the trace."""
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
        time, drawn = points(norms.lines[0])
        first = round(4 * time[0])
        np.testing.assert_allclose(time, np.arange(first, first + len(time)) / 4)
        at = slice(first, first + len(time))
        np.testing.assert_array_equal(drawn, norm[at])
        np.testing.assert_array_equal(points(losses.lines[0])[1], loss[at])
        decay, growth = (points(line)[1] for line in forces.lines)
        change = np.convolve(np.diff(norm), np.full(4, 1 / 4), mode="same")[at]
        inside = slice(3, len(change) - 3)
        np.testing.assert_allclose((growth - decay)[inside], change[inside], atol=1e-3)
        assert np.abs(change[inside]).max() > 0.015
    named = dict(zip([text.get_text()[:3] for text in figure.legends[0].get_texts()],
                     ("decay", "growth"), strict=True))  # fmt: skip
    assert named == {"ηλρ": "decay", "η²‖": "growth"}


def test_phases_are_shaded_between_their_turning_points(make):
    run = make(*chaos(60), {"lr_init": 0.4, "wd": 0.05, "epochs": 100})
    step = np.arange(400)
    since = step % 100
    rho = 3 * np.exp(-since / 100) + (since < 10) * 0
    loss = 10.0 ** (-2 * since / 100)
    trace_of(run, {"loss": loss, "si_norm": rho, "gradient_norm": 1 / rho})
    figure = figures.one_period([run])
    shaded = {patch.get_facecolor()[:3]: patch.get_extents() for patch in figure.axes[0].patches}
    assert len(shaded) == 3
    turn = rho.argmin() % 100
    letters = [text.get_text() for axis in figure.axes[:2] for text in axis.texts]
    assert letters == ["B", "C", "A"] and turn == 99


def test_published_stars_stand_at_the_rate_and_the_share_of_the_run_they_speak_of(distinct):
    runs = [distinct({"lr_init": lr, "epochs": 50}, line=f"{lr}") for lr in (0.01, 0.02, 1.0)]
    loss_axis, error_axis = figures.figure2(runs, published=True).axes[:2]
    stars = [[line for line in axis.lines if line.get_marker() == "*"]
             for axis in (loss_axis, error_axis)]  # fmt: skip
    colours = [
        line.get_color() for line in error_axis.lines if len(points(line)[0]) == len(TEST_AT)
    ]
    expected = (
        ({10: 3e-3, 43: 1.5e-4}, {10: 27, 20: 25, 27.5: 21, 43: 18, 50: 17}, colours[0]),
        ({50: 0.4}, {49.5: 25, 50: 65}, colours[2]),
    )
    for losses, errors, (loss, error, colour) in zip(*stars, expected, strict=True):
        same(losses, [*loss], [*loss.values()])
        same(errors, [*error], [*error.values()])
        assert losses.get_color() == errors.get_color() == colour
    jumps = [line.get_xdata()[0] for line in loss_axis.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(jumps, [10, 20, 27.5, 43])


def test_the_period_table_has_each_number_of_its_own_epoch(distinct):
    run = distinct()
    train, test, si = (dict(zip(*run.curves[name], strict=True))
                       for name in ("train_loss", "test_error", "si_norm"))  # fmt: skip
    rows = [row.split("  ") for row in figures.period_table(run).splitlines()[2:]]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert len(rows) == 3
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


def test_comparison_has_means_over_seeds_and_bars_from_the_lowest_to_the_highest(distinct):
    runs = [distinct({"lr_init": lr, "wd": wd, "trial": t}, seed=t + round(97 * lr * wd * 1e3),
                     line=f"{lr}_{wd}") for lr, wd, t in
            itertools.product((0.3, 0.1), (0.01, 0.02), (0, 1, 2))]  # fmt: skip
    figure = figures.comparison(runs, "lr_init")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["λ = 0.01", "λ = 0.02"]
    for axis, number in zip(figure.axes, ("mean period", "best test error"), strict=True):
        for wd, container in zip((0.01, 0.02), axis.containers, strict=True):
            rates, means = points(container[0])
            assert rates.tolist() == [0.1, 0.3]
            for rate, mean, bar in zip(rates, means, container[2][0].get_segments(), strict=True):
                values = [figures.summary_row(run)[number] for run in runs
                          if (run.config["lr_init"], run.config["wd"]) == (rate, wd)]  # fmt: skip
                assert len(values) == 3 and mean == pytest.approx(np.mean(values))
                assert sorted(bar[:, 1]) == pytest.approx([min(values), max(values)])
    assert len({figures.summary_row(run)["best test error"] for run in runs}) == 12


def test_the_row_of_a_run_is_its_best_error_and_its_periods(distinct):
    run = distinct()
    row = figures.summary_row(run)
    assert row["best test error"] == pytest.approx(100 - 100 * run.metrics("test-em")["acc"].max())
    assert (row["periods"], row["mean period"]) == (3, np.diff(run.periods.turns).mean())
    assert (row["lr"], row["wd"]) == (0.5, 0.02)


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
    assert figure.legends[0].get_texts()[0].get_text() == "η = 0.5, 3 seeds"
    assert not [line for axis in figure.axes[:3] for line in axis.lines if line.get_marker() == "v"]


def test_a_branch_is_drawn_from_its_checkpoint_and_its_parent_up_to_there(distinct):
    parent = distinct()
    made = distinct({"resume_epoch": 8}, seed=9, line="x")
    (branch,) = find_runs(made.folder.rename(parent.folder / "branch-8"))
    figure = figures.figure2([branch])
    grey, own = figure.axes[0].lines[:2]
    same(own, TRAIN_AT, branch.metrics("train-tm")["loss"])
    at = TRAIN_AT <= 8
    same(grey, TRAIN_AT[at], parent.metrics("train-tm")["loss"][at])
    assert "before the branch" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_what_the_monitor_saved_is_drawn_in_its_own_panels(tmp_path):
    keys = dynamics.WANTED
    table = {key: np.random.default_rng(i).uniform(1, 2, 90) for i, key in enumerate(keys)}
    table["step"] = np.arange(0, 900, 10.0)
    table["si_norm"] = np.tile(np.geomspace(3, 1, 30), 3)
    fall = np.append(np.geomspace(1, 0.01, 26), (0.02, 0.03, 0.04, 0.05))  # lowest before the turn
    table["loss"] = np.tile(fall, 3)
    rows = [",".join(("group", *keys))]
    for group in ("other", "all"):
        factor = 1 if group == "all" else 7
        rows += [",".join((group, *(repr(float(factor * table[key][i])) for key in keys)))
                 for i in range(90)]  # fmt: skip
    (tmp_path / "d.csv").write_text("\n".join(rows) + "\n")
    figure, periods = dynamics.dynamics(dynamics.read(tmp_path / "d.csv"))
    for key, label in (("loss", "loss"), ("si_norm", "norm ρ"), ("effective_lr", "η̃"),
                       ("angle", "angle")):  # fmt: skip
        same(axis_of(figure, label).lines[0], table["step"], table[key])
    angles = [line for line in axis_of(figure, "angle").lines if len(points(line)[0]) == 90]
    same(angles[1], table["step"], table["equilibrium_angle"])  # on the same axis
    assert len(periods) == 2
    turns = [line.get_xdata()[0] for line in axis_of(figure, "norm ρ").lines[1:]]
    assert turns == periods.turns.tolist() == [290, 590]


def test_minimals_line_is_where_the_drawn_norm_is_smallest(monkeypatch):
    import matplotlib.figure

    import minimal

    drawn = []
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self)
    )
    losses = [10.0 ** (-2 * (i % 30) / 30) for i in range(100)]
    rhos = [3 * 0.97 ** (i % 30) for i in range(100)]
    minimal.draw(losses, rhos, "made")
    loss_axis, norm_axis = drawn[0].axes
    epochs, norms = points(norm_axis.lines[0])
    turns = [line.get_xdata()[0] for line in norm_axis.lines[1:]]
    assert turns == [line.get_xdata()[0] for line in loss_axis.lines[1:]] == [30, 60, 90]
    for turn in turns:
        near = np.abs(epochs - turn) < 15
        assert epochs[near][np.argmin(norms[near])] == turn
    same(loss_axis.lines[0], epochs, losses)
