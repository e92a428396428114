"""What the claims measure, on runs whose numbers are known."""

import functools
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import chaos, chaotic, falling, on_sphere, saw, seeds_of, sphere_of

import runs.checkpoints
from claims import branches, mechanism, minima, periodic, sphere
from claims.claim import NotMeasurable
from claims.statistics import ABOVE, BELOW, verdict_of


def values(found):
    return {e.name: e.value for e in found[0]}


def margins(found):
    return {e.name: e.inside for e in found[0] if e.inside}


def verdicts(found):
    return [e.verdict for e in found[0] if e.inside]


@pytest.fixture
def trace_of(monkeypatch):
    """Give a run a trace of steps, 4 an epoch, without writing it."""
    traces = {}

    def give(run, **columns):
        steps = len(columns["si_norm"])
        usual = {"epoch": np.arange(steps) / 4, "gradient_norm": np.ones(steps)}
        traces[run.folder] = usual | columns

    monkeypatch.setattr(runs.Run, "trace", lambda run: traces[run.folder])
    return give


def test_lines_are_judged_by_their_shares_of_periodic_seeds(make):
    line = seeds_of(make, saw(50), 2, "a") + seeds_of(make, saw(250), 1, "a")  # two periods
    found = periodic.adam(line)
    shares, cv, limit = found[0]
    assert values(found)["Adam: share of seeds periodic"] == pytest.approx(2 / 3)
    assert shares.seeds == [row["periodic"] for row in found[1]] == [True, True, False]
    assert cv.seeds.tolist() == [0, 0]
    assert limit.seeds == pytest.approx(line[0].periods.after(62.5).cv_limit)
    others = seeds_of(make, saw(50), 5, "b") + seeds_of(make, falling(), 5, "c")
    found = periodic.each(others + line)
    assert verdicts(found) == ["supported", "contradicted", "undecided"]
    assert [*margins(found)][1] == "augmentation: share of seeds periodic"


def test_exponents_and_their_parts(make):
    def sweep(exponent):
        for factor, trial in itertools.product((1, 1.8, 3, 5.6, 10), (40, 41)):
            period = round(200 * factor**-exponent)
            config = {"lr_init": 0.025 * factor, "trial": trial, "epochs": 8 * period}
            yield make(*saw(period, 8 * period, 0.004 * factor), config, f"{exponent} {factor}")

    exponents = {"digits": 1.0, "images": 0.7}
    found = periodic.frequency(*([*sweep(exponent)] for exponent in exponents.values()))
    for data, exponent in exponents.items():
        frequency, law, depth = (values(found)[f"{data}: exponent of {part}"] for part in (
            "frequency", "frequency × depth", "depth"))  # fmt: skip
        assert frequency == pytest.approx(exponent, abs=0.05)
        assert (law, depth) == pytest.approx((1, law - exponent), abs=0.08)
    assert margins(found) == {f"{data}: exponent of frequency": (0.75, 1.25) for data in exponents}


def test_length_of_phase_b_is_that_of_weight_decay(make):
    lines = (seeds_of(make, saw(50, slower=slower), 3, f"{slower}") for slower in (1.1, 1.5))
    found = periodic.length(*lines)
    names = ("digits, ηλ = 0.004: median", "images, ηλ = 0.004: median")
    assert margins(found) == dict.fromkeys(names, (1, 1.25))
    assert [*values(found).values()] == pytest.approx([1.1, 1.5], rel=0.03)


def test_range_needs_every_rate_and_both_ends(make):
    def line(name, course, lr=0.3):
        return seeds_of(make, course, 5, name, lr_init=lr)

    between = [run for lr in (0.05, 0.1, 0.2) for run in line(f"r{lr}", saw(50), lr)]
    level, rho = chaos()
    level[:300] *= 5  # it has settled by the third quarter
    low, high = line("low", falling()), line("high", (level, rho))
    found = periodic.range_([*low, *between, *high], between)
    assert verdict_of(found[0]) == "supported"
    assert [*margins(found).values()] == 7 * [ABOVE(0.5)] + [(1 / 1.25, 1.25)]
    assert values(found)["largest ηλ: training error at the end"] == 0.5
    early, learns = line("early", saw(290)), line("learns", falling())
    for digits, images in (
        ([*early, *between, *high], between),
        ([*low, *between, *learns], between),
        ([*low, *between, *high], [*between[:-5], *low]),
    ):
        assert verdict_of(periodic.range_(digits, images)[0]) == "contradicted"


