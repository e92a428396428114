"""The command that draws: which runs, under which names, in which files."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import TINY

import figures
import runs
from figures.__main__ import main
from utils import UserError

FIXED = "--fix_si_pnorm --resume_epoch 2 --metrics"


@pytest.fixture
def branched(run):
    """A measured run and a branch off it, with a norm held fixed: their folders."""
    folder = run("--metrics --save_freq 1")
    run(f"{FIXED} --save_freq 1")
    return folder, folder / "branch-2_fix_si_pnorm=True"


def labels(axis):
    return [line.get_label() for line in axis.get_lines() if line.get_label()[0] != "_"]


def test_a_branch_that_is_named_is_drawn(branched, capsys):
    _, branch = branched
    main([str(branch)])
    assert (branch / "periods.png").read_bytes().startswith(b"\x89PNG")
    assert "best test error" in capsys.readouterr().out


def test_branches_are_drawn_when_asked_for(branched, capsys):
    folder, branch = branched
    main([str(folder)])
    assert "line" not in capsys.readouterr().out
    main([str(folder), "--branches"])
    out = capsys.readouterr().out
    assert "η = 0.1, fixed norm, from epoch 2" in out
    assert (folder / "periods_branches.png").exists()
    assert [run.folder for run in runs.find_runs(folder)] == [folder]
    assert [run.folder for run in runs.find_runs(folder)[0].branches] == [branch]
    assert runs.find_runs(branch)[0].parent().folder == folder


def test_the_parent_is_drawn_up_to_the_branch(branched):
    parent, branch = (runs.find_runs(folder)[0] for folder in branched)
    figure = figures.figure2([branch])
    axis = figure.axes[0]
    assert labels(axis) == ["η = 0.1, up to the branch", "η = 0.1"]
    grey, own = axis.get_lines()
    assert grey.get_xdata().tolist() == [0, 1, 2] and own.get_xdata().tolist() == [2, 3, 4, 5]
    assert grey.get_ydata()[-1] == own.get_ydata()[0]  # the same weights
    both = figures.figure2([parent, branch])
    assert labels(both.axes[0]) == ["η = 0.1", "η = 0.1, fixed norm, from epoch 2"]
    plt.close("all")


def test_several_folders_are_drawn_together(run, capsys):
    for lr in (0.1, 0.2):
        run(f"--lr_init {lr} --trial {int(10 * lr)} --metrics --save_freq 3")
    place = run.folder.parent
    main([str(place / "trial_1"), str(place / "trial_2")])
    out = capsys.readouterr().out
    assert f"figure: {place / 'periods_trial_1_and_trial_2.png'}" in out
    assert (place / "periods_trial_1_and_trial_2.png").exists()
    assert out.count("0.001") == 2


def fake(folder, **options):
    """A run with a configuration and a metrics file, not trained."""
    config = {"lr_init": 0.1, "wd": 0.01, "resume_epoch": None, "trial": 0, "fix_elr": False,
              "epochs": 5, "fix_si_pnorm": False, "fix_si_pnorm_value": -1.0}  # fmt: skip
    config |= options
    runs.write_config(folder, config)
    np.savez(folder / "test-em.npz", report_epochs=np.arange(3), acc=np.ones(3))
    return runs.Run(folder, config)


def test_experiments_are_listed_and_not_mixed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "Experiments"
    fake(root / "first" / "trial_0")
    fake(root / "sweep" / "lr_0.1" / "trial_0")
    fake(root / "sweep" / "lr_0.1" / "trial_0" / "branch-2", resume_epoch=2)
    fake(root / "sweep" / "lr_0.2" / "trial_0", lr_init=0.2)
    assert list(runs.find_experiments(root)) == ["first", "sweep"]
    main([])
    out = capsys.readouterr().out
    assert "Experiments/first: 1 run\n" in out
    assert "Experiments/sweep: 2 runs, 1 branch (--branches)\n" in out
    with pytest.raises(UserError, match=r"several experiments, name one of .*first, .*sweep"):
        main(["Experiments"])
    assert not list(root.rglob("*.png"))


def test_what_cannot_be_drawn_says_why(run, tmp_path, capsys):
    with pytest.raises(UserError, match="no folder"):
        main([str(tmp_path / "nowhere")])
    folder = run("--epochs 1")
    with pytest.raises(UserError, match=r"trial_0 is not measured: .*--resume --metrics"):
        main([str(folder)])
    assert f"{folder}: trained; the same command with --resume --metrics" in capsys.readouterr().out
    run("--epochs 1 --resume --metrics", base=TINY)
    main([str(folder)])


def test_the_best_test_error_need_not_be_the_last(tmp_path):
    run = fake(tmp_path)
    np.savez(tmp_path / "test-em.npz", report_epochs=np.arange(3), acc=[0.5, 0.9, np.nan])
    assert figures.summary_row(run)["best test error"] == pytest.approx(10)


def test_unknown_options_are_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--branchs"])
    assert stop.value.code == 2 and "did you mean --branches?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "FOLDER" in capsys.readouterr().out


@pytest.mark.parametrize("options, words", [
    ({"wd": 0.02}, "η = 0.1, λ = 0.02"),
    ({"fix_si_pnorm": True}, "η = 0.1, fixed norm"),
    ({"fix_si_pnorm": True, "fix_si_pnorm_value": 5.0}, "η = 0.1, fixed norm, ρ = 5"),
    ({"trial": 3}, "η = 0.1, trial = 3"),
    ({"norm": "layer"}, "η = 0.1, layer"),
    ({"fix_elr": True, "elr": 0.001}, "ELR = 0.001"),
    ({"epochs": 9, "commit": "other", "keep_epochs": [0]}, "η = 0.1"),
    ({"model": "ResNet18SI", "si_weights": ["conv1.weight"]}, "η = 0.1, ResNet18SI"),
])  # fmt: skip
def test_labels_say_what_differs(tmp_path, options, words):
    plain, other = fake(tmp_path / "a"), fake(tmp_path / "b", **options)
    assert figures.label(other, [plain, other]) == words
    assert figures.label(plain, [plain]) == "η = 0.1"
    assert "ρ" not in figures.label(plain, [plain, other])


@pytest.mark.parametrize("turns, words", [
    (0, ["0", "none", "none"]), (1, ["1", "needs 2 periods", "needs 3 periods"]),
    (2, ["2", "100.0", "needs 3 periods"]), (3, ["3", "100.0", "0.00"]),
])  # fmt: skip
def test_an_unknown_period_says_why(tmp_path, turns, words):
    run = fake(tmp_path)
    epochs = np.arange(60 + 100 * turns)
    since = (epochs + 40) % 100  # since ρ was largest; it turns and jumps where this is 0
    rows = [{"epoch": e, "train_loss": 10.0 ** (-4 * s / 100), "si_norm": 2 - s / 100}
            for e, s in zip(epochs, since, strict=True)]  # fmt: skip
    runs.write_log(tmp_path, rows[: 60 + 100 * (turns - 1) + 20 if turns else 50])
    row = [cell.strip() for cell in figures.table([run]).splitlines()[-1].split("  ") if cell]
    assert row[2:5] == words and row[5] == "0.00"
    (tmp_path / "test-em.npz").unlink()
    assert figures.table([runs.Run(tmp_path, run.config)]).endswith("not measured")
