"""What the claims measure of their runs, number by number, on runs whose numbers are known."""

import math

import numpy as np
import pytest
from made_runs import (
    chaos,
    chaotic,
    ends,
    falling,
    on_sphere,
    regimes_of,
    saw,
    sphere_of,
    sweep,
    trace_of,
)

import runs
from claims import mechanism, minima, periodic, second_regime, sphere
from claims.finding import NotMeasurable, seeds
from runs import Run

# --- branches ---


@pytest.fixture
def asked(make, monkeypatch):
    """Branches are not trained: what is asked of them."""
    found = []

    def fake(run, epoch, epochs, **changes):
        found.append((epoch, epochs, changes))
        made = make(np.ones(epochs), np.ones(epochs))
        late = np.arange(60) >= mechanism.WITHIN  # a jump that comes too late
        trace_of(made, {"loss": np.ones(60), "si_norm": np.full(60, 2.0),
                        "one_minus_cosine": 0.5 * late})  # fmt: skip
        return made

    monkeypatch.setattr(mechanism, "branch", fake)
    return found


def test_branches_begin_at_quarters_of_phase_b_and_last_as_long_as_it(make, asked):
    base, seed = make(*saw(50)), {"seed": mechanism.OTHER_SEED}
    mechanism.cause([base])
    expected = []
    for period in periodic.settled(base).cycles[:3]:
        needed = period.turn - period.start
        for quarter in (0.25, 0.5, 0.75):
            at = round(period.start + quarter * needed), needed
            expected += [(*at, seed), (*at, {**seed, "fix_si_pnorm": True})]
    assert asked == expected
    asked.clear()
    mechanism.sharpness([base])
    late = [at[:2] for at in expected[4::6]]
    wd = base.config["wd"]
    rates = ((0.1, wd), (0.05, wd), (0.05, 2 * wd))
    assert asked == [
        (at, 3 * n, {**seed, "lr_init": a, "wd": b}) for at, n in late for a, b in rates
    ]


def test_a_jump_after_the_steps_that_count_is_none(make, asked):
    bases = [make(*saw(50), {"trial": trial}) for trial in (10, 11)]
    for base in bases:
        columns = ("loss", "si_norm", "gradient_norm")
        trace_of(base, {name: np.linspace(1, 2, 2400) for name in columns})
    rows = mechanism.destabilisation(bases).numbers["branches"]
    late = [epoch for base in bases for _, epoch, _ in [*mechanism.branch_points(base)][2::3]]
    assert sorted({epoch for epoch, _, _ in asked}) == sorted({*late})
    assert [c["lr_init"] * c["wd"] for _, _, c in asked] == pytest.approx([0.004] * len(asked))
    least, most = np.quantile(mechanism.late_gradients(bases[0]), (0.01, 0.99))  # of both
    step = 0.996 * math.sqrt(0.0199) / 0.99  # of a 0.01-jump
    for row in rows:
        assert (row["possible"], row["guaranteed"]) == pytest.approx((step / most, step / least))
    assert not any(row["jumped"] for row in rows)
    assert {epochs for _, epochs, _ in asked} == {math.ceil(50 / 4)}
    for row in rows:
        assert row["elr"] == pytest.approx(row["factor"] * 0.1 / 4)  # of the branch's own ρ
        assert row["possible"] < row["guaranteed"]


def test_late_gradients_are_of_the_second_half_of_phase_b(make):
    run = make(*saw(50))
    times = np.arange(2400) / 4
    trace_of(run, {"loss": times, "si_norm": np.full(2400, 2.0), "gradient_norm": times / 2})
    cycles = periodic.settled(run).cycles
    expected = [t for p in cycles for t in times if (p.start + p.turn) / 2 <= t < p.low]
    assert mechanism.late_gradients(run) == pytest.approx(expected) and len(expected) > 100


def test_equilibrium_norms_are_of_each_periods_own_gradients(make):
    loss, rho = saw(50)
    run, large = make(loss, rho), np.repeat([50.0, 1.0], [1200, 1200])  # no large ones later
    gradient = np.where(np.arange(2400) % 200 < 190, 0.1, large)
    trace_of(run, {"loss": np.repeat(loss, 4), "si_norm": np.repeat(rho, 4),
                   "gradient_norm": gradient / np.repeat(rho, 4)})  # fmt: skip
    inside = mechanism.consistent([run]).numbers["trials"][0]["inside"]
    assert inside[0] == 1 > inside[-1]
    with pytest.raises(NotMeasurable, match="3 periods"):
        mechanism.consistent([make(*saw(170))])