@pytest.fixture
def asked(make, monkeypatch):
    """Branches are not trained: those with ρ free destabilise, at half of η 10 epochs later."""
    found = []

    def fake(run, epoch, epochs, **changes):
        found.append((epoch, epochs, changes))
        loss, rho = np.ones(epochs), np.ones(epochs)
        if not changes.get("fix_si_pnorm"):
            later = changes.get("lr_init", run.config["lr_init"]) < run.config["lr_init"]
            loss[min(epochs // 3 + 10 * later, epochs - 1) :] = 5
        return make(loss, rho)

    for module in (mechanism, minima, periodic):
        monkeypatch.setattr(module, "branch", fake)
    return found


def test_cause_compares_branches_and_whole_runs(make, asked, monkeypatch):
    bases = seeds_of(make, saw(50), 2)
    found = mechanism.cause(bases)
    assert [*values(found).values()] == [1, 1, 0]
    assert [*margins(found).values()] == [ABOVE(0.5)] * 2
    assert [e.low for e in found[0]] == pytest.approx([2 * 0.025**0.5 - 1] * 2 + [0])  # all alike
    settled = branches.settled(bases[0])
    start, fall = settled.cycles[0].start, settled.cycles[0].turn - settled.cycles[0].start
    assert asked[0][:2] == (round(start + fall / 4), 3 * round(fall))
    assert len(asked) == 2 * (2 * 3 * 3 + 5)  # from three periods, and whole runs
    assert {changes["seed"] for _, _, changes in asked[:18]} == {branches.OTHER_SEED}
    assert {asked[i][:2] for i in range(18, 23)} == {(0, round(20 / 0.016))}
    norms = [changes["fix_si_pnorm_value"] for _, _, changes in asked[18:23]]
    ends = [np.median(settled.each(name)) for name in ("rho_turn", "rho_start")]
    assert [norms[0], norms[-1]] == pytest.approx(ends)
    with pytest.raises(NotMeasurable, match="no period to branch from"):
        mechanism.cause([make(*falling())])
    some = iter([[1, 2, math.inf], [math.inf, math.inf, 3]])  # free, held
    monkeypatch.setattr(mechanism, "delays", lambda *args, **changes: np.array(next(some)))
    assert values(mechanism.cause(bases[:1]))["branches: risk difference"] == pytest.approx(1 / 3)


def test_sharpness_is_a_delay_over_its_theory(make, asked, monkeypatch):
    bases = seeds_of(make, saw(50), 2)
    found = mechanism.sharpness(bases)
    theory = math.log(2) / 2 / 0.016
    assert values(found) == {"delay over its theory": pytest.approx(10 / theory)}
    assert [*margins(found).values()] == [(0.5, 1.5)]
    changed = [changes for _, _, changes in asked if "lr_init" in changes]
    assert changed[0]["lr_init"] == 0.05 and changed[0]["wd"] == 0.08
    # Branches that do not destabilise are left out
    pairs = iter([[5, math.inf, 7], [9, 9, 10], [math.inf] * 3, [1] * 3])
    monkeypatch.setattr(mechanism, "delays", lambda *args, **changes: np.array(next(pairs)))
    estimates, rows = mechanism.sharpness(bases)
    assert estimates[0].seeds == pytest.approx([3.5 / theory])
    assert [row["left_out"] for row in rows] == [1, 3]


def test_half_of_the_branches_jump_at_the_bound_of_other_seeds(make, trace_of, monkeypatch):
    """Effective gradients of 2 put the bound at sqrt(2 δ - δ²) / (1 - δ) / 2 = 0.071."""
    bound, (loss, rho), asked = 0.071, saw(50), []
    since, bases = np.arange(600) % 50, seeds_of(make, (loss, rho), 3)
    effective = np.where(since < 24, 9, np.where(since < 44, 2, 2.5))  # 2: late in phase B
    for run, part in zip(bases, (0.5, 1, 1), strict=True):
        gradient = np.repeat(part * effective / rho, 4)
        trace_of(run, si_norm=np.repeat(rho, 4), gradient_norm=gradient)

    def fake(run, epoch, epochs, **changes):
        asked.append((epochs, changes))
        jumps = changes["lr_init"] / rho[epoch - 1] ** 2 > bound
        angles = np.zeros(60)  # a jump after 50 steps does not count
        angles[49:51] = 0.011 * jumps, 0.5
        found = make(np.ones(epochs), np.ones(epochs))
        trace_of(found, si_norm=np.full(60, rho[epoch - 1]), one_minus_cosine=angles)
        return found

    monkeypatch.setattr(mechanism, "branch", fake)
    found = mechanism.destabilisation(bases)
    half = np.exp(np.mean([math.log(row["half"]) for row in found[1][:3]]))
    assert half == pytest.approx(bound, rel=0.2)  # steps of √2
    # Over the median of the others' gradients: of 2 and 2, or of 1 and 2
    assert found[0][0].seeds == pytest.approx(half / bound * np.array([1, 0.75, 0.75]), rel=0.01)
    _, at_turn, error = values(found).values()
    assert [*margins(found).values()] == [(0.5, 2)]
    assert at_turn == pytest.approx(rho[48] / math.sqrt(0.1 / bound), rel=0.1) and error < 0.05
    assert all(epochs == 13 and c["fix_si_pnorm"] for epochs, c in asked)
    assert {round(c["lr_init"] * c["wd"], 12) for _, c in asked} == {0.004}
    rates = sorted({c["lr_init"] for _, c in asked})
    assert rates == pytest.approx(0.1 * 2 ** (np.arange(-4, 9) / 2)) and len(asked) == 3 * 3 * 13
    monkeypatch.setattr(mechanism, "time_to_turn", lambda *known: 0.0)
    errors = mechanism.forecast_errors(bases[0])
    assert errors == pytest.approx([0.5] * len(errors), abs=0.03)  # all that is left of the fall


@pytest.mark.parametrize("loss, epoch", [
    ([2, 1, 0.5, 1.9, 2.1, 0.1], 5), ([2, 1, 0.5, 1.9], math.inf), ([1, math.nan], 2),
])  # fmt: skip
def test_when_a_run_destabilises(make, loss, epoch):
    assert branches.destabilises(make(np.array(loss), np.ones(len(loss)))) == epoch


def test_periods_of_the_loss_alone_and_those_after_one_e_fold(make):
    for rise, periods in (((2, 3), 0), ((3, 2, 6), 12), ((6,), 12)):  # fourfold, with a dip or not
        swing = [*np.geomspace(rise[-1], 1, 50 - len(rise)), *rise]
        assert len(branches.loss_periods(make(np.tile(swing, 12), np.full(600, 3.0)))) == periods
    run, held = make(*saw(50)), make(saw(50)[0], np.full(600, 3.0))
    assert len(branches.loss_periods(held)) == 11 and len(held.periods) == 0
    assert branches.loss_periods(held, 300).turns[0] > 300
    assert len(branches.loss_periods(make(*chaos()))) == 0
    first, *later = run.periods.turns
    assert first < 62.5 < later[0]  # the epochs of an e-fold
    assert branches.settled(run).turns.tolist() == later


def test_branches_share_a_checkpoint_and_are_trained_once(run):
    """Of two with other batches than their parent's the one keeps ρ, the other does not."""
    parent = runs.read_run(run("--save_freq 1 --metrics"))
    changes = {"seed": 5, "fix_si_pnorm": True, **branches.LOG_ONLY}
    held = branches.branch(parent, 1, 2, **changes)
    free = branches.branch(parent, 1, 2, seed=5)
    assert np.ptp(held.log()["si_norm"]) < 1e-4 < np.ptp(free.log()["si_norm"])
    assert held.log()["epoch"].tolist() == [2, 3] and held.folder.parent == parent.folder
    assert free.is_measured() and not held.is_measured()
    for epochs in (3, 2):  # a longer one is given up to the epochs that are asked for
        found = branches.branch(parent, 1, epochs, **changes).log()
        assert found["epoch"].tolist() == [2, 3, 4][:epochs]
    # *destabilisation* asks for a trace of a branch that *cause* trained without one
    made = []
    for _ in range(2):
        traced = branches.branch(parent, 1, 2, **changes | {"trace": True})
        assert traced.folder == held.folder and branches.is_traced(traced)
        made.append((held.folder / runs.CONFIG).stat().st_mtime_ns)
    assert made[0] == made[1]  # not trained again
    assert traced.trace()["epoch"][:8].tolist() == [1 + k / 4 for k in range(8)]  # steps
    again = branches.branch(parent, 1, 3, **changes)
    assert again.log()["train_loss"][:2].tolist() == found["train_loss"].tolist()  # to the bit
    for _ in range(2):  # one that diverges is a result: trained, and found
        lost = branches.branch(parent, 1, 3, lr_init=1e30, noninvlr=-1, **branches.LOG_ONLY)
        assert branches.destabilises(lost) < math.inf
        assert not np.isfinite(lost.log()["train_loss"]).all()


def test_practice_asks_whether_its_swings_need_the_norm(make, asked):
    found = periodic.practice(seeds_of(make, saw(50, 1200), 13, "a"))
    assert values(found)["regular loss, free minus held"] == 1
    assert found[0][-1].low == pytest.approx(2 * 0.025 ** (1 / 13) - 1)  # seeds all alike
    assert verdicts(found) == ["supported"] * 2
    assert [*margins(found).values()] == [ABOVE(0.5)] * 2
    assert all((e, n) == (300, 500) and c["fix_si_pnorm"] for e, n, c in asked)
    assert max(found[1][-1]["free"]) <= 800


@pytest.mark.parametrize("fall, inside, expected", [
    (0, 50.0, ["supported"] * 4),
    (1, 50.0, ["supported", "contradicted", "contradicted", "supported"]),
    (0, 15.6, ["supported", "supported", "supported", "contradicted"]),  # ρ above 2.8
])  # fmt: skip
def test_consistent_behaviour(make, trace_of, fall, inside, expected):
    found = []
    for trial in range(5):
        loss, rho = saw(50)
        rho = rho * np.exp(-fall * np.arange(600) / 600 * (1 + 0.01 * trial))
        rho[:50] *= 1.5  # before five e-folds
        found.append(make(loss, rho, {"trial": trial, "wd": 0.2}))
        gradient = np.tile(np.repeat([0.1, inside], [190, 10]), 12) / np.repeat(rho, 4)
        trace_of(found[-1], si_norm=np.repeat(rho, 4), gradient_norm=gradient)
    judged = mechanism.consistent(found)
    assert verdicts(judged) == expected
    assert [*margins(judged).values()] == [(0.75, 1.25)] * 3 + [ABOVE(0.5)]
    drift = math.exp(-fall * 1.02 * (1 - 5 * 12.5 / 600))  # after 5 e-folds of 12.5 epochs
    assert values(judged)["drift of ρ at maxima"] == pytest.approx(drift, rel=1e-3)
    with pytest.raises(NotMeasurable, match="periods after 5 e-folds"):
        mechanism.consistent([make(*falling())])


def test_chaos_is_that_of_the_sphere(make):
    lines = [
        chaotic(make, 1.05 + 0.001 * trial, 3.5, f"wd_{wd}", wd=wd, trial=trial)
        for trial in range(2)
        for wd in (0.02, 0.03, 0.05)
    ]
    spheres = [run for trial in range(2) for run in sphere_of(make, (0.01, 0.1, 1.0), trial)]
    found = sphere.norm_in_chaos(lines, spheres)
    assert [*margins(found).values()] == [(0.9, 1.1)] * 3
    assert [*values(found).values()] == pytest.approx([1.05] * 3, rel=0.01)
    found = sphere.ordinary(lines, spheres)
    assert [*margins(found).values()] == [(0.8, 1.2)] * 6
    assert verdicts(found) == ["contradicted", "supported"] * 3
    assert values(found)["ηλ = 0.02: loss over the sphere's"] == pytest.approx(1.75, rel=0.05)
    with pytest.raises(NotMeasurable, match="outside the sphere's rates"):
        sphere.ordinary(lines[:1], sphere_of(make, (10.0, 30.0, 100.0), 0))


def test_levels_and_angles_are_of_the_second_half(make, trace_of):
    """The median of the loss; root mean squares of the effective gradient and of the angle."""
    found, angle = seeds_of(make, chaos(20), 2, momentum=0.9), math.sqrt(2 * 0.1 * 0.04 / 1.9)
    loss = np.append(np.full(40, 9.0), [1, 2, 2, 50] * 10)
    turned = np.append(np.zeros(40), [angle**2, 0.0] * 20)
    for run in found:
        trace_of(run, si_norm=np.full(80, 2.0), gradient_norm=np.tile([0.5, 3.5], 40), loss=loss,
                 one_minus_cosine=turned)  # fmt: skip
    assert sphere.chaos_levels(found[0]) == (2, 5)
    judged = mechanism.angles(found[:1])
    name = "SGD, momentum, ηλ = 0.004: RMS angle over theory's"
    assert values(judged) == {name: pytest.approx(1)}
    assert [*margins(judged).values()] == [(0.9, 1.1)]


def test_forecast_norm_of_gradients_that_grow_with_the_rate():
    """G = (η̃ / 10⁻³)^½ makes ρ⁶ = η² / (10⁻³ λ (2 - ηλ))."""
    elrs, gradients = np.array([1e-3, 1e-1]), np.array([1.0, 10.0])
    found = sphere.forecast_norm(elrs, gradients, 0.1, 0.1)
    assert found == pytest.approx((0.01 / (1e-3 * 0.1 * 1.99)) ** (1 / 6), rel=3e-3)
    assert math.isnan(sphere.forecast_norm(elrs, gradients, 0.1, 1e-9))


@pytest.fixture
def with_checkpoints(make):
    """Runs of a loss after each epoch: log.csv has the mean of an epoch."""
    found, loss = seeds_of(make, saw(50), 2), np.append(saw(50)[0][1:], 1.0)
    for run, epoch in itertools.product(found, range(1, 601)):
        runs.checkpoint_path(run.folder, epoch).touch()
    for run in found:
        np.savez(run.folder / "train-tm.npz", report_epochs=np.arange(1, 601), loss=loss)
    return found


def test_minima_gain_more_than_time_with_the_norm_held(make, asked, monkeypatch, with_checkpoints):
    run, folders = with_checkpoints[0], [run.folder for run in with_checkpoints]
    lows = minima.minima_of_periods(run)
    assert len(lows) == 11  # by the loss of checkpoints

    def compare(folder, at, other, epochs):
        """Ensembles with the last five minima gain 10 points, others 5, with ρ held 4."""
        epochs = np.array([at, *sorted(epochs - {at})])
        late = epochs >= lows[-5]
        far = 0.6 + 0.1 * late if other in folders else 0.54 + 0 * late
        return {"report_epochs": epochs, "acc": np.where(epochs == at, 0.5, 0.4),
                "ensemble_acc": 0.55 + 0.05 * late, "independent_report_epochs": epochs,
                "independent_acc": 0 * epochs, "independent_ensemble_acc": far}  # fmt: skip

    monkeypatch.setattr(minima.diversity, "compare", compare)
    found = minima.minima(with_checkpoints)
    assert margins(found) == {"extra gain of later periods over ρ held, points": ABOVE(0.5)}
    extra, share = values(found).values()
    assert extra == pytest.approx((4 * 5 + 5 * 10) / 9 - 4)  # of nine later minima
    assert share == pytest.approx(0.5)
    start = run.periods.cycles[1].start
    anchor = math.ceil(start + 0.75 * (lows[1] - start))
    assert asked[0] == (anchor, 600 - anchor, {"fix_si_pnorm": True})
    few = make(*saw(200))
    np.savez(few.folder / "train-tm.npz", report_epochs=np.arange(600), loss=saw(200)[0])
    with pytest.raises(NotMeasurable, match="fewer than 4"):
        minima.minima_of_periods(few)


def test_turning_is_a_ratio_of_rates(with_checkpoints, monkeypatch):
    run = with_checkpoints[0]
    since, turns = np.arange(0, 600, 2), run.periods.turns
    near = ((since >= turns[:, None] - 3) & (since + 2 <= turns[:, None] + 3)).any(axis=0)
    angle = np.where(since < turns[0] - 3, 5.0, np.where(near, 0.6, 0.2))
    turned = {"from": since, "to": since + 2, "angle": angle}
    monkeypatch.setattr(minima.diversity, "turning", lambda folder: turned)
    found = minima.turning([run, run], [run, run])
    names = [f"{data}: rate of turning near over away" for data in ("digits", "images")]
    assert values(found) == dict.fromkeys(names, pytest.approx(3))
    assert margins(found) == dict.fromkeys(names, ABOVE(1.5))
    assert found[1][0]["near"] == pytest.approx(0.3)  # radians an epoch


def test_improvement_is_of_the_first_three_to_the_last_five(with_checkpoints, asked, monkeypatch):
    folders = [run.folder for run in with_checkpoints]

    def error_at(run, epoch):
        return 50 - epoch / 100 if run.folder in folders else 48 - epoch / 1000

    monkeypatch.setattr(minima, "error_at", error_at)
    found = minima.improvement(with_checkpoints)
    lows = minima.minima_of_periods(with_checkpoints[0])
    fall, against = values(found).values()
    assert fall == pytest.approx(-(np.mean(lows[-5:]) - np.mean(lows[:3])) / 100)
    assert against == pytest.approx(2 - np.mean(lows[-5:]) * 0.009)
    assert [*margins(found).values()] == [BELOW(0)] * 2


@pytest.mark.parametrize("levels, drift, expected", [
    ((None, 1, 2, 4, 9), 1.0, ["supported"] * 3),
    ((None, 4, 2, 1, 9), 1.0, ["supported", "contradicted", "supported"]),
    ((1, None, 2, 4, 9), 1.0, ["contradicted", "supported", "supported"]),
    ((None, 1, 2, 4, 9), 1.5, ["supported", "supported", "contradicted"]),
])  # fmt: skip
def test_regimes(make, levels, drift, expected):
    """Runs at rising rates: a level of None converges, 9 is that of guessing."""
    found = []
    for trial, (number, level) in itertools.product(range(5), enumerate(levels)):
        error = {None: 0.001, 9: 0.9}.get(level, 0.5)
        loss = chaos(300, level ** (1 + trial / 100))[0] if level else falling(300)[0]
        if number in (2, 3):
            loss[:75] *= 2
            loss[225:] *= drift
        found.append(on_sphere(make, 0.001 * 2**number, loss, np.full(300, error), trial=trial))
    judged = sphere.regimes(found[::-1])  # in any order
    assert verdicts(judged) == expected
    assert [*margins(judged).values()] == [ABOVE(0.5), ABOVE(0), (1 / 1.15, 1.15)]
    if expected == ["supported"] * 3:
        _, slope, drift, begins, ends = values(judged).values()
        assert (slope, drift) == pytest.approx((1, 1), abs=0.1)
        assert (begins, ends) == pytest.approx((0.001 * 2**0.5, 0.001 * 2**3.5))


def test_a_loss_that_still_falls_converges_below_all_rates_that_hover():
    falls = sphere.Regime(None, reason="the loss still falls")
    hovers, short = sphere.Regime("chaotic equilibrium"), sphere.Regime(None, reason="3 records")
    assert sphere.places([falls, short, hovers, falls]).tolist() == [0, -1, 1, -1]


def test_features_are_slopes_at_equal_loss_and_at_the_end(make, monkeypatch):
    monkeypatch.setattr(sphere, "sharpness_at_end", lambda run: (run.config["elr"] ** -1, 1.0))
    found, loss = [], 10 ** (-3 * np.arange(300) / 300)
    for trial, (number, elr) in itertools.product(range(3), enumerate((1e-3, 2e-3, 4e-3))):
        error = np.linspace(0.9, 0.5 - 0.1 * number - 0.001 * trial * number, 300)
        found.append(on_sphere(make, elr, loss, np.full(300, 0.001), trial=trial))
        arrays = {"report_epochs": np.arange(300), "loss": loss, "acc": 1 - error}
        np.savez(found[-1].folder / "test-em.npz", **arrays)
    judged = sphere.features(found[::-1])
    expected = [-10.1 * 100 / 299, -10.1, -1, 0]
    assert [*values(judged).values()] == pytest.approx(expected, rel=0.01, abs=1e-9)
    assert margins(judged) == dict.fromkeys(
        ("test error per doubling at a loss of 0.1", "test error per doubling at the end"), BELOW(0)
    )
    assert math.isnan(sphere.error_at_loss(found[0], 1e-9))
    ends = {"train_loss": np.array([1, 0.01]), "test_error": np.array([50, 30])}
    curves = {name: runs.Curve(np.arange(2), values) for name, values in ends.items()}
    between = sphere.error_at_loss(SimpleNamespace(curves=curves), 0.1)
    assert between == pytest.approx(40)  # half way, in the logarithm of the loss


def test_sharpness_is_of_the_last_checkpoint_the_fisher_trace_times_the_rate(run, monkeypatch):
    trained = runs.read_run(run("--fix_elr --elr 0.001 --wd 0 --epochs 2"))
    last = runs.checkpoints.load(runs.checkpoint_path(trained.folder, 2))["state_dict"]

    def meter(model, images, asked):
        assert asked.fisher_trace and asked.hess_evals and asked.train_mode
        assert all(weights.equal(last[name]) for name, weights in model.state_dict().items())
        row = {"fisher_trace": 3.0, "hess_evals": [1.0, 7.0, 2.0]}
        return SimpleNamespace(measure=lambda: {"all": row})

    monkeypatch.setattr(sphere, "Meter", meter)
    assert sphere.sharpness_at_end(trained) == (0.003, 7)


def test_optima_are_compared_with_the_best_constant_rate_and_with_the_same_drop(make, monkeypatch):
    def at(elr, error, held_out, trial):
        errors = np.append(np.full(19, 0.05), error)
        run = on_sphere(make, elr, falling(20)[0], errors, trial=trial)
        rows = runs.read_log(run.folder)
        rows[-1]["test_acc"] = held_out  # the last counts, not the best
        runs.write_log(run.folder, rows)
        return run

    def branch(run, epoch, epochs, elr):
        assert (epoch, epochs, elr) == (100, 100, sphere.LOW)
        end = {8e-3: 0.25, 3e-3: 0.27}[run.config["elr"]] + 0.001 * run.config["trial"]
        return on_sphere(make, elr, falling(20)[0], np.full(20, end))

    monkeypatch.setattr(sphere, "branch", branch)
    found = [at(*rates, trial) for trial in range(3)
             for rates in ((1e-3, 0.2, 0.5), (3e-3, 0.3, 0.7), (8e-3, 0.1, 0.9))]  # fmt: skip
    judged = sphere.optima(found[::-1])
    assert [*values(judged).values()] == pytest.approx([100 * (0.251 - 0.3), -2])
    assert [*margins(judged).values()] == [BELOW(0)] * 2


def test_toy(monkeypatch):
    monkeypatch.setattr(sphere.toy_model, "descend", functools.cache(sphere.toy_model.descend))
    monkeypatch.setattr(sphere, "TOY_STEPS", 1000)
    for boundary, verdict in ((0.2857, "supported"), (0.3, "contradicted")):
        monkeypatch.setattr(sphere.toy_model, "convergence_boundary", lambda steps, b=boundary: b)
        found = sphere.toy()
        assert verdicts(found) == [verdict, "supported", "supported", "supported"]
        near = [(0.98, 1.02)] * 2
        assert [*margins(found).values()] == [(0.99, 1.01), ABOVE(0.5), *near]
