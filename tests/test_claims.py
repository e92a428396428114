"""What the claims measure, on runs whose numbers are known."""

import itertools
import math

import numpy as np
import pytest
from made_runs import chaos, chaotic, falling, on_sphere, saw, sphere_of

import runs
from claims import claim, mechanism, minima, periodic, sphere
from claims.claim import CLAIMS, NotMeasurable
from theory.periods import find_periods


def by_name(finding):
    """The estimates by what they are of, the setting left out."""
    return {e.name.split(": ")[-1]: e for e in finding.estimates}


def value(finding, name):
    return by_name(finding)[name].interval.value


@pytest.fixture
def trace_of(monkeypatch):
    """Give a run a trace of steps, 4 an epoch, without writing it."""
    traces = {}

    def give(run, columns):
        steps = len(columns["loss"])
        columns = {"epoch": np.arange(steps) / 4, "lr": np.full(steps, 0.1), **columns}
        traces[run.folder] = columns

    read = runs.Run.trace
    monkeypatch.setattr(
        runs.Run, "trace",
        lambda run: traces[run.folder] if run.folder in traces else read(run),
    )  # fmt: skip
    return give


# --- the designs ---


@pytest.mark.parametrize("one", CLAIMS, ids=lambda one: one.key)
def test_a_claim_says_what_it_is_judged_by(one):
    assert [*one.design] == [*claim.PARTS] and all(one.design.values())
    assert one.power[1] > 0.85  # planned for the effect seen so far
    assert len(one.seeds) == len(one.settings) and all(seeds >= 5 for seeds in one.seeds)


def test_rows_that_share_runs_have_the_same_settings():
    settings = {one.key: one.settings for one in CLAIMS}
    for a, b in (("norm_in_chaos", "ordinary"), ("frequency", "length")):
        assert settings[a] == settings[b]
    assert settings["minima"] == settings["improvement"] == settings["turning"][1:]


# --- periods ---


def test_periodic_seeds(make):
    line = [make(*saw(50), {"trial": t}, "a") for t in (40, 41)]
    line.append(make(*falling(), {"trial": 42}, "a"))
    found = periodic.adam(line)
    assert value(found, "share of seeds periodic") == pytest.approx(2 / 3)
    assert by_name(found)["share of seeds periodic"].seeds == [True, True, False]
    assert len(by_name(found)["CV of the lengths"].seeds) == 2
    assert found.verdict == "undecided"


def test_each_line_is_judged_alone(make):
    lines = [[make(*saw(50), {"trial": t}, name) for t in range(12)] for name in "abc"]
    assert periodic.each([*itertools.chain(*lines)]).verdict == "supported"
    lines[1] = [make(*falling(), {"trial": t}, f"b{t}") for t in range(12)]
    bad = [claim.Run(run.folder.parent.parent / "b" / run.folder.name, run.config)
           for run in lines[1]]  # fmt: skip
    for run, moved in zip(lines[1], bad, strict=True):
        moved.folder.parent.mkdir(exist_ok=True)
        run.folder.rename(moved.folder)
    assert periodic.each([*lines[0], *bad, *lines[2]]).verdict == "contradicted"


@pytest.mark.parametrize("exponent", [1.0, 0.7])
def test_exponents_and_their_parts(make, exponent):
    def sweep(name):
        for factor in (1, 1.8, 3, 5.6, 10):
            for trial in (40, 41, 42):
                period = round(200 * factor**-exponent)
                config = {"lr_init": 0.025 * factor, "trial": trial, "epochs": 8 * period}
                yield make(*saw(period, 8 * period, 0.004 * factor), config, f"{name}{factor}")

    found = periodic.frequency([*sweep("a")], [*sweep("b")])
    parts = {e.name: e.interval.value for e in found.estimates}
    assert parts["digits: exponent of frequency"] == pytest.approx(exponent, abs=0.05)
    law = parts["images: exponent of frequency × depth"]
    assert law == pytest.approx(1, abs=0.08)
    assert parts["images: exponent of depth"] == pytest.approx(law - exponent, abs=0.08)