# --- equilibria ---


def test_levels_of_chaos_are_of_the_second_half(make):
    run = make(*chaos(20))
    trace_of(run, {"loss": np.repeat([9.0, 2.0, 50.0], (40, 30, 10)), "si_norm": np.full(80, 2.0),
                   "gradient_norm": np.append(np.zeros(40), [1.5, 2.0] * 20)})  # fmt: skip
    assert mechanism.chaos_levels(run) == pytest.approx((2, math.sqrt((3**2 + 4**2) / 2)))


def test_forecast_norm_of_gradients_that_grow_with_the_rate():
    """G = (η̃ / 10⁻³)^½ makes ρ⁶ = η² / (10⁻³ λ (2 - ηλ))."""
    elrs, gradients = np.array([1e-3, 1e-1]), np.array([1.0, 10.0])
    found = mechanism.forecast_norm(elrs, gradients, 0.1, 0.1)
    assert found == pytest.approx((0.01 / (1e-3 * 0.1 * 1.99)) ** (1 / 6), rel=3e-3)
    assert math.isnan(mechanism.forecast_norm(elrs, gradients, 0.1, 1e-9))


def test_ordinary_chaos_is_compared_at_three_products_inside_the_rates(make):
    lines = [chaotic(make, wd=wd) for wd in (0.02, 0.03)]
    assert not mechanism.regimes_in_ordinary_training(lines, sphere_of(make)).holds
    half = np.full(60, 0.5)
    far = [on_sphere(make, elr, chaos(60)[0], half, traced=True) for elr in (10.0, 100.0)]
    with pytest.raises(NotMeasurable, match="outside the sphere's rates"):
        mechanism.regimes_in_ordinary_training(lines, far)


def test_ordinary_chaos_is_compared_with_the_sphere_in_logarithms(make):
    """Where the sphere's loss grows as the root of the rate, that is what is interpolated."""
    levels = [math.sqrt(elr) for elr in (0.01, 0.1, 1.0)]
    lines = [chaotic(make, wd=wd) for wd in (0.02, 0.03, 0.05)]
    rows = mechanism.regimes_in_ordinary_training(lines, sphere_of(make, levels)).numbers["runs"]
    level = np.median(chaos(60, 1.0)[0][30:])
    for row, run in zip(rows, lines, strict=True):
        late = run.trace()["si_norm"][400:]
        assert row["elr"] == pytest.approx(np.median(late**-2.0))
        assert row["loss"] == pytest.approx(2 / (level * math.sqrt(row["elr"])), rel=1e-6)


def test_the_angle_of_steps_is_their_root_mean_square_in_the_second_half(make):
    run = make(*chaos(20), {"momentum": 0.9})
    angle = math.sqrt(2 * 0.1 * 0.04 / 1.9)
    trace_of(run, {"loss": np.ones(80),
                   "one_minus_cosine": np.append(np.zeros(40), [angle**2, 0.0] * 20)})  # fmt: skip
    (row,) = mechanism.angular_update([run]).numbers["runs"]
    assert row["theory"] == pytest.approx(angle) and row["ratio"] == pytest.approx(1)
    adamw = make(*chaos(20), {"momentum": None, "optimizer": "adamw"})
    assert adamw.equilibrium_angle == pytest.approx(math.sqrt(2 * 0.004 * 0.1 / 1.9))
    config = {"momentum": 0.9, "optimizer": "adamw"}  # momentum does not change its decay
    assert make(*chaos(20), config).e_fold == pytest.approx(62.5)


# --- periods ---


def test_periods_count_after_one_e_fold(make):
    run = make(*saw(50))  # an e-fold takes 62.5 epochs
    turns = run.periods.turns
    assert turns[0] < 62.5 < turns[1]
    assert periodic.settled(run).turns.tolist() == turns[1:].tolist()


