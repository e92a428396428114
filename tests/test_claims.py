"""The claims hold for runs that behave as the papers say, and not for others."""

import itertools
import json

import numpy as np
import pytest

import experiments
import figures
import runs
from claims import __main__ as command
from claims import finding, mechanism, minima, periodic, sphere, table
from experiments.lines import lines_of
from measuring import diversity
from theory.dynamics import next_norm, step_cosine

CONFIG = {
    "lr_init": 0.1, "wd": 0.01, "trial": 0, "fix_si_pnorm": False, "fix_si_pnorm_value": -1.0,
    "momentum": 0.0, "noaug": True, "noninvlr": 0.0, "num_classes": 10, "fix_elr": False,
    "resume_epoch": None, "model": "ConvNetSI",
}  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    yield
    figures.plt.close("all")


@pytest.fixture
def make(tmp_path):
    """Write a run with a given training loss by epoch; its other columns follow or are given."""
    number = itertools.count()

    def run(loss, config=None, line=None, **columns):
        count = next(number)
        folder = tmp_path / (line or f"line_{count}") / f"trial_{count}"
        folder.mkdir(parents=True)
        config = {**CONFIG, **(config or {})}
        runs.write_config(folder, config)
        n = len(loss)
        table = {"epoch": np.arange(1, n + 1), "train_loss": loss, "test_acc": np.full(n, 0.9),
                 "si_norm": np.ones(n), "effective_lr": np.full(n, 0.01), **columns}  # fmt: skip
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values())]  # noqa: B905
        runs.write_log(folder, rows)
        return runs.Run(folder, runs.read_config(folder))

    return run


def saw(period, length=300, seed=0):
    """A loss that glides down and jumps every `period` epochs (never for None)."""
    noise = np.random.RandomState(seed).normal(0, 0.05, length)
    since = np.arange(length) if period is None else np.arange(length) % period
    return 10 ** (-1.5 * since / (period or length) + noise)


def chaos(length=300, level=2.0):
    return level * np.exp(np.random.RandomState(1).normal(0, 0.4, length))


def test_range(make):
    rates = (0.001, 0.1, 0.2, 9.0)

    def found(*losses):
        return periodic.periods_in_a_range(
            [make(loss, {"lr_init": lr}) for loss, lr in zip(losses, rates, strict=True)]
        )

    assert found(saw(None), saw(60), saw(30), chaos()).holds
    assert not found(saw(50), saw(60), saw(30), chaos()).holds  # the smallest has periods too
    assert not found(saw(None), saw(None), saw(30), chaos()).holds
    assert not found(saw(None), saw(60), saw(30), saw(None)).holds  # the largest converges


def test_fixed_norm(make):
    held = {"fix_si_pnorm": True, "fix_si_pnorm_value": 3.0}
    assert periodic.fixed_norm([make(saw(50)), make(saw(None), held), make(chaos(), held)]).holds
    assert not periodic.fixed_norm([make(saw(50)), make(saw(70), held)]).holds
    assert not periodic.fixed_norm([make(saw(None)), make(saw(None), held)]).holds


def test_too_few_jumps_are_said_to_be_too_few(make, monkeypatch):
    for measure, found in ((periodic.frequency, [[make(saw(None))] * 2] * 2),
                           (minima.different_minima, [[make(saw(None)), make(saw(None))]]),
                           (minima.first_minima_improve, [[make(saw(None))]])):  # fmt: skip
        with pytest.raises(finding.NotMeasurable):
            measure(*found)


@pytest.mark.parametrize("exponent, holds", [(1.0, True), (0.5, False), (1.5, False)])
def test_frequency(make, exponent, holds):
    def sweep(key):
        values = CONFIG[key] * np.array([1, 1.5, 2, 3, 5])
        return [
            make(saw(round(100 * (CONFIG[key] / v) ** exponent), 900), {key: v}) for v in values
        ]

    found = periodic.frequency(sweep("lr_init"), sweep("wd"))
    assert found.holds == holds
    assert found.numbers["η varied"]["exponent"] == pytest.approx(exponent, abs=0.05)