def test_length_of_phase_b_is_that_of_weight_decay(make):
    def lines(slower):
        return [make(*saw(50, slower=slower), {"trial": t}, f"{slower}") for t in (40, 41, 42)]

    found = periodic.length(lines(1.1), lines(1.5))
    values = [e.interval.value for e in found.estimates]
    assert values == pytest.approx([1.1, 1.5], rel=0.03)
    assert [e.verdict for e in found.estimates] == ["supported", "contradicted"]


def test_range_needs_every_rate_and_both_ends(make):
    def line(name, course, lr):
        return [make(*course, {"trial": t, "lr_init": lr}, name) for t in range(12)]

    good = [line(f"r{lr}", saw(50), lr) for lr in (0.05, 0.1, 0.2)]
    low, high = line("low", falling(), 1e-4), line("high", chaos(), 9.0)
    digits, images = [*low, *itertools.chain(*good), *high], [*itertools.chain(*good)]
    assert periodic.range_(digits, images).verdict == "supported"
    learns = line("learns", falling(), 9.0)
    assert periodic.range_([*digits[:-12], *learns], images).verdict == "contradicted"
    early = line("early", saw(50), 1e-4)
    assert periodic.range_([*early, *digits[12:]], images).verdict == "contradicted"
    none = line("none", falling(), 0.3)
    assert periodic.range_(digits, [*images[:-12], *none]).verdict == "contradicted"


# --- branches ---


