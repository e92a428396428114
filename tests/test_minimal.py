"""minimal.py stands alone, takes the same steps as train.py, and always ends."""

import csv
import itertools
import re
import signal
import sys

import numpy as np
import processes
import pytest
import torch
from conftest import ROOT, load_images, state_of
from matplotlib.image import imread

import minimal
import runs
from theory import periods
from training.device import seed_from

LR, WD, BATCH = 0.1, 0.04, 64
RECORD = ROOT / "results" / "minimal.csv"  # written by `python tests/test_minimal.py`


def test_it_needs_only_torch_and_scikit_learn_and_matplotlib_to_draw():
    code = (ROOT / "minimal.py").read_text().split('"""', 2)[2]
    names = set(re.findall(r"^ *(?:import|from) (\w+)", code, re.MULTILINE))
    assert names - sys.stdlib_module_names == {"torch", "sklearn", "matplotlib"}


def test_its_steps_are_those_of_train_py(run):
    """From the same weights on the same batches: weights, losses and norms of two epochs."""
    folder = run(f"--epochs 2 --lr_init {LR} --wd {WD} --batch_size {BATCH} --save_freq 1")
    config, log = runs.read_config(folder), runs.read_log(folder)
    start, end = (
        {name: w for name, w in state_of(folder, k).items() if name.endswith(("weight", "bias"))}
        for k in (0, 2)
    )
    network = minimal.make_network(config["num_channels"])
    with torch.no_grad():
        for own, theirs in zip(network.parameters(), start.values(), strict=True):
            own.copy_(theirs)
    images, _ = load_images("Digits", use_test=True, use_data_size=config["use_data_size"])
    for epoch in range(2):
        generator = torch.Generator().manual_seed(seed_from(config["seed"], config["trial"], epoch))
        batches = images.batches(BATCH, generator, shuffle=True)
        sums = [len(y) * minimal.train_step(network, x, y, LR, WD) for x, y in batches]
        assert sum(sums) / len(images) == pytest.approx(log[epoch]["train_loss"], rel=1e-4)
        rho = minimal.norm(minimal.scale_invariant_weights(network))
        assert rho == pytest.approx(log[epoch]["si_norm"], rel=1e-5)
    for (name, theirs), own in zip(end.items(), network.parameters(), strict=True):
        torch.testing.assert_close(own.detach(), theirs, rtol=1e-4, atol=1e-5, msg=name)
        moved = (theirs - start[name]).norm() > 0.1 * theirs.norm()
        assert moved == name.startswith("conv_layers"), name


RHO = [3, 5, 4, 3, 2, 3, 4, 3.9, 3, 2.2, 2.5, 3, 2.5, 2]
LOSS = [2, 1, 0.5, 0.2, 0.1, 2, 1, 0.5, 0.2, 0.1, 0.3, 0.35, 0.2, 0.1]


def test_periods_are_cycles_of_the_norm_with_a_jump_of_the_loss():
    assert minimal.find_periods(LOSS, RHO) == [(1, 4, 6)]  # the second rise is only threefold
    higher = [0.5 if epoch == 10 else loss for epoch, loss in enumerate(LOSS)]
    assert minimal.find_periods(higher, RHO) == [(1, 4, 6), (6, 9, 11)]
    assert minimal.find_periods(LOSS, [5 * 0.9**k for k in range(len(LOSS))]) == []
    assert minimal.find_periods(LOSS, [*RHO[:3], *[float("nan")] * (len(LOSS) - 3)]) == []


def test_periods_are_those_of_theory():
    """On random walks of ln ρ, which have cycles of every size."""
    random = np.random.default_rng(0)
    rho, loss = np.exp(np.cumsum(random.normal(scale=(0.05, 1.0), size=(400, 2)), axis=0)).T
    found = minimal.find_periods(loss.tolist(), rho.tolist())
    theirs = periods.find_periods(range(400), loss, rho).cycles
    assert len(found) > 4
    assert found == [(period.start, period.turn, period.end) for period in theirs]


def test_the_table_has_a_line_for_every_period(capsys):
    minimal.print_periods(LOSS, RHO, lr=0.1)
    row = capsys.readouterr().out.splitlines()[-1]
    # turns after the fifth epoch; losses; ρ falls from 5 to 2, rises to 4; η̃ = 0.1 / 2²
    assert [float(v) for v in row.split()] == [1, 5, 0.1, 2, 5, 2, 4, 0.025]
    minimal.print_periods([1.0], [1.0], lr=0.1)
    assert "no periods" in capsys.readouterr().out


@pytest.fixture
def main(monkeypatch, tmp_path):
    """The script with these words in an empty folder; fails after a minute instead of hanging."""

    def start(words=""):
        monkeypatch.setattr(sys, "argv", ["minimal.py", *words.split()])
        minimal.main()

    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it does not end"))
    signal.alarm(60)
    yield start
    signal.alarm(0)