def traced(run, step, cosine=None):
    """Give a run a trace of 4 steps an epoch with effective steps η̃‖g̃‖."""
    lr, wd = run.config["lr_init"], run.config["wd"]
    turned = 1 - step_cosine(step, lr, wd) if cosine is None else cosine
    for epoch in range(len(step) // 4):
        part = slice(4 * epoch, 4 * epoch + 4)
        columns = {"loss": np.ones(4), "si_norm": np.ones(4), "gradient_norm": step[part] / lr,
                   "one_minus_cosine": turned[part], "lr": lr}  # fmt: skip
        runs.write_trace(run.folder, epoch, columns)
    return run


def test_jumps_where_allowed(make):
    loss = saw(50)
    large = np.repeat(np.arange(300) % 50 == 0, 4)
    steps = np.where(large, 0.5, 0.02)
    other = make(chaos(), {"lr_init": 5.0})
    assert mechanism.jumps_where_allowed([traced(make(loss), steps), other]).holds
    quiet = np.full(1200, 0.02)
    assert not mechanism.jumps_where_allowed([traced(make(loss), quiet), other]).holds
    everywhere = np.full(1200, 0.5)
    assert not mechanism.jumps_where_allowed([traced(make(loss), everywhere), other]).holds
    wrong = traced(make(loss), steps, cosine=np.full(1200, 0.3))
    assert not mechanism.jumps_where_allowed([wrong, other]).holds


@pytest.mark.parametrize("factor, holds", [(1.0, True), (1.5, False)])
def test_equilibrium(make, factor, holds):
    config = {"lr_init": 1.0, "wd": 0.03}
    run, quiet = make(chaos(), config), make(saw(50))
    rng, rho, rows = np.random.RandomState(0), 3.0, []
    for _ in range(1200):
        effective = 5 * rng.uniform(0.5, 1.5)
        rows.append((factor * rho, effective / rho / factor))
        rho = float(next_norm(rho, effective, 1.0, 0.03))
    norms, gradients = np.array(rows).T
    for epoch in range(300):
        part = slice(4 * epoch, 4 * epoch + 4)
        runs.write_trace(run.folder, epoch, {"loss": np.ones(4), "si_norm": norms[part],
                         "gradient_norm": gradients[part], "one_minus_cosine": np.ones(4),
                         "lr": 1.0})  # fmt: skip
    assert mechanism.equilibrium_in_chaos([run, quiet]).holds == holds


def test_minima_of_periods_and_their_errors(make):
    better = np.linspace(0.8, 0.95, 300)
    run = make(saw(50, seed=3), test_acc=better)
    lows = minima.minima_of_periods(run, range(301))
    assert len(lows) == 5 and all(low % 50 >= 44 or low % 50 == 0 for low in lows)
    assert minima.minima_of_periods(run, at=[0, 30, 80, 299]) == [30, 80]
    assert minima.first_minima_improve([run]).holds
    assert not minima.first_minima_improve([make(saw(50), test_acc=better[::-1])]).holds


def test_periods_in_every_run(make):
    lines = [make(saw(50), line="a"), make(saw(40), line="a"), make(saw(90), line="b")]
    found = periodic.full_batch(lines)
    assert found.holds and "full-batch" in found.measured
    assert not periodic.adam([*lines, make(saw(None), line="b")]).holds


def test_sharpness(make, monkeypatch):
    monkeypatch.setattr(mechanism.measuring, "main", lambda argv: None)
    epochs = np.arange(0, 300, 5)

    def found(values):
        run = make(saw(50))
        np.savez(run.folder / "sharpness.npz", report_epochs=epochs, sharpness=values)
        return mechanism.sharpness([run])

    assert found(np.full(60, 210.0)).holds  # times 0.01: 2.1
    assert not found(np.full(60, 90.0)).holds


def on_sphere(make, elr, loss, error, trial=0):
    run = make(loss, {"fix_elr": True, "elr": elr, "base_lr": elr, "trial": trial})
    arrays = {"report_epochs": np.arange(len(loss)), "loss": loss, "acc": 1 - error}
    norms = {"report_epochs": arrays["report_epochs"], "params_norm": np.ones(len(loss)),
             "gnorm_m": loss}  # fmt: skip
    np.savez(run.folder / "train-tm.npz", **arrays)
    np.savez(run.folder / "test-em.npz", **arrays)
    np.savez(run.folder / "train-tm-prebn.npz", **norms)
    return run


def on_the_sphere(make, order=(0.001, 0.01, 0.02, 0.5)):
    small = np.full(300, 0.001)
    return [on_sphere(make, order[0], saw(None), small),
            on_sphere(make, order[1], chaos(level=1.0), np.full(300, 0.4)),
            on_sphere(make, order[2], chaos(level=2.0), np.full(300, 0.6)),
            on_sphere(make, order[3], chaos(level=9.0), np.full(300, 0.9))]  # fmt: skip


def test_table_of_periods(make, capsys):
    loss = saw(100)
    run = on_sphere(make, 0.01, loss, loss / 4)
    runs.write_config(run.folder, CONFIG)
    figures.report(run.folder)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:6]]
    lows = [loss[start : start + 100].argmin() + start for start in (0, 100, 200)]
    assert [row[-4] for row in rows] == [f"{low}" for low in lows]
    assert [row[-3] for row in rows] == [f"{loss[low]:.2g}" for low in lows]
    assert [row[-2] for row in rows] == [f"{25 * loss[low]:.2f}" for low in lows]
    assert [row[:-4] for row in rows] == [["101"], ["201"], ["no", "jump", "yet"]]