def test_a_range_is_judged_by_both_sweeps_and_both_ends(make):
    lrs, wds = ([*sweep(make, key, 1.0)] for key in ("lr_init", "wd"))
    low, _ = ends(make)
    accuracy = np.repeat([0.1, 0.55], 300)
    loss, rho = chaos()
    loss[:300] *= np.linspace(50, 1, 300)
    high = make(loss, rho, {"lr_init": 9.0}, train_acc=accuracy)
    found = periodic.periods_in_a_range([*lrs, low, high, *wds])
    assert found.holds and found.numbers["error"] == pytest.approx([0.5])
    shared = make(*saw(50), line="of both sweeps")
    found = periodic.periods_in_a_range([*lrs, low, high, *wds, shared])
    assert found.measured.count("11 of 11 runs periodic") == 2
    assert not periodic.periods_in_a_range([*lrs[4:], low, high, *wds]).holds  # no decade of η


def test_exponents_are_of_each_trial_and_each_sweep(make):
    one, other, wds = (
        [*sweep(make, key, exponent)]
        for key, exponent in (("lr_init", 1.0), ("lr_init", 0.7), ("wd", 1.0))
    )
    mixed = [run for run in one if run.config["trial"] == 10]
    mixed += [run for run in other if run.config["trial"] == 11]
    found = periodic.frequency(mixed, wds, wds)
    assert found.numbers["η varied"]["exponents"] == pytest.approx([1, 0.7], abs=0.05)
    assert not periodic.frequency(other, wds, wds).holds
    with pytest.raises(NotMeasurable, match="fewer than three rates"):
        periodic.frequency(one[:4], wds, wds)


def test_beside_the_first_trial_the_worst_is_shown(make):
    first, bad, good = (
        make(*course, {"trial": trial})
        for trial, course in ((10, saw(50)), (11, falling()), (12, saw(40)))
    )
    shown = periodic.panels({"line": [first, bad, good]})
    assert shown == {"line, trial 10": first, "line, trial 11 (worst)": bad}


def test_the_worst_trial_is_one_that_is_not_periodic(make):
    few = make(*saw(120), {"trial": 10})
    irregular = make(*np.hstack([saw(n, n) for n in (12, 90) * 6]), {"trial": 11})
    assert len(periodic.settled(irregular)) > len(periodic.settled(few))
    assert not periodic.settled(irregular).is_periodic
    assert "line, trial 11 (worst)" in periodic.panels({"line": [few, irregular]})


# --- minima ---


def test_an_ensemble_gains_over_the_better_of_its_members():
    found = {"report_epochs": np.arange(1, 4), "acc": np.array([0.6, 0.5, 0.7]),
             "ensemble_acc": np.array([0.7, 0.5, 0.9]),
             "independent_report_epochs": np.arange(2, 4), "independent_acc": np.array([0.1, 0.9]),
             "independent_ensemble_acc": np.array([0.6, 0.95])}  # fmt: skip
    assert minima.gain(found, 2, [1, 3]) == pytest.approx((10 + 20) / 2)
    assert minima.gain(found, 1, [3]) == pytest.approx(20)
    assert minima.gain(found, 1, [2, 3], "independent_") == pytest.approx((0 + 5) / 2)


def made_with_checkpoints(make, trial):
    run = make(*saw(50), {"trial": trial})
    for epoch in range(1, 601):
        runs.checkpoint_path(run.folder, epoch).touch()
    np.savez(run.folder / "train-tm.npz", report_epochs=np.arange(1, 601), loss=saw(50)[0])
    return run