@pytest.fixture
def branches(make, monkeypatch):
    """Branches are not trained: those with ρ free destabilise half way."""
    asked = []

    def fake(run, epoch, epochs, **changes):
        asked.append((epoch, epochs, changes))
        loss, rho = np.ones(epochs), np.ones(epochs)
        if not changes.get("fix_si_pnorm"):
            later = changes.get("lr_init", run.config["lr_init"]) < run.config["lr_init"]
            loss[min(epochs // 3 + 10 * later, epochs - 1) :] = 5
        return make(loss, rho)

    for module in (mechanism, minima, periodic):
        monkeypatch.setattr(module, "branch", fake)
    return asked


def test_cause_compares_branches_and_whole_runs(make, branches):
    bases = [make(*saw(50), {"trial": t}) for t in (40, 41)]
    found = mechanism.cause(bases)
    assert value(found, "risk difference") == 1
    assert value(found, "difference of shares with a regular loss") == 1
    assert value(found, "swings of the loss at fixed ρ, over those of the free run") == 0
    period = claim.settled(bases[0]).cycles[0]
    needed = period.turn - period.start
    assert branches[0][:2] == (round(period.start + needed / 4), 3 * round(needed))
    assert branches[0][2]["seed"] == claim.OTHER_SEED  # not the parent's own batches
    norms = [c["fix_si_pnorm_value"] for e, _, c in branches if e == 0][:5]
    settled = claim.settled(bases[0])
    assert norms[0] == pytest.approx(np.median(settled.each("rho_turn")))
    assert norms[-1] == pytest.approx(np.median(settled.each("rho_start")))
    with pytest.raises(NotMeasurable, match="no period to branch from"):
        mechanism.cause([make(*falling())])


def test_sharpness_is_a_delay_over_its_theory(make, branches):
    found = mechanism.sharpness([make(*saw(50), {"trial": t}) for t in (40, 41)])
    theory = math.log(2) / 2 / 0.016
    assert value(found, "delay over its theory") == pytest.approx(10 / theory)
    changes = [c for _, _, c in branches if "lr_init" in c]
    assert changes[0]["lr_init"] == 0.05 and changes[0]["wd"] == 0.08


@pytest.mark.parametrize("factor, verdict", [(1.0, "supported"), (3.0, "contradicted")])
def test_half_of_the_branches_jump_at_the_bound_of_other_seeds(
    make, trace_of, monkeypatch, factor, verdict
):
    """Effective gradients of 2 put the bound at sqrt(2 δ - δ²) / (1 - δ) / 2 = 0.071."""
    loss, rho = saw(50)
    bases = []
    for trial in range(4):
        bases.append(make(loss, rho, {"trial": trial}))
        trace_of(bases[-1], {"loss": np.repeat(loss, 4), "si_norm": np.repeat(rho, 4),
                             "gradient_norm": 2 / np.repeat(rho, 4)})  # fmt: skip
    asked = []

    def fake(run, epoch, epochs, **changes):
        asked.append(changes)
        found = make(np.ones(epochs), np.ones(epochs))
        spread = 1 + 0.02 * run.config["trial"]
        jumps = changes["lr_init"] / rho[epoch - 1] ** 2 > 0.071 * factor * spread
        trace_of(found, {"loss": np.ones(60), "si_norm": np.full(60, rho[epoch - 1]),
                         "one_minus_cosine": np.full(60, 0.5 * jumps)})  # fmt: skip
        return found

    monkeypatch.setattr(mechanism, "branch", fake)
    found = mechanism.destabilisation(bases)
    words = "η̃ at which half jump, over the bound"
    assert value(found, words) == pytest.approx(factor, rel=0.2)  # steps of √2
    assert found.verdict == verdict
    assert all(c["fix_si_pnorm"] for c in asked)
    products = {round(c["lr_init"] * c["wd"], 12) for c in asked}
    assert products == {0.004} and len(asked) == 4 * 3 * 13


def test_branches_that_jump_too_late_do_not_count(make, trace_of, monkeypatch):
    loss, rho = saw(50)
    bases = [make(loss, rho) for _ in range(2)]
    for base in bases:
        trace_of(base, {"loss": np.repeat(loss, 4), "si_norm": np.repeat(rho, 4),
                        "gradient_norm": np.ones(2400)})  # fmt: skip

    def fake(run, epoch, epochs, **changes):
        found = make(np.ones(epochs), np.ones(epochs))
        late = np.arange(60) >= mechanism.WITHIN
        trace_of(found, {"loss": np.ones(60), "si_norm": np.ones(60),
                         "one_minus_cosine": 0.5 * late})  # fmt: skip
        return found

    monkeypatch.setattr(mechanism, "branch", fake)
    monkeypatch.setattr(mechanism, "FACTORS", (0.5, 1, 2))
    assert not any(any(row["jumps"]) for row in mechanism.destabilisation(bases).rows)


def test_when_a_run_destabilises(make):
    loss = np.array([2, 1, 0.5, 1.9, 2.1, 0.1])
    assert claim.destabilises(make(loss, np.ones(6))) == 5
    assert claim.destabilises(make(loss[:4], np.ones(4))) == math.inf
    assert claim.destabilises(make(np.array([1, math.nan]), np.ones(2))) == 2


def test_periods_of_the_loss_alone(make):
    held = make(saw(50)[0], np.full(600, 3.0))
    assert len(claim.loss_periods(held)) == 11 and len(held.periods) == 0
    assert claim.loss_periods(held, 300).turns[0] > 300
    assert len(claim.loss_periods(make(*chaos()))) == 0


def test_a_branch_with_the_norm_held(run):
    """From the same checkpoint with other batches: the one keeps ρ, the other does not."""
    folder = run("--save_freq 1")
    parent = runs.Run(folder, runs.read_config(folder))
    held = claim.branch(parent, 2, 2, seed=5, fix_si_pnorm=True, **claim.LOG_ONLY)
    free = claim.branch(parent, 2, 2, seed=5)
    assert np.ptp(held.log()["si_norm"]) < 1e-4 < np.ptp(free.log()["si_norm"])
    assert held.log()["epoch"].tolist() == [3, 4] and held.folder.parent == folder
    assert claim.branch(parent, 2, 3, seed=5).log()["epoch"].tolist() == [3, 4, 5]
    assert claim.branch(parent, 2, 2, seed=5).log()["epoch"].tolist() == [3, 4]


def test_practice_asks_whether_its_swings_need_the_norm(make, branches):
    line = [make(*saw(50), {"trial": t}, "a") for t in range(12)]
    found = periodic.practice(line)
    assert value(found, "regular loss, free minus held") == 1 and found.verdict == "supported"
    assert all(c["fix_si_pnorm"] for _, _, c in branches)


# --- the norm ---


@pytest.mark.parametrize("fall, verdict", [(0, "supported"), (1, "contradicted")])
def test_consistent_behaviour(make, trace_of, fall, verdict):
    found = []
    for trial in range(8):
        loss, rho = saw(50, 1200)
        rho = rho * np.exp(-fall * np.arange(1200) / 1200 * (1 + 0.01 * trial))
        found.append(make(loss, rho, {"trial": trial, "wd": 0.2}))
        gradient = np.tile(np.repeat([0.1, 50.0], [190, 10]), 24) / np.repeat(rho, 4)
        trace_of(found[-1], {"loss": np.repeat(loss, 4), "si_norm": np.repeat(rho, 4),
                             "gradient_norm": gradient})  # fmt: skip
    judged = by_name(mechanism.consistent(found))
    assert judged["drift of length"].verdict == "supported"
    assert judged["drift of ρ at maxima"].verdict == verdict
    with pytest.raises(NotMeasurable, match="periods after 5 e-folds"):
        mechanism.consistent([make(*falling())])


@pytest.mark.parametrize("factor, loss, verdicts", [
    (1.2, 2.0, ("contradicted", "supported")), (1.0, 3.5, ("supported", "contradicted")),
])  # fmt: skip
def test_chaos_is_that_of_the_sphere(make, factor, loss, verdicts):
    lines, spheres = [], []
    for trial in range(2):
        for wd in (0.02, 0.03, 0.05):
            config = {"wd": wd, "trial": trial}
            run = chaotic(make, factor * (1 + 0.001 * trial), loss, line=f"wd_{wd}", **config)
            lines.append(run)
        spheres += sphere_of(make, trial=trial)
    assert sphere.norm_in_chaos(lines, spheres).verdict == verdicts[0]
    if factor == 1:
        assert sphere.ordinary(lines, spheres).verdict == verdicts[1]
    far = [on_sphere(make, elr, chaos(60)[0], np.full(60, 0.5), traced=True, trial=0)
           for elr in (10.0, 100.0)]  # fmt: skip
    with pytest.raises(NotMeasurable, match="outside the sphere's rates"):
        sphere.ordinary(lines[:1], far)


def test_forecast_norm_of_gradients_that_grow_with_the_rate():
    """G = (η̃ / 10⁻³)^½ makes ρ⁶ = η² / (10⁻³ λ (2 - ηλ))."""
    elrs, gradients = np.array([1e-3, 1e-1]), np.array([1.0, 10.0])
    found = sphere.forecast_norm(elrs, gradients, 0.1, 0.1)
    assert found == pytest.approx((0.01 / (1e-3 * 0.1 * 1.99)) ** (1 / 6), rel=3e-3)
    assert math.isnan(sphere.forecast_norm(elrs, gradients, 0.1, 1e-9))


def test_the_angle_of_steps_is_their_root_mean_square_in_the_second_half(make, trace_of):
    angle = math.sqrt(2 * 0.1 * 0.04 / 1.9)
    found = []
    for trial in (40, 41):
        found.append(make(*chaos(20), {"momentum": 0.9, "trial": trial}, "a"))
        squares = np.append(np.zeros(40), [angle**2, 0.0] * 20)
        trace_of(found[-1], {"loss": np.ones(80), "one_minus_cosine": squares})
    (estimate,) = mechanism.angles(found).estimates
    assert estimate.name == "SGD, momentum, ηλ = 0.004" and estimate.interval.value == 1


# --- minima ---


def with_checkpoints(make, trial):
    run = make(*saw(50), {"trial": trial})
    for epoch in range(1, 601):
        runs.checkpoint_path(run.folder, epoch).touch()
    at_end = np.append(saw(50)[0][1:], 1.0)  # of the checkpoint after the epoch
    np.savez(run.folder / "train-tm.npz", report_epochs=np.arange(1, 601), loss=at_end)
    return run


def test_minima_gain_more_than_equal_time_with_the_norm_held(make, branches, monkeypatch):
    found = [with_checkpoints(make, trial) for trial in (40, 41)]
    lows = minima.minima_of_periods(found[0])
    assert len(lows) == 11  # by the loss of checkpoints, not the mean of an epoch
    anchor = minima.anchor_of(found[0], lows)
    start = found[0].periods.cycles[1].start
    assert start + 0.75 * (lows[1] - start) <= anchor < lows[1]

    def compare(folder, anchor, other, epochs):
        epochs = np.array(sorted(epochs))
        gains = {"": 0.1, "independent_": 0.2 if other in [run.folder for run in found] else 0.04}
        arrays = {"report_epochs": epochs, "acc": np.full(len(epochs), 0.5)}
        arrays["ensemble_acc"] = 0.5 + gains[""] * (epochs != anchor)
        far = {**arrays, "ensemble_acc": np.full(len(epochs), 0.5 + gains["independent_"])}
        return arrays | {f"independent_{k}": v for k, v in far.items()}

    monkeypatch.setattr(minima.diversity, "compare", compare)
    rows = minima.minima(found)
    assert value(rows, "extra gain of later periods over ρ held, points") == pytest.approx(6)
    share = value(rows, "gain of the last minima over an independent network's")
    assert share == pytest.approx(0.5)
    assert branches[0] == (anchor, 600 - anchor, {"fix_si_pnorm": True})
    with pytest.raises(NotMeasurable, match="fewer than 4"):
        minima.minima_of_periods(make_few(make))


def make_few(make):
    run = make(*saw(200))
    np.savez(run.folder / "train-tm.npz", report_epochs=np.arange(600), loss=saw(200)[0])
    return run


def test_turning_is_a_ratio_of_rates(make, monkeypatch):
    run = with_checkpoints(make, 40)
    since = np.arange(600)
    near = np.min(np.abs(since[:, None] - run.periods.turns + 0.5), axis=1) < 3
    turned = {"from": since, "to": since + 1, "angle": np.where(near, 0.6, 0.2)}
    monkeypatch.setattr(minima.diversity, "turning", lambda folder: turned)
    found = minima.turning([run, run], [run, run])
    assert [e.interval.value for e in found.estimates] == pytest.approx([3, 3])


def test_improvement_is_of_the_first_three_to_the_last_five(make, branches, monkeypatch):
    found = [with_checkpoints(make, trial) for trial in (40, 41)]
    folders = [run.folder for run in found]
    monkeypatch.setattr(
        minima, "error_at",
        lambda run, epoch: 50 - epoch / 100 if run.folder in folders else 48 + 0 * epoch,
    )  # fmt: skip
    judged = by_name(minima.improvement(found))
    lows = minima.minima_of_periods(found[0])
    expected = -(np.mean(lows[-5:]) - np.mean(lows[:3])) / 100
    fall = judged["test error, first 3 to last 5 minima, points"].interval.value
    assert fall == pytest.approx(expected)
    against = judged["the last 5 against equal time with ρ held, points"].interval.value
    assert against == pytest.approx(2 - np.mean(lows[-5:]) / 100)


# --- the sphere ---


def sphere_seed(make, trial, levels, drift=1.0):
    """Runs at rising rates: a level of None converges, 9 is that of guessing."""
    for number, level in enumerate(levels):
        error = np.full(300, 0.001 if level is None else 0.9 if level == 9 else 0.5)
        loss = falling(300)[0] if level is None else chaos(300, level)[0]
        loss[225:] *= drift if number in (2, 3) else 1
        yield on_sphere(make, 0.001 * 2**number, loss, error, trial=trial)


@pytest.mark.parametrize("levels, drift, verdict", [
    ((None, 1, 2, 4, 9), 1.0, "supported"), ((None, 4, 2, 1, 9), 1.0, "contradicted"),
    ((1, None, 2, 4, 9), 1.0, "contradicted"), ((None, 1, 2, 4, 9), 1.5, "contradicted"),
])  # fmt: skip
def test_regimes(make, levels, drift, verdict):
    found = []
    for trial in range(8):
        scaled = [x if x in (None, 9) else x ** (1 + trial / 100) for x in levels]
        found += sphere_seed(make, trial, scaled, drift)
    judged = sphere.regimes(found)
    assert judged.verdict == verdict
    if verdict == "supported":
        assert value(judged, "slope of log level on log ELR") == pytest.approx(1, abs=0.1)
        begins = value(judged, "ELR where the second regime begins")
        assert begins == pytest.approx(0.001 * math.sqrt(2))


def test_features_are_slopes_at_equal_loss_and_at_the_end(make, monkeypatch):
    monkeypatch.setattr(sphere, "sharpness_at_end", lambda run: (run.config["elr"] ** -1, 1.0))
    found = []
    for trial in range(3):
        for number, elr in enumerate((1e-3, 2e-3, 4e-3)):
            loss = 10 ** (-3 * np.arange(300) / 300)
            error = np.linspace(0.9, 0.5 - 0.1 * number - 0.001 * trial * number, 300)
            run = on_sphere(make, elr, loss, np.full(300, 0.001), trial=trial)
            arrays = {"report_epochs": np.arange(300), "loss": loss, "acc": 1 - error}
            np.savez(run.folder / "test-em.npz", **arrays)
            found.append(run)
    judged = sphere.features(found)
    assert value(judged, "test error per doubling at the end") == pytest.approx(-10.1)
    at_loss = value(judged, "test error per doubling at a loss of 0.1")
    assert at_loss == pytest.approx(-10.1 * 100 / 299, rel=0.01)
    assert value(judged, "log₂ Fisher trace × ELR per doubling") == pytest.approx(-1)
    assert judged.verdict == "supported"
    assert math.isnan(sphere.error_at_loss(found[0], 1e-9))


def test_optima_are_compared_with_the_best_constant_rate_and_with_the_same_drop(make, monkeypatch):
    found = []
    for trial in range(3):
        for elr, error, held_out in ((1e-3, 0.2, 0.5), (3e-3, 0.3, 0.7), (8e-3, 0.1, 0.9)):
            run = on_sphere(
                make, elr, falling(20)[0], np.append(np.full(19, 0.05), error), trial=trial
            )
            rows = [{**row, "test_acc": 0.95} for row in runs.read_log(run.folder)]
            rows[-1]["test_acc"] = held_out  # the last counts, not the best
            runs.write_log(run.folder, rows)
            found.append(run)
    ends = {8e-3: 0.25, 3e-3: 0.27}

    def branch(run, epoch, epochs, elr):
        assert (epoch, epochs, elr) == (100, 100, sphere.LOW)
        end = ends[run.config["elr"]] + 0.001 * run.config["trial"]
        return on_sphere(make, elr, falling(20)[0], np.full(20, end))

    monkeypatch.setattr(sphere, "branch", branch)
    judged = by_name(sphere.optima(found))
    best, drop = (judged[name].interval.value for name in judged)
    assert best == pytest.approx(100 * (0.251 - 0.3)) and drop == pytest.approx(-2)


@pytest.mark.parametrize("boundary, verdict", [(0.2857, "supported"), (0.3, "contradicted")])
def test_toy(monkeypatch, boundary, verdict):
    monkeypatch.setattr(sphere.toy_model, "convergence_boundary", lambda steps: boundary)
    monkeypatch.setattr(sphere, "TOY_STEPS", 3000)
    assert sphere.toy().verdict == verdict


def test_settled_periods_are_those_after_one_e_fold(make):
    run = make(*saw(50))  # an e-fold takes 62.5 epochs
    turns = run.periods.turns
    assert turns[0] < 62.5 < turns[1]
    assert claim.settled(run).turns.tolist() == turns[1:].tolist()
    log = run.log()
    whole = find_periods(log["epoch"], log["train_loss"], log["si_norm"])
    assert whole.until(300).turns.tolist() == [t for t in whole.turns if t <= 300]
    assert whole.until(300).end == 300