def test_regimes(make):
    assert sphere.three_regimes(on_the_sphere(make)).holds
    assert not sphere.three_regimes(on_the_sphere(make, (0.001, 0.02, 0.01, 0.5))).holds
    assert not sphere.three_regimes(on_the_sphere(make)[:3]).holds


@pytest.mark.parametrize(
    "rate, chaotic_rate, holds",
    [(0.006, 0.02, True), (0.2, 0.02, False), (1e-5, 0.02, False), (0.006, 0.2, False)],
)
def test_regimes_in_ordinary_training(make, rate, chaotic_rate, holds):
    periodic = make(saw(50), effective_lr=np.full(300, rate))
    chaotic = make(chaos(), {"lr_init": 3.0}, effective_lr=np.full(300, chaotic_rate))
    assert (
        sphere.regimes_in_ordinary_training(on_the_sphere(make), [periodic, chaotic]).holds == holds
    )


def test_better_optima():
    def rows(drop):
        errors = {"constant": 5.0, "drop": drop, "average": 4.5}
        return [{"trial": t, "how": how, "elr": 0.1, "test error": e}
                for t in (0, 1) for how, e in errors.items()]  # fmt: skip

    assert sphere.better_optima(rows(4.0)).holds and not sphere.better_optima(rows(6.0)).holds


@pytest.mark.parametrize("found, holds", [(0.2857, True), (0.3, False)])
def test_toy(monkeypatch, found, holds):
    monkeypatch.setattr(sphere.toy, "convergence_boundary", lambda **_: found)
    monkeypatch.setattr(figures, "diagram_of_toy", lambda elrs: figures.plt.figure())
    assert sphere.toy_function().holds == holds


def test_diversity(run, tmp_path):
    folder = run("--save_freq 1")
    other = run("--save_freq 1 --trial 1").parent / "trial_1"
    found = diversity.compare(folder, 1, other)
    assert found["report_epochs"].tolist() == [1, 2, 3]
    assert found["cosine"][0] == pytest.approx(1) and (found["cosine"][1:] < 1 - 1e-6).all()
    assert found["ensemble_acc"][0] == found["acc"][0]
    assert (np.abs(found["independent_cosine"]) < 0.5).all()
    diversity.main(f"--models_dir {folder} --anchor 2 --independent {other}".split())
    with np.load(folder / "diversity-2.npz") as file:
        assert file["report_epochs"].tolist() == [2, 3]
    for words in (f"--models_dir {folder} --anchor 9", f"--models_dir {tmp_path} --anchor 1"):
        with pytest.raises(diversity.UserError):
            diversity.main(words.split())


def test_every_claim_has_its_experiments_at_every_scale():
    for scale in ("quick", "demo", "paper"):
        for claim in table.CLAIMS:
            for name in claim.experiments:
                lines = lines_of(table.experiment_at(scale, name))
                assert all(line.options.metrics for line in lines)
    quick, demo = (table.experiment_at(scale, "vary_lr") for scale in ("quick", "demo"))
    assert quick.name == "demo_vary_lr_quick" and len(quick.lines()) < len(demo.lines())
    assert len({claim.key for claim in table.CLAIMS}) == len(table.CLAIMS)


def test_trials_have_folders_of_their_own():
    experiment = experiments.EXPERIMENTS["demo"].in_trials(2)
    lines = lines_of(experiment)
    assert len({line.folder for line in lines}) == len({line.name for line in lines}) == 8
    assert {line.options.trial for line in lines} == {0, 1}


def test_table_and_record(monkeypatch, tmp_path):
    found = finding.Finding("it was", True, {"x": np.float64(1)}, figures.plt.figure())
    monkeypatch.setattr(
        command, "measure_all", lambda *_: {claim.key: found for claim in table.CLAIMS}
    )
    command.main(f"--scale quick --results {tmp_path}/out".split())
    text = (tmp_path / "out" / "claims.md").read_text()
    assert text.count("| it was ") == len(table.CLAIMS)
    record = json.loads((tmp_path / "out" / "claims.json").read_text())
    assert record["scale"] == "quick" and record["claims"]["toy"]["x"] == 1
    assert (tmp_path / "out" / "toy.png").exists()