def test_minima_are_different_by_gains_of_later_periods(make, monkeypatch):
    run, other = (made_with_checkpoints(make, trial) for trial in (10, 11))
    lows = minima.minima_of_periods(run)
    asked = []

    def compare(folder, anchor, independent, epochs):
        asked.append((folder, anchor, independent))
        epochs = np.array(sorted(epochs))
        ensemble = 0.5 + 0.1 * (epochs > lows[1]) - 0.3 * (epochs == anchor)
        found = {"report_epochs": epochs, "acc": np.full(len(epochs), 0.5), "cosine": epochs,
                 "ensemble_acc": ensemble}  # fmt: skip
        far = {**found, "ensemble_acc": found["acc"] + 0.2 * np.isin(epochs, lows[2:])}
        return found | ({f"independent_{k}": v for k, v in far.items()} if independent else {})

    monkeypatch.setattr(minima.diversity, "compare", compare)
    found = minima.different_minima([run])
    start = run.periods.cycles[1].start
    late = math.ceil(start + 0.75 * (lows[1] - start))
    assert start < late < lows[1] and asked == [(run.folder, late, None)]
    (row,) = found.numbers["trials"]
    assert (row["gain_of_periods"], row["gain_within"]) == pytest.approx((10, 0))
    assert row["same_period"] == [*range(late + 1, lows[1] + 1)]
    assert np.isnan(row["gain_of_another_seed"])
    assert row["cosine"] == sorted([late, *lows]) and found.holds
    asked.clear()
    rows = minima.different_minima([run, other]).numbers["trials"]
    assert [row["gain_of_another_seed"] for row in rows] == pytest.approx([20, 20])
    assert [words[2] for words in asked] == [other.folder, run.folder]
    # Without any in the last quarter the anchor is the one before the minimum, however far it is.
    for epoch in range(round(start), lows[1]):
        runs.checkpoint_path(run.folder, epoch).unlink()
    (row,) = minima.different_minima([run]).numbers["trials"]
    assert (row["anchor"], row["same_period"]) == (round(start) - 1, [lows[1]])
    # A state within an epoch is no checkpoint of the epoch.
    runs.checkpoint_path(run.folder, lows[1]).rename(runs.checkpoint_path(run.folder, lows[1], 1))
    assert lows[1] not in minima.minima_of_periods(run)
    monkeypatch.setattr(minima, "minima_of_periods", lambda run: lows[:2])
    with pytest.raises(NotMeasurable, match="fewer than three periods"):
        minima.different_minima([run])


def test_turning_is_near_destabilisations_or_elsewhere(make, monkeypatch):
    run = made_with_checkpoints(make, 10)
    turns, since = run.periods.turns, np.arange(600)
    near = np.min(np.abs(since[:, None] - turns + 0.5), axis=1) < 3
    angle = np.where(near, 1.0, 0.05)
    turned = {"from": since, "to": since + 1, "angle": angle}
    monkeypatch.setattr(minima.diversity, "turning", lambda folder: turned)
    found = minima.turning_at_destabilisations([run], [run])
    after = since >= turns[0] - 3
    for name in ("digits", "images"):
        (row,) = found.numbers[name]
        assert row["turning"] == pytest.approx(angle[near].sum() / angle[after].sum())
        assert row["time"] == pytest.approx(np.mean(near[after]))
    assert found.holds
    turned["angle"] = np.ones(600)
    assert not minima.turning_at_destabilisations([run], [run]).holds
    with pytest.raises(NotMeasurable, match="has no period"):
        minima.turning_at_destabilisations([make(*falling(20))], [run])


def test_minima_improve_by_the_test_errors_of_the_first_six(make, monkeypatch):
    made = [make(*falling(20)) for _ in range(5)]
    lows = {run.folder: [*range(1, 9)] for run in made}

    def measure(folder, path):
        epoch = int(path.stem.removeprefix("checkpoint-"))
        return {"error": 0.2 - 0.01 * epoch if epoch <= 6 else 0.9}

    monkeypatch.setattr(minima, "minima_of_periods", lambda run: lows[run.folder])
    monkeypatch.setattr(minima, "measure", measure)
    found = minima.first_minima_improve(made)
    rows = found.numbers["trials"]
    assert found.holds and [row["trend"] for row in rows] == pytest.approx([-1] * 5)
    assert rows[4]["errors"] == pytest.approx([19, 18, 17, 16, 15, 14, 90, 90])
    assert rows[4]["minima"] == lows[made[4].folder] == [*range(1, 9)]
    lows[made[2].folder] = [*range(1, 6)]
    with pytest.raises(NotMeasurable, match="fewer than 6 periods"):
        minima.first_minima_improve(made)


# --- the sphere ---


def test_error_at_a_loss_is_between_the_epochs_around_it(make):
    loss, error = 10 ** (-3 * np.arange(300) / 300), np.linspace(0.9, 0.3, 300)
    run = on_sphere(make, 0.001, loss, error)
    found = sphere.at_loss(run, 10**-1.005)
    assert found == pytest.approx((50 * (error[100] + error[101]), 5.0))
    assert np.isnan(sphere.at_loss(run, 1e-9)).all()


