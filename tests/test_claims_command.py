"""What the claims' command says and keeps, and what else is drawn and told of runs."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from made_runs import chaos, falling, on_sphere, saw

import figures
import runs
from claims import __main__ as command
from claims import forecast, spikes, table
from claims.finding import Claim, NotMeasurable, by_line, spread
from experiments import EXPERIMENTS
from experiments.lines import lines_of
from utils import UserError

# --- words, and the command ---


def test_spread_is_of_what_is_known():
    assert spread([1, math.inf, 3]) == "2 (1 to 3)" and spread([2, 2]) == "2"
    assert spread([math.nan]) == "none"


def test_runs_by_line_are_trials_of_one_setting(make):
    one, two, other = (make(*falling(20), line=line) for line in ("a", "a", "b"))
    assert by_line([one, two, other]) == {"a": [one, two], "b": [other]}


def test_what_is_left_is_of_unfinished_lines_each_of_them_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lines = lines_of(EXPERIMENTS["demo"])
    whole = table.seconds_left([lines])
    assert table.seconds_left([lines, lines]) == whole > 0
    monkeypatch.setattr(table, "is_finished", lambda line: line is not lines[0])
    assert table.seconds_left([lines]) == table.seconds_left([lines[:1]]) < whole
    monkeypatch.setattr(table, "is_finished", lambda line: True)
    assert table.seconds_left([lines]) == 0


def test_a_failed_line_is_not_measured(monkeypatch):
    claim = next(claim for claim in table.CLAIMS if claim.key == "adam")
    monkeypatch.setattr(table, "run_here", lambda *args: 1)
    with pytest.raises(UserError, match="a line of demo_adam failed"):
        table.measure(claim, [EXPERIMENTS["demo_adam"]], range(1), 1)


def test_what_cannot_be_measured_is_not_shown(make, monkeypatch):
    def fails(found):
        raise NotMeasurable("too few periods")

    run = make(*saw(50))
    claim = Claim("adam", "P1", "A claim", "a rule", ("adam",), fails)
    monkeypatch.setattr(table, "run_here", lambda *args: 0)
    monkeypatch.setattr(table, "run_of", lambda line: run)
    found = table.measure(claim, [EXPERIMENTS["demo_adam"]], range(10, 15), 1)
    assert (found.verdict, found.measured) == ("not shown", "not measurable: too few periods")
    assert found.figure is not None


def test_settings_on_digits_stay_on_digits():
    for claim in table.CLAIMS:
        found = table.experiments_of(claim, "demo", "folder")
        for experiment, name in zip(found, claim.experiments, strict=True):
            on_digits = EXPERIMENTS[f"demo_{name}"].dataset == "Digits"
            assert experiment.dataset == ("Digits" if on_digits else "ImageFolder")


def test_the_record_keeps_what_other_calls_have_measured(one_claim, tmp_path):
    (tmp_path / "claims.json").write_text('{"claims": {"older": {"holds": "yes"}}}')
    command.main(f"--claim toy --results {tmp_path}".split())
    text = (tmp_path / "claims.json").read_text()
    assert '"older"' in text and '"toy"' in text


def test_only_the_claims_asked_for_are_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["--claim", "adam,toy", "--list"])
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["adam", "toy", "in"]  # "in all ..."


def test_mistakes_are_told_before_anything_is_trained(one_claim, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "on_record", lambda *args: pytest.fail("measured"))
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    with pytest.raises(FileExistsError, match="taken"):
        command.main(["--claim", "toy", "--results", "taken"])
    Path("claims.json").write_text('{"claims": [')
    with pytest.raises(UserError, match=r"claims\.json is damaged"):
        command.main(["--claim", "toy", "--results", "."])
    on_images = Claim("practice", "P1", "A claim", "a rule", ("practice",), None)
    monkeypatch.setattr(command, "CLAIMS", [on_images])
    with pytest.raises(UserError, match="no folder nowhere/train"):
        command.main(["--claim", "practice", "--image_folder", "nowhere"])


@pytest.mark.parametrize("words, trials", [
    ("", [10, 11, 12, 13, 14]), ("--scale quick", [0]), ("--trials 2", [10, 11]),
    ("--first_trial 3 --trials 1", [3]), ("--scale quick --trials 2 --first_trial 5", [0, 1]),
])  # fmt: skip
def test_trials_that_a_claim_is_judged_by(words, trials):
    options = command.Parser(command.OPTIONS, prog="claims", description="").parse_args(
        words.split()
    )
    claim = next(claim for claim in table.CLAIMS if claim.key == "cause")
    assert command.trials_of(claim, options) == trials


# --- the forecast, and spikes ---


def test_a_forecast_is_asked_about_every_period_but_the_first(tmp_path):
    """Falls of 50 epochs by 1 % each, and one of 75: at the old depth a third of it is left."""
    since = np.concatenate([np.arange(50)] * 4 + [np.arange(75), [0, 1]])
    loss, rho = 10 ** (-2 * since / 50), 3 * np.exp(-0.01 * since)
    rows = [
        {"epoch": e, "train_loss": a, "si_norm": b} for e, (a, b) in
        enumerate(zip(loss, rho, strict=True), 1)
    ]  # fmt: skip
    runs.write_log(tmp_path, rows)
    found = forecast.errors(tmp_path, 0.25)
    assert len(found) == 4
    assert np.array(found[:3]) == pytest.approx(0, abs=0.05)
    assert np.array(found[3]) == pytest.approx(1 / 3, abs=0.05)
    with pytest.raises(UserError, match="no folder"):
        forecast.main([f"{tmp_path}/missing"])


def test_cases_of_spikes_differ_by_what_they_say(monkeypatch):
    monkeypatch.setattr(spikes, "EPOCHS", 4)
    monkeypatch.setattr(spikes, "BAD_EPOCHS", (1, 3))
    bright = []

    def watch(model):
        model.register_forward_pre_hook(lambda _, inputs: bright.append(inputs[0].max() > 100))

    spikes.train(spikes.Case(change=watch))
    assert not any(bright)
    spikes.train(spikes.Case(change=watch, bad_images=True))
    assert sum(bright) == 2  # a batch each
    _, rows = spikes.train(spikes.Case(fixed_norm=2))
    norms = [norm for _, norm in rows]
    assert norms[1:] == pytest.approx([norms[1]] * 3) and norms[0] != pytest.approx(norms[1])
    for label, case in itertools.chain(*(f.items() for f in spikes.FIGURES.values())):
        assert label and case.schedule(0.0) == 1


# --- what summaries say of a run ---


def test_a_layer_is_dead_by_the_second_half_of_a_run_of_an_e_fold_or_more(make):
    for length, name in ((600, "a.weight"), (100, None)):
        run = make(*falling(length))
        epochs = np.arange(length + 1)
        norms = np.exp(-0.016 * np.maximum(epochs - length / 2, 0))
        np.savez(run.folder / "train-tm-prebn.npz", report_epochs=epochs,
                 **{"a.weight_norm": norms, "b.weight_norm": np.ones(length + 1)})  # fmt: skip
        assert run.dead_layer == name


def test_disorder_is_a_fraction_of_guessings_error(make):
    """85 % errors among ten classes are 94 % of what guessing makes."""
    run = on_sphere(make, 1.0, chaos(60)[0], np.full(60, 0.85))
    assert run.regime.name == "divergence"
    plain = make(*chaos(600), train_acc=np.full(600, 0.15))
    assert plain.behaviour == "divergence"
    assert not figures.on_sphere([run, plain]) and figures.on_sphere([run])
