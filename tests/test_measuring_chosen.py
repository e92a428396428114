"""test.py for some of the checkpoints, on some of the images, and what it shows meanwhile."""

import io

import numpy as np
from tqdm import tqdm

import runs
import test as test_script
from measuring import meter


def measure(words, capsys):
    """Run test.py: what it printed, or its error."""
    capsys.readouterr()
    try:
        test_script.main(f"{words} --gpu -1".split())
    except SystemExit:
        return capsys.readouterr().err
    return capsys.readouterr().out


def epochs(path):
    with np.load(path) as file:
        return file["report_epochs"].tolist()


def test_some_epochs_or_one_checkpoint_are_measured_and_added(run, capsys):
    folder = run("--epochs 6 --save_freq 1")
    file = folder / "train-em.npz"
    said = measure(f"--models_dir {folder}/checkpoint-2.pt --eval_model", capsys)
    assert f"{folder}: 1 checkpoint on" in said
    assert epochs(file) == [2]
    measure(f"--models_dir {folder} --eval_model --epochs 0,5", capsys)
    assert epochs(file) == [0, 2, 5]
    measure(f"--models_dir {folder} --eval_model --epochs every3", capsys)
    assert epochs(file) == [0, 2, 3, 5, 6]
    with np.load(file) as arrays:
        assert np.isfinite(arrays["loss"]).all() and "missing" not in arrays
    assert "there are 7 epochs from 0 to 6" in measure(f"--models_dir {folder} --epochs 9", capsys)
    assert "is not epochs" in measure(f"--models_dir {folder} --epochs some", capsys)
    assert "no checkpoint" in measure(f"--models_dir {folder}/config.json", capsys)


def test_a_smaller_test_set_is_measured_on_and_saved(run, capsys):
    folder = run("--metrics --use_test_size 20 --epochs 2 --save_freq 1")
    assert runs.read_config(folder)["use_test_size"] == 20
    with np.load(folder / "test-em.npz") as file:
        np.testing.assert_allclose(20 * file["acc"] % 1, 0, atol=1e-9)
        on_the_way = dict(file)
    measure(f"--models_dir {folder} --use_test --eval_model", capsys)
    with np.load(folder / "test-em.npz") as file:
        np.testing.assert_array_equal(file["acc"], on_the_way["acc"])
    words = f"--models_dir {folder} --use_test --eval_model --save_path {folder}/whole.npz"
    measure(f"{words} --use_test_size 297", capsys)
    with np.load(folder / "whole.npz") as file:
        assert (297 * file["acc"]).round(6).tolist() != (297 * on_the_way["acc"]).round(6).tolist()
    error = measure(f"{words} --use_test_size 298", capsys)
    assert "--use_test_size 298 is more than the 297 images" in error


def test_long_metrics_show_how_far_they_are(run, capsys, monkeypatch):
    folder = run("--epochs 1 --save_freq 1")
    shown = io.StringIO()

    def bar(*words, disable, **more):
        assert disable is None  # on a terminal
        return tqdm(*words, file=shown, mininterval=0, **more)

    monkeypatch.setattr(meter, "tqdm", bar)
    measure(f"--models_dir {folder}/checkpoint-1.pt --sharpness --train_mode", capsys)
    text = shown.getvalue()
    assert "sharpness, product 1:" in text and "sharpness, product 2:" in text
    assert "| 4/4 " in text