def test_features_are_those_of_converging_rates(make):
    loss = 10 ** (-3 * np.arange(300) / 300)
    lines = [on_sphere(make, elr, loss, np.full(300, 0.001)) for elr in (1e-4, 2e-4, 4e-4)]
    lines.append(on_sphere(make, 1.0, chaos(300)[0], np.full(300, 0.5)))
    assert len(sphere.features(lines).numbers["rows"][0]["errors"]) == 3
    with pytest.raises(NotMeasurable, match="fewer than three rates converge"):
        sphere.features(lines[1:])
    lines[0] = on_sphere(make, 5e-5, 10 * loss[:200], np.full(200, 0.001))
    found = sphere.features(lines)
    assert found.holds is None and "1 of 3 runs do not come to that loss" in found.measured
    for gradients, holds in (((3, 2, 1), None), ((1, 2, 3), False)):  # of another seed
        whole = [
            on_sphere(
                make, elr, 10 ** (-3 * np.arange(300) / 300), np.full(300, 0.001), g, trial=11
            )
            for elr, g in zip((1e-4, 2e-4, 4e-4), gradients, strict=True)
        ]
        found = sphere.features(lines + whole)
        assert found.holds is holds and found.measured.endswith("of 1 seeds")


def test_optima_are_compared_with_the_rate_that_is_best_on_held_out_images(make, monkeypatch):
    lines, called = [], []
    for elr, error, held_out in ((1e-3, 0.2, 0.5), (2e-3, 0.3, 0.7), (8e-3, 0.1, 0.9)):
        run = on_sphere(make, elr, falling(20)[0], np.append(np.full(19, 0.05), error))
        rows = [{**row, "test_acc": 0.95} for row in runs.read_log(run.folder)]
        rows[-1]["test_acc"] = held_out  # the last counts, not the best
        runs.write_log(run.folder, rows)
        lines.append(run)
    lines[2] = Run(lines[2].folder, {**lines[2].config, "epochs": 8})

    def branch(run, epoch, epochs, **changes):
        called.append((run, epoch, epochs, changes))
        return lines[0]

    monkeypatch.setattr(sphere, "branch", branch)
    (row,) = sphere.better_optima(lines).numbers["rows"]
    assert (row["constant_elr"], row["constant"]) == (2e-3, pytest.approx(30))
    assert row["dropped"] == pytest.approx(20)
    assert called == [(lines[2], 8, 12, {"elr": sphere.LOW})]
    with pytest.raises(NotMeasurable, match="highest rate"):
        sphere.better_optima(lines[:2])


def test_levels_are_those_of_chaotic_rates_and_seeds_are_apart(make, monkeypatch):
    lines = [*regimes_of(make, ("low", *"abcd", "high"))]
    monkeypatch.setattr(sphere, "random_walk", lambda run: 0.01)
    numbers = sphere.three_regimes(lines).numbers
    assert [len(levels) for levels in numbers["chaotic_levels"]] == [4]
    assert numbers["walks"] == [[0.01]]  # of the one divergent rate
    apart = [
        Run(run.folder, {**run.config, "trial": trial})
        for trial in (11, 10)
        for run in reversed(lines)
    ]
    found = [[(r.config["trial"], r.config["elr"]) for r in line] for line in seeds(apart)]
    rates = [run.config["elr"] for run in lines]
    assert found == [[(trial, elr) for elr in rates] for trial in (10, 11)]


def test_rates_are_dropped_from_chaos_to_those_that_converge(make, monkeypatch):
    lines = [*regimes_of(make, ("low", "a", "high"))]
    called = []

    def drop(run, epoch, elr):
        called.append((run, epoch, elr))
        return lines[0]

    monkeypatch.setattr(second_regime, "drop", drop)
    monkeypatch.setattr(second_regime, "average", lambda run, epoch: float(epoch))
    rows = second_regime.compare(3, lines)
    low, middle, _ = (run.config["elr"] for run in lines)
    assert called == [(lines[1], 200, low)]
    assert [row["how"] for row in rows] == ["constant"] * 3 + ["drop", "average"]
    assert rows[3]["elr"] == middle and rows[4]["test error"] == 200
    first, *_, last = second_regime.summary(rows).splitlines()[2:]
    assert "constant" in first or "drop" in first
    assert "average" in last  # the highest error comes last
