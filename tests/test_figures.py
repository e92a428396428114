"""The command that draws: which runs, under which names, and whether one can read them."""

import itertools
import shutil

import numpy as np
import pytest
from conftest import ROOT
from made_runs import CONFIG
from matplotlib.figure import Figure

import figures
import runs
from figures.__main__ import epochs_of, main
from figures.labels import by_setting, labels, lines_of
from figures.report import name_for
from figures.style import describe
from utils import UserError


@pytest.fixture
def unrendered(monkeypatch):
    """Files of figures are empty: to render them takes seconds."""
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


def test_branches_are_drawn_when_named_or_asked_for(run, capsys, unrendered):
    folder = run("--metrics --save_freq 1")
    run("--fix_si_pnorm --resume_epoch 2 --metrics --save_freq 1")
    branch = folder / "branch-2_fix_si_pnorm=True"
    main([str(branch)])
    main([str(folder)])
    assert (branch / "periods.png").exists() and not list(folder.glob("*_branches.png"))
    capsys.readouterr()
    paths = shutil.copy(ROOT / "results/sphere_minima_cpu/paths.npz", folder / "paths.npz")
    main([str(folder), "--branches", str(paths)])
    assert paths.with_suffix(".png").exists()
    out = capsys.readouterr().out
    assert "norm held, from epoch 2" in out and "norm free" in out
    assert "η" not in out and "note" not in out
    assert (folder / "periods_branches.png").exists()
    (parent,), (child,) = runs.find_runs(folder), runs.find_runs(branch)
    assert [run.folder for run in parent.branches] == [branch]
    assert child.parent().folder == folder
    grey, own = figures.figure2([child]).axes[0].get_lines()
    assert grey.get_xdata().tolist() == [0, 1, 2] and own.get_xdata().tolist() == [2, 3, 4, 5]
    assert grey.get_ydata()[-1] == own.get_ydata()[0]  # the same weights


def fake(folder, acc=(0.1, 0.5, 0.4), **options):
    """A run with a configuration and a metrics file, not trained."""
    config = CONFIG | {"epochs": 5, "trial": 0} | options
    runs.write_config(folder, config)
    np.savez(folder / "test-em.npz", report_epochs=np.arange(len(acc)), acc=acc)
    return runs.Run(folder, config)


