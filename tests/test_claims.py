"""Runs are measured as they are, claim by claim, and the table says what is on record."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
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

import data
import figures
import runs
from claims import __main__ as command
from claims import branches, mechanism, minima, periodic, second_regime, sphere, table
from claims.finding import Claim, Finding, NotMeasurable
from experiments import EXPERIMENTS
from experiments.lines import lines_of
from measuring import diversity
from utils import UserError


def test_has_periods(make):
    good = [make(*saw(50), line="a"), make(*saw(40), line="a"), make(*saw(70), line="b")]
    found = periodic.every_run(good)
    assert found.holds and "periods, CV 0.0" in found.measured
    assert not periodic.every_run([*good, make(*falling(), line="b")]).holds
    assert not periodic.every_run([make(*falling(), line="0"), *good]).holds
    assert not periodic.every_run([*good, make(*saw(170), line="b")]).holds  # three, not four


@pytest.mark.parametrize("name, words", [
    ("each", ["momentum", "augmentation", "all weights"]),
    ("practice", ["momentum, augmentation, all weights"]),
    ("figure1", ["all weights", "ResNet-18, all weights"]),
    ("full_batch", ["full-batch descent"]),
    ("adam", ["Adam"]),
    ("norms", [f"{norm} normalisation" for norm in ("layer", "group", "instance", "weight")]),
])  # fmt: skip
def test_settings_in_words(name, words):
    lines = lines_of(EXPERIMENTS[f"demo_{name}"])
    runs_of = [runs.Run(line.folder, vars(line.options)) for line in lines]
    assert [periodic.setting_of(run) for run in runs_of] == words


def test_dead_networks_are_named(make):
    run = make(*falling(), line="dead")
    epochs = np.arange(0, 601, 10)
    norms = {"a.weight_norm": np.exp(-0.016 * epochs), "b.weight_norm": np.ones(61)}
    np.savez(run.folder / "train-tm-prebn.npz", report_epochs=epochs, **norms)
    assert run.dead_layer == "a.weight"
    assert "all 1 networks dead" in periodic.every_run([run]).measured
    alive = make(*saw(50), {"trial": 11}, line="dead")
    words = periodic.every_run([run, alive]).measured  # its periods alone
    assert "10 periods, CV 0.00 to 0.00; 1 of 2 networks dead (trial 10)" in words
    original = "conv.parametrizations.weight.original"  # of weight normalisation
    other = {"params_norm": norms["b.weight_norm"], f"{original}_norm": norms["a.weight_norm"]}
    np.savez(run.folder / "train-tm-prebn.npz", report_epochs=epochs, **other)
    assert replace(run).dead_layer == original
    norms["a.weight_norm"] = np.exp(-0.015 * epochs)
    np.savez(run.folder / "train-tm-prebn.npz", report_epochs=epochs, **norms)
    assert replace(run).dead_layer is None


def test_e_fold(make):
    assert make(*falling()).e_fold == pytest.approx(1 / 0.016)
    assert make(*falling(), {"momentum": 0.9}).e_fold == pytest.approx(0.1 / 0.016)
    assert make(*falling(), {"fbgd": True}).e_fold == pytest.approx(1 / 0.004)
    assert make(*falling(), {"optimizer": "adam"}).e_fold == 0


def test_periods_in_a_range(make):
    lrs, wds = ([*sweep(make, key, 1.0)] for key in ("lr_init", "wd"))
    assert periodic.periods_in_a_range([*lrs, *ends(make), *wds]).holds
    assert not periodic.periods_in_a_range([*lrs, *ends(make), *wds[4:]]).holds  # no decade
    low, high = ends(make)
    assert not periodic.periods_in_a_range(
        [*lrs, low, make(*saw(50), {"lr_init": 9.0}), *wds]
    ).holds
    assert not periodic.periods_in_a_range(
        [*lrs, make(*saw(50), {"lr_init": 1e-4}), high, *wds]
    ).holds


@pytest.mark.parametrize("exponent, holds", [(1.0, True), (0.7, False)])
def test_frequency(make, exponent, holds):
    lrs, wds = ([*sweep(make, key, exponent)] for key in ("lr_init", "wd"))
    found = periodic.frequency(lrs, wds, lrs)
    assert found.numbers["η varied"]["exponents"] == pytest.approx([exponent] * 2, abs=0.05)
    assert found.holds == holds
    with pytest.raises(NotMeasurable):
        periodic.frequency(lrs[:4], wds, lrs)


@pytest.mark.parametrize("slower, holds", [(1.1, True), (1.5, False)])
def test_length(make, slower, holds):
    lrs, wds = ([*sweep(make, key, 1.0, slower)] for key in ("lr_init", "wd"))
    found = periodic.length(lrs, wds)
    assert found.holds == holds
    assert np.median(np.concatenate([*found.numbers.values()])) == pytest.approx(slower, rel=0.03)


@pytest.mark.parametrize("factor, holds", [(1.0, True), (1.2, False)])
def test_equilibrium_is_forecast_from_the_sphere(make, factor, holds):
    lines = [chaotic(make, factor, wd=wd) for wd in (0.02, 0.03, 0.05)]
    assert mechanism.equilibrium_in_chaos(lines, sphere_of(make)).holds == holds
    assert not mechanism.equilibrium_in_chaos(lines[:2], sphere_of(make)).holds  # three ηλ
    with pytest.raises(NotMeasurable):
        mechanism.equilibrium_in_chaos(lines, sphere_of(make)[:1])


@pytest.mark.parametrize("loss, holds", [(2.0, True), (3.5, False)])
def test_ordinary_chaos_is_that_of_the_sphere(make, loss, holds):
    lines = [chaotic(make, loss=loss, wd=wd) for wd in (0.02, 0.03, 0.05)]
    assert mechanism.regimes_in_ordinary_training(lines, sphere_of(make)).holds == holds


def test_consistent_behaviour(make):
    def line(rho, gradient=(0.1, 50.0)):
        loss = saw(50)[0]
        run = make(loss, rho)
        ends = np.tile(np.repeat(gradient, [190, 10]), 12)  # large only at the jumps
        trace_of(run, {"loss": np.repeat(loss, 4), "si_norm": np.repeat(rho, 4),
                       "gradient_norm": ends / np.repeat(rho, 4)})  # fmt: skip
        return run

    def found(*args):
        return mechanism.consistent([line(*args)])

    rho = saw(50)[1]
    assert found(rho).holds
    assert not mechanism.consistent([line(rho), line(rho, (0.1, 1.0))]).holds  # every run
    assert not found(rho * np.exp(-np.arange(600) / 2000)).holds  # the extremes fall
    assert not found(rho, (0.1, 1.0)).holds  # above what the gradients could keep
    with pytest.raises(NotMeasurable):
        mechanism.consistent([make(*falling())])


def test_branches(make, monkeypatch):
    base = make(*saw(50))
    asked = []

    def fake(run, epoch, epochs, **changes):
        asked.append((epoch, epochs, changes))
        loss = np.ones(epochs)
        if not changes.get("fix_si_pnorm"):
            half = changes.get("lr_init", run.config["lr_init"]) < run.config["lr_init"]
            loss[(3 * epochs // 4 if half else epochs // 2) :] = 5
        return make(loss, np.ones(epochs))

    monkeypatch.setattr(mechanism, "branch", fake)
    found = mechanism.cause([base])
    assert found.holds and len(found.numbers["branches"]) == 9
    assert all("seed" in changes for _, _, changes in asked)  # not the parent's own batches
    period = periodic.settled(base).cycles[0]
    assert period.start < asked[0][0] < asked[2][0] < asked[4][0] < period.turn
    assert mechanism.sharpness([base]).holds
    with pytest.raises(NotMeasurable):
        mechanism.cause([make(*falling())])


@pytest.mark.parametrize("jump_above, holds", [(0.1, True), (0.005, False), (9.0, False)])
def test_destabilisation_is_between_its_bounds(make, monkeypatch, jump_above, holds):
    bases = [make(*saw(50), {"trial": trial}) for trial in (10, 11)]
    rho = bases[0].log()["si_norm"]
    for base in bases:  # effective gradients of 1 to 3 in phase B: bounds 0.047 and 0.14
        gradient = np.linspace(1, 3, 2400) / np.repeat(rho, 4)
        trace_of(base, {"loss": np.ones(2400), "si_norm": np.repeat(rho, 4),
                        "gradient_norm": gradient})  # fmt: skip

    def fake(run, epoch, epochs, **changes):
        found = make(np.ones(epochs), np.ones(epochs), {"lr_init": changes["lr_init"]})
        norm = rho[epoch - 1]
        jumps = changes["lr_init"] / norm**2 > jump_above
        trace_of(found, {"loss": np.ones(52), "si_norm": np.full(52, norm),
                         "one_minus_cosine": np.full(52, 0.5 * jumps)})  # fmt: skip
        return found

    monkeypatch.setattr(mechanism, "branch", fake)
    found = mechanism.destabilisation(bases)
    assert found.holds == holds and len(found.numbers["branches"]) == 2 * 3 * len(mechanism.FACTORS)
    with pytest.raises(NotMeasurable):
        mechanism.destabilisation(bases[:1])


def test_when_a_branch_destabilises(make):
    loss = np.array([2, 1, 0.5, 1.9, 2.1, 0.1])
    assert branches.destabilises(make(loss, np.ones(6))) == 5
    assert branches.destabilises(make(loss[:4], np.ones(4))) == math.inf
    assert branches.destabilises(make(np.array([1, 5, 0.5, 9]), np.ones(4))) == 2
    assert branches.destabilises(make(np.array([1, math.nan]), np.ones(2))) == 2


def test_a_branch_with_the_norm_held(run):
    """From the same checkpoint with other batches: the one keeps ρ, the other does not."""
    folder = run("--save_freq 1")
    parent = runs.Run(folder, runs.read_config(folder))
    held = branches.branch(parent, 2, 2, seed=5, fix_si_pnorm=True)
    free = branches.branch(parent, 2, 2, seed=5)
    assert np.ptp(held.log()["si_norm"]) < 1e-4 < np.ptp(free.log()["si_norm"])
    assert held.log()["si_norm"][0] == pytest.approx(parent.log()["si_norm"][1], rel=1e-4)
    assert held.log()["epoch"].tolist() == [3, 4] and held.folder.parent == folder
    assert branches.branch(parent, 2, 3, seed=5).log()["epoch"].tolist() == [3, 4, 5]
    assert branches.branch(parent, 2, 2, seed=5).log()["epoch"].tolist() == [3, 4]
    assert held.config["seed"] == free.config["seed"] == 5


def test_minima_are_those_of_the_checkpoints(make):
    """The mean loss of an epoch may be low although the epoch ends after the destabilisation."""
    loss, rho = saw(50)
    run = make(loss, rho)
    at_end = np.append(loss[1:], 1.0)  # of the checkpoint after the epoch
    for epoch in range(1, 601):
        runs.checkpoint_path(run.folder, epoch).touch()
    np.savez(run.folder / "train-tm.npz", report_epochs=np.arange(1, 601), loss=at_end)
    lows = minima.minima_of_periods(run)
    assert len(lows) == 11 and all(at_end[low - 1] < 0.05 for low in lows)


def test_diversity(run, tmp_path):
    folder = run("--save_freq 1")
    other = run("--save_freq 1 --trial 1").parent / "trial_1"
    found = diversity.compare(folder, 1, other)
    assert found["report_epochs"].tolist() == [1, 2, 3]
    assert found["cosine"][0] == pytest.approx(1) and (found["cosine"][1:] < 1 - 1e-6).all()
    assert found["ensemble_acc"][0] == found["acc"][0]
    assert (np.abs(found["independent_cosine"]) < 0.5).all()
    for prefix in ("", "independent_"):
        last = probabilities(other if prefix else folder, 3)
        for name, p in (("acc", last), ("ensemble_acc", last + probabilities(folder, 1))):
            labels = data.load("Digits", "", use_test=True)[1].labels
            accuracy = (p.argmax(1) == labels).double().mean().item()
            assert found[prefix + name][2] == pytest.approx(accuracy, abs=0.004)  # an image
    turned = diversity.turning(folder)
    assert turned["from"].tolist() == [0, 1, 2] and turned["to"].tolist() == [1, 2, 3]
    assert math.cos(turned["angle"][1]) == pytest.approx(found["cosine"][1])
    diversity.main(f"--models_dir {folder} --anchor 2 --independent {other}".split())
    with np.load(folder / "diversity-2.npz") as file:
        assert file["report_epochs"].tolist() == [2, 3]
    for words in (f"--models_dir {folder} --anchor 9", f"--models_dir {tmp_path} --anchor 1"):
        with pytest.raises(UserError):
            diversity.main(words.split())


def probabilities(folder, epoch):
    """Of the test images, with the mean statistics of the training batches."""
    state = torch.load(folder / f"checkpoint-{epoch}.pt")["state_dict"]
    train_images, images = data.load("Digits", "", use_test=True, use_data_size=200)
    state = reference.renewed(state, [x for x, _ in train_images.batches(64)])
    return reference.Network(state, False)(next(images.batches(297))[0]).softmax(1)


@pytest.mark.parametrize(
    "order, holds",
    [(("low", *"abcd", "high"), True), (("low", *"abdc", "high"), False),
     (("low", *"abc", "high"), False), (("low", *"abcd"), False)],
)  # fmt: skip
def test_regimes(make, order, holds, monkeypatch):
    monkeypatch.setattr(sphere, "random_walk", lambda run: 0.01)
    assert sphere.three_regimes([*regimes_of(make, order)]).holds == holds


def test_random_walk():
    """The gap of a random walk is small; that of weights that swing to and fro is not."""
    rng = np.random.RandomState(0)
    w, walk = rng.normal(size=1000), []
    for _ in range(40):
        w = w / np.linalg.norm(w) + 0.6 * rng.normal(size=1000) / math.sqrt(1000)
        walk.append(w / np.linalg.norm(w))
    swing = np.array([walk[i % 2] for i in range(40)])
    for weights, wanders in ((np.array(walk), True), (swing, False)):
        cosines = weights @ weights.T
        gap = sphere.walk_gap(cosines, np.diagonal(cosines, 1))
        assert (gap < 0.1) == wanders
    assert gap == pytest.approx(1 - cosines[0, 1] ** 10)  # of the swing, that comes back


def test_random_walk_of_a_run(run, monkeypatch):
    """What is measured are the cosines of consecutive steps, as their trace says."""
    folder = run("--fix_elr --elr 0.1 --save_freq 1")
    seen = []
    monkeypatch.setattr(sphere, "walk_gap", lambda *found: seen.extend(found))
    sphere.random_walk(runs.Run(folder, runs.read_config(folder)))
    cosines, steps = seen
    assert cosines.shape == (len(steps) + 1,) * 2 and len(steps) > 1
    assert np.diagonal(cosines, 1) == pytest.approx(steps, abs=1e-6)


def test_features(make):
    def found(errors, gradients):
        lines = []
        for number, (error, gradient) in enumerate(zip(errors, gradients, strict=True)):
            errors_by_epoch = np.linspace(0.9, error, 300)
            loss = 10 ** (-3 * np.arange(300) / 300)
            run = on_sphere(make, 0.001 * 2**number, loss, np.full(300, 0.001), gradient)
            np.savez(run.folder / "test-em.npz", report_epochs=np.arange(300), loss=loss,
                     acc=1 - errors_by_epoch)  # fmt: skip
            lines.append(run)
        return sphere.features(lines)

    assert found((0.5, 0.4, 0.3), (3.0, 2.0, 1.0)).holds
    assert not found((0.5, 0.4, 0.45), (3.0, 2.0, 1.0)).holds
    assert not found((0.5, 0.4, 0.3), (3.0, 1.0, 2.0)).holds


def test_optima(make, monkeypatch):
    def found(dropped):
        lines = [on_sphere(make, e, falling(20)[0], np.full(20, 0.3)) for e in (1e-3, 8e-3)]
        better = on_sphere(make, 1e-3, falling(20)[0], np.full(20, dropped))
        monkeypatch.setattr(sphere, "branch", lambda *args, **changes: better)
        return sphere.better_optima(lines)

    assert found(0.29).holds and not found(0.31).holds


@pytest.mark.parametrize("boundary, holds", [(0.2857, True), (0.3, False)])
def test_toy(monkeypatch, boundary, holds):
    monkeypatch.setattr(sphere.toy, "convergence_boundary", lambda **_: boundary)
    monkeypatch.setattr(sphere, "STEPS", 2000)
    monkeypatch.setattr(figures, "diagram_of_toy", lambda rates: figures.plt.figure())
    assert sphere.toy_function().holds == holds


@pytest.mark.parametrize("factor, holds", [(1.05, True), (1.15, False)])
def test_angles(make, factor, holds):
    rows = []
    for config in ({"momentum": 0.9}, {"momentum": None, "optimizer": "adamw"}):
        run = make(*chaos(20), config)
        angle = factor * run.equilibrium_angle
        trace_of(run, {"loss": np.ones(80), "one_minus_cosine": np.full(80, angle**2 / 2)})
        rows.append(run)
    assert mechanism.angular_update(rows).holds == holds


def test_second_regime_rows(make):
    line = [on_sphere(make, 1e-3, falling(300)[0], np.full(300, 0.001))]
    assert second_regime.compare(10, line)[0]["how"] == "constant"


# --- the command ---


def test_every_claim_has_its_settings():
    assert len({claim.key for claim in table.CLAIMS}) == len(table.CLAIMS)
    at = {scale: [] for scale in ("quick", "demo", "paper")}
    for claim, scale in itertools.product(table.CLAIMS, at):
        found = table.experiments_of(claim, scale, "folder")
        if found is not None:
            at[scale].append(claim.key)
            lines = [line for e in found for line in lines_of(e.in_trials((10, 11)))]
            assert all(line.options.metrics and line.options.trial in (10, 11) for line in lines)
            assert all(line.options.dataset in ("Digits", "ImageFolder") for line in lines)
    assert at["demo"] == [claim.key for claim in table.CLAIMS]
    assert {"cause", "adam", "toy"} <= set(at["quick"]) < set(at["demo"])
    assert {"range", "frequency", "regimes"} - {"regimes"} <= set(at["paper"])


def test_trials_have_folders_of_their_own():
    lines = lines_of(EXPERIMENTS["demo"].in_trials(range(2)))
    assert len({line.folder for line in lines}) == len({line.name for line in lines}) == 8
    assert {line.options.trial for line in lines} == {0, 1}


def test_table_and_record(one_claim, tmp_path, capsys):
    command.main(f"--claim toy --results {tmp_path}/out".split())
    assert "left" in capsys.readouterr().out
    written = (tmp_path / "out" / "claims.md").read_text()
    assert (
        "| [it was so](toy.json) | yes |" in written and "not run yet" in written.splitlines()[-1]
    )
    record = json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]["toy"]
    assert record["trials"] == [10] and record["code"]
    assert json.loads((tmp_path / "out" / "toy.json").read_text()) == {"x": 1}
    assert (tmp_path / "out" / "toy.png").exists()
    (tmp_path / "out" / "claims.md").unlink()
    command.main(f"--table --results {tmp_path}/out".split())
    assert (tmp_path / "out" / "claims.md").read_text() == written


def test_listing_runs_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["--list"])
    text = capsys.readouterr().out
    assert all(claim.key in text for claim in table.CLAIMS) and "in all" in text
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="did you mean adam"):
        command.main(["--claim", "adm"])


def test_too_few_trials_show_nothing(monkeypatch, make):
    run = make(*saw(50))
    finding = Finding("words", True, {})
    claim = Claim("adam", "P1", "A claim", "a rule", ("adam",), lambda found: finding)
    monkeypatch.setattr(table, "run_here", lambda *args: 0)
    monkeypatch.setattr(table, "run_of", lambda line: run)
    settings = [EXPERIMENTS["demo_adam"]]
    assert table.measure(claim, settings, range(10, 15), 1).verdict == "yes"
    assert table.measure(claim, settings, range(10, 14), 1).verdict == "not shown"


def test_one_period_is_drawn_of_a_traced_run_of_plain_sgd(make):
    loss, rho = saw(50)
    runs_of = [make(loss, rho), make(loss, rho, {"momentum": 0.9}), make(loss, rho)]
    columns = {"loss": np.repeat(loss, 4), "si_norm": np.repeat(rho, 4)}
    for run in runs_of[1:]:
        trace_of(run, {**columns, "gradient_norm": np.ones(len(columns["loss"]))})
    figure = figures.one_period(runs_of)  # the third: there is no trace, and there is momentum
    assert "/".join(runs_of[2].folder.parts[-2:]) in figure.get_suptitle()
    assert figures.one_period(runs_of[:2]) is None