def test_periods_of_any_numbers_are_found_in_finite_time(main):
    odd = [0.0, 1e-300, 1.0, 2.0, 1e300, float("inf"), float("nan")]
    for rhos in itertools.product(odd, repeat=5):
        ends = minimal.find_periods([1, 0.1, 9, 0.1, 9], list(rhos))
        assert all(start < turn < top for start, turn, top in ends), rhos


@pytest.mark.parametrize("words", ["--lr 100", "--wd 30", "--lr 1e38", "--wd 1e300", "--lr 1e-320"])
def test_training_ends_when_the_weights_grow_without_limit(main, words, capsys):
    main(f"{words} --epochs 16")
    printed = capsys.readouterr().out
    assert ("diverged in epoch" in printed) == (words != "--lr 1e-320")
    assert "nan" not in printed.partition("diverged in epoch")[0]


@pytest.mark.parametrize("words", [
    "--lr 0", "--lr -1", "--lr nan", "--lr inf", "--wd -1", "--wd nan", "--wd inf", "--epochs 0",
    "--epochs -3", "--epochs 1.5", "--lr", "--rate 3",
])  # fmt: skip
def test_options_that_cannot_be_are_refused(words, main, capsys, monkeypatch):
    monkeypatch.setattr(minimal, "train", lambda *_: pytest.fail("it trains"))
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and words.split()[0] in capsys.readouterr().err


def test_without_matplotlib_there_is_no_picture(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(minimal, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # it cannot be imported
    minimal.draw(LOSS, RHO, "")
    assert "No picture" in capsys.readouterr().out and not any(tmp_path.iterdir())


def test_as_a_script_it_says_that_there_is_no_period_and_draws(tmp_path):
    script = [sys.executable, ROOT / "minimal.py", "--epochs", "10"]
    process = processes.Started(script, cwd=tmp_path)
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert re.search(r"^ +10 +[\d.]+ +[\d.]+ +[\d.]+$", out, re.MULTILINE)
    assert "no periods: no fall of ρ" in out and (tmp_path / minimal.PICTURE).exists()


def recorded():
    """Loss and norm of every epoch of the run that the README shows."""
    with RECORD.open(newline="") as file:
        rows = [(float(row["loss"]), float(row["rho"])) for row in csv.DictReader(file)]
    return tuple(map(list, zip(*rows, strict=True)))


def test_the_readme_shows_the_table_and_the_picture_of_the_record(
    main, tmp_path, monkeypatch, capsys
):
    """What `python minimal.py` makes of the recorded epochs, in place of a minute of training."""
    losses, rhos = recorded()
    runs_by_options = {(LR, WD, len(losses)): (losses, rhos)}
    monkeypatch.setattr(minimal, "train", lambda *options: runs_by_options[options])
    main()
    printed = capsys.readouterr().out
    shown = (ROOT / "README.md").read_text().split("<!-- minimal -->")[1]
    table = shown.split("<!-- /minimal -->")[0].strip().removeprefix("```\n").removesuffix("```")
    assert table.count("\n") > 5 and f"\n{table}The picture is" in printed
    # Means over blocks of 30 x 30 pixels: versions of matplotlib place text and lines differently.
    drawn, committed = (
        imread(folder / minimal.PICTURE)[..., :3].reshape(30, 30, 45, 30, 3).mean((1, 3))
        for folder in (tmp_path, RECORD.parent)
    )
    assert np.abs(drawn - committed).mean() < 0.006


def test_training_makes_a_step_on_every_part_of_a_random_order_and_begins_as_recorded():
    """In the loss another processor's rounding shows from the second epoch on."""
    found, record = minimal.train(LR, WD, 3), recorded()
    torch.manual_seed(0)
    images, labels = minimal.digits(minimal.IMAGES)
    assert images.mean().abs() < 1e-5 and images.std() == pytest.approx(1, abs=1e-3)
    network = minimal.make_network(minimal.WIDTH)
    for epoch, (loss, rho) in enumerate(zip(*found, strict=True)):
        parts = torch.randperm(minimal.IMAGES).split(BATCH)
        steps = [minimal.train_step(network, images[p], labels[p], LR, WD) for p in parts]
        assert loss == pytest.approx(np.mean(steps))
        assert rho == pytest.approx(minimal.norm(minimal.scale_invariant_weights(network)))
        assert loss == pytest.approx(record[0][epoch], rel=0.08 if epoch else 5e-3)
        assert rho == pytest.approx(record[1][epoch], rel=5e-3)


if __name__ == "__main__":
    rows = zip(*minimal.train(LR, WD, 320), strict=True)
    RECORD.write_text("loss,rho\n" + "".join(f"{loss:.6g},{rho:.6g}\n" for loss, rho in rows))