def test_experiments_are_listed_and_not_mixed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "Experiments"
    line = root / "sweep" / "lr_0.1"
    fake(root / "first" / "trial_0")
    fake(line / "trial_0")
    fake(line / "trial_0" / "branch-2", resume_epoch=2)
    fake(root / "sweep" / "lr_0.2" / "trial_0", lr_init=0.2)
    main([])
    out = capsys.readouterr().out
    assert "Experiments/first: 1 run\n" in out
    assert "Experiments/sweep: 2 runs, 1 branch (--branches)\n" in out
    (tmp_path / "empty").mkdir()
    for folder, message in (("Experiments", r"several experiments, name one of .*first, .*sweep"),
                            ("nowhere", "no folder"), ("empty", "make demo")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            main([folder])
    assert not list(root.rglob("*.png"))
    main([str(line / "trial_0"), "Experiments/sweep/lr_0.2/trial_0"])
    name = "periods_lr_0.1_trial_0_and_lr_0.2_trial_0.png"
    assert f"figure: {root / 'sweep' / name}" in capsys.readouterr().out
    main([str(root / "sweep"), str(line)])
    assert capsys.readouterr().out.count("50.00") == 2  # each run once
    many = [tmp_path / f"{i}_{'x' * 40}" for i in range(3)]
    assert name_for(many) == (tmp_path, "_of_3_folders")


def test_what_is_not_measured_is_drawn_from_its_log_and_says_how_to_measure(run, capsys):
    folder = run("--epochs 1")
    main([str(folder)])
    assert "trial_0 is not measured, its log alone is drawn; train.py's" in capsys.readouterr().out
    (one,) = runs.find_runs(folder, logged=True)
    assert figures.figure2([one]).axes[0].get_xticks().tolist() == [1]
    rows = [{"epoch": e, "lr": 0.1, "train_loss": loss, "train_acc": 0.1, "si_norm": 3.0}
            for e, loss in ((1, 2.0), (2, np.nan))]  # fmt: skip
    runs.write_log(folder, rows)
    main([str(folder)])
    shown = capsys.readouterr().out
    assert "it diverged in epoch 2; train.py's command with --resume --metrics measures" in shown
    assert (folder / "overview.png").exists()


def test_a_window_of_epochs(distinct, capsys, unrendered):
    run = distinct()
    main([str(run.folder)])
    assert figures.period_table(run) in capsys.readouterr().out
    assert (epochs_of("4:4"), epochs_of(":7")) == ((4, 4), (0, 7))
    main([str(run.folder), "--epochs", "4:20"])
    assert (run.folder / "periods_epochs_4_20.png").exists()
    with pytest.raises(UserError, match="nothing was recorded in the epochs 70:inf"):
        main([str(run.folder), "--epochs", "70:"])
    part = runs.Run(run.folder, run.config, window=(4, 20))
    assert part.log()["epoch"].tolist() == list(range(4, 21))
    runs.write_trace(run.folder, 20, {"loss": np.ones(4)})
    runs.write_trace(run.folder, 19, {"loss": np.ones(4)})
    assert part.trace()["epoch"].tolist() == [19, 19.25, 19.5, 19.75]
    for name, epochs in (("train_loss", [4, 7, 7.25, 7.5, 8, 19, 20]), ("test_error", [4, 8, 19])):
        assert part.curves[name].epochs.tolist() == epochs


@pytest.mark.parametrize("words, message", [
    ("--epochs 4:2", "is not A:B"), ("--epochs 4", "is not A:B"), ("--epochs nan:", "is not A:B"),
    ("--branchs", "--branches"), ("nowhere.csv", r"nowhere\.csv"),
    ("--foo", "unknown option --foo; "),  # not --folders, no option
])  # fmt: skip
def test_mistakes_are_named(words, message):
    with pytest.raises(UserError, match=message):
        main(words.split())


@pytest.mark.parametrize("options, names", [
    ({"wd": 0.02}, ["λ = 0.04", "λ = 0.02"]),
    ({"lr_init": 0.2, "wd": 0.02}, ["η = 0.1, λ = 0.04", "η = 0.2, λ = 0.02"]),
    ({"fix_si_pnorm": True}, ["norm free", "norm held"]),
    ({"fix_si_pnorm": True, "fix_si_pnorm_value": 5.0}, ["norm free", "norm held, ρ = 5"]),
    ({"trial": 3}, ["trial 0", "trial 3"]),
    ({"fbgd": True, "norm": "layer"},
     ["mini-batches, batch normalisation", "full batch, layer normalisation"]),
    ({"fix_elr": True, "elr": 0.001}, ["η = 0.1", "ELR = 0.001"]),
    ({"model": "path/to/net.py:make"}, ["ConvNetSI", "net.py:make"]),
    ({"noaug": False, "momentum": 0.9}, ["momentum = 0, no augmentation",
                                         "momentum = 0.9, augmentation"]),
    ({"optimizer": "adam", "momentum": 0.9}, ["momentum = 0, sgd", "adam"]),  # Adam has none
    ({"epochs": 9}, ["5 epochs", "9 epochs"]),
    ({"commit": "other"}, ["a", "b"]),
    ({"resume_epoch": 2}, ["", "from epoch 2"]),
])  # fmt: skip
def test_names_are_what_differs_and_nothing_else(tmp_path, options, names):
    pair = [fake(tmp_path / "a"), fake(tmp_path / "b", **options)]
    assert [{*name.split(", ")} for name in labels(pair)] == [{*n.split(", ")} for n in names]
    assert labels(pair[:1]) == ["η = 0.1"]
    assert len({*labels([*pair, fake(tmp_path / "c" / "trial_0", norm="group")])}) == 3


def test_seeds_and_folders_name_only_runs_that_are_equal_otherwise(tmp_path):
    places = (("a/one", 0.1), ("a/two", 0.2), ("b/two", 0.2), ("b/three", 0.3))
    some = [fake(tmp_path / place, lr_init=lr) for place, lr in places]
    some.append(fake(tmp_path / "c" / "three", lr_init=0.3, trial=3))
    names = ["η = 0.1", "η = 0.2, a", "η = 0.2, b", "η = 0.3, trial 0", "η = 0.3, trial 3"]
    assert labels(some) == names
    # Seeds of a setting are one line, copies are not
    runs = [fake(tmp_path / f"{lr}_{t}", lr_init=lr, trial=t) for lr in (1, 2) for t in (0, 1)]
    assert by_setting(runs) == [runs[:2], runs[2:]]
    assert [line.label for line in lines_of(runs)[0]] == ["η = 1, 2 seeds", "η = 2, 2 seeds"]
    copy = fake(tmp_path / "copy", lr_init=1, trial=0)
    assert by_setting([*runs, copy]) == [runs[:2], runs[2:], [copy]]


def test_sixteen_lines_are_drawn_and_what_is_left_out_is_said(tmp_path, capsys, unrendered):
    for i in range(20):
        fake(tmp_path / f"lr_{i}" / "trial_0", lr_init=1.0 + i)
    found = runs.find_runs(tmp_path)
    lines, note = lines_of(found)
    assert len(lines) == 16 and note == "16 of 20 settings are drawn"
    assert (lines[0].label, lines[-1].label) == ("η = 1", "η = 20")
    assert figures.figure2(found).legends[0].get_title().get_text() == note
    assert lines_of(found[:16])[1] == ""
    main([str(tmp_path)])
    assert f"note: {note}" in capsys.readouterr().out


def test_an_unknown_period_says_why(tmp_path):
    fake(tmp_path)
    since = (np.arange(280) + 40) % 100  # since ρ was largest; it turns and jumps where this is 0
    rows = [{"epoch": e, "train_loss": 10.0 ** (-4 * s / 100), "si_norm": 2 - s / 100}
            for e, s in enumerate(since)]  # fmt: skip
    for epochs, *words in (
        (50, "0", "none", "none"), (80, "1", "needs 2", "needs 3"),
        (180, "2", "100.0", "needs 3"), (280, "3", "100.0", "0.00"),
    ):  # fmt: skip
        runs.write_log(tmp_path, rows[:epochs])
        (run,) = runs.find_runs(tmp_path)
        row = [cell.strip() for cell in figures.table([run]).splitlines()[-1].split("  ") if cell]
        assert row == ["0.1", "0.04", *words, "50.00"]
    (tmp_path / "test-em.npz").unlink()
    assert figures.table([runs.Run(tmp_path, run.config)]).endswith("not measured")


def test_tables_of_many_folders_fit_a_screen(tmp_path):
    runs = [fake(tmp_path / f"experiment_{i}" / "line_of_a_long_name" / "trial_0", wd=0.01 * i,
                 momentum=0.1 * i, norm=("batch", "layer")[i % 2], trial=i,
                 model=f"a/long/path/net{i}.py:net") for i in range(9)]  # fmt: skip
    sphere = [fake(tmp_path / f"s{i}" / f"trial_{t}", fix_elr=True, elr=10.0**-i, trial=t)
              for i in range(4) for t in range(2)]  # fmt: skip
    for some in (runs, sphere, sphere[::2], [*runs, *sphere]):
        lines = figures.table(some).splitlines()
        assert max(map(len, lines)) <= 100 and len(lines) >= 2 + len(some)


def test_the_period_table_has_no_header_without_rows_and_no_number_bursts_it(make):
    assert figures.period_table(make(np.ones(50), np.ones(50))) == ""
    since = np.arange(60) % 20
    run = make(10.0 ** (-2 * since / 20), 1e35 * np.exp(-since / 20))
    at = np.arange(0.0, 61, 2)
    np.savez(run.folder / "train-tm.npz", report_epochs=at, loss=np.geomspace(2, 0.1, 31))
    np.savez(run.folder / "train-tm-prebn.npz", report_epochs=at, params_norm=np.full(31, 1e35))
    row = figures.period_table(run).splitlines()[2].split("  ")
    assert [cell.strip() for cell in row if cell] == ["20", "20", "0.74", "not measured", "1e+35"]


def boxes(texts):
    return [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]


def apart(boxes_of_labels, axis):
    ends = sorted((getattr(b, f"{axis}0"), getattr(b, f"{axis}1")) for b in boxes_of_labels)
    return all(left[1] < right[0] for left, right in itertools.pairwise(ends))


def value_of(label):
    """The number that a label of a tick shows."""
    digits, _, power = label.strip("$").partition("10^{")
    return float(digits.removesuffix(r"\times") or 1) * 10.0 ** int(power.rstrip("}") or 0)


@pytest.mark.parametrize("low, high", [
    (4.4551, 4.45512), (3.0, 3.3), (2.0, 5.0), (0.5, 30), (1e-5, 1e-1), (2e-5, 2.6e-5), (1, 1e35),
    (1e-9, 3e4), (900, 20_000), (0.0012, 0.0045), (7.0, 7.0),
])  # fmt: skip
def test_ticks_of_any_range_can_be_read(low, high):
    figure, axis = figures.plt.subplots(figsize=(3, 2.4), layout="constrained")
    axis.plot([low, high], [low, high])
    describe(axis, "", "x", "y", "log", "log")
    figure.draw_without_rendering()
    for side, name in ((axis.xaxis, "x"), (axis.yaxis, "y")):
        first, last = sorted(side.get_view_interval())
        ticks = zip(side.get_ticklocs(), side.get_ticklabels(), strict=True)
        ticks, shown = zip(*((x, label) for x, label in ticks if first <= x <= last), strict=True)
        texts = [label.get_text() for label in shown]
        assert [*map(value_of, texts)] == pytest.approx([*ticks], rel=0.01)
        assert 2 <= len({*texts}) == len(texts) <= 7 and apart(boxes(shown), name)
        assert last / first >= 2 * (1 - 1e-9)  # what is constant looks so


def test_a_loss_of_rounding_errors_is_not_magnified_on_a_linear_axis():
    axis = figures.plt.figure().subplots()
    axis.plot([1, 2], [50, 50.01])
    describe(axis, "", "x", "y")
    assert np.ptp(axis.get_ylim()) == pytest.approx(5, rel=0.01)


@pytest.mark.parametrize("number", [1, 16])
def test_titles_and_legends_of_any_number_of_lines_can_be_read(distinct, number):
    runs = [distinct({"lr_init": 0.01 * 2**i, "norm": ("batch", "layer")[i % 2]}, line=f"line_{i}")
            for i in range(number)]  # fmt: skip
    for figure in (figures.figure2(runs), figures.panels(runs), figures.metrics.metrics(runs),
                   figures.comparison(runs, "lr_init")):  # fmt: skip
        figure.draw_without_rendering()
        shown = [axis for axis in figure.axes if axis.get_visible()]
        bottom = min(axis.get_tightbbox().y0 for axis in shown)
        assert all(axis.get_legend() is None for axis in shown)
        for box in (legend.get_window_extent() for legend in figure.legends):
            assert box.y1 <= bottom and 0 <= box.x0 < box.x1 <= figure.bbox.x1
        rows = {}
        for axis in shown:
            rows.setdefault(round(axis.get_window_extent().y0), []).append(axis.title)
            assert axis.get_window_extent().width > 100 < axis.get_window_extent().height
        assert all(apart(boxes(titles), "x") for titles in rows.values())


def test_what_is_not_there_has_no_axis(make):
    none = [make(np.ones(30), np.ones(30), {"lr_init": lr}) for lr in (0.1, 0.2)]
    periods, errors = figures.comparison(none, "lr_init").axes
    assert len(periods.get_yticks()) == 0
    texts = [axis.texts[0].get_text() for axis in (periods, errors)]
    assert texts == ["no run has two periods", "not measured"]
    phases = figures.figure2(none).axes[3]
    assert len(phases.get_xticks()) == len(phases.get_yticks()) == 0
