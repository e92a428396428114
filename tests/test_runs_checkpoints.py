"""Official checkpoints load; damaged, foreign and malicious files do not, and run nothing."""

import copy
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from conftest import measure
from torch.testing import assert_close

import models
from options import Model
from runs import checkpoints
from utils import UserError


def official(name="ConvNetSI", **more):
    """What P2's official code saves: NumPy scalars among the numbers."""
    model = models.build(Model(name, 2), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.01), momentum=0.9)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    optimizer.step()
    return {
        "epoch": 1,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "train_res": {"loss": np.float64(2.5), "accuracy": np.float32(10.0)},
        "test_res": {"loss": None, "accuracy": None},
        **more,
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint-1.pt"


@pytest.mark.parametrize("name", list(models.MODELS))
def test_official_checkpoints_are_measured(tmp_path, name):
    for epoch, zipped in ((1, True), (5, False)):
        path = tmp_path / f"checkpoint-{epoch}.pt"
        torch.save(official(name), path, _use_new_zipfile_serialization=zipped)
    found = measure(
        tmp_path,
        f"--dataset Digits --model {name} --num_channels 2 --depth 3 --init_scale 10 "
        "--noninvlr 0.0 --corrupt_train 0.0 --num_workers 4 --use_test --batch_size 128 "
        "--eval_model --all_pnorm",
    )
    assert found["report_epochs"].tolist() == [1, 5] and np.isfinite(found["loss"]).all()


def test_scalars_under_numpy_1_names(tmp_path):
    path, changed = tmp_path / "new.pt", tmp_path / "old.pt"
    torch.save({"state_dict": {}, "lr": np.float64(0.125)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            new.writestr(item.filename, content)
    assert checkpoints.load(changed)["lr"] == 0.125


def test_a_checkpoint_cannot_run_code(path):
    attacked = path.with_name("attacked")

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(attacked),)

    torch.save(official(test_res=Attack()), path)
    with pytest.raises(UserError, match=r"checkpoint-1\.pt"):
        checkpoints.load(path)
    assert not attacked.exists()


def test_foreign_and_truncated_files_are_named(path, recwarn):
    torch.save(official(), path)
    whole = path.read_bytes()
    truncated = [whole[: int(part * len(whole))] for part in (0, 0.1, 0.5, 0.99)]
    for content in (*truncated, b"PK\x03\x04 cut", b"<html>", pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"checkpoint-1\.pt"):
            checkpoints.load(path)
    assert not recwarn  # the error is all that one sees


def test_only_a_parallel_networks_names_are_shortened(path):
    some = ["module.0.weight", "head.weight"]
    for names, expected in ((["module.0.weight"], ["0.weight"]), (some, some)):
        torch.save({"state_dict": {name: torch.ones(1) for name in names}}, path)
        assert list(checkpoints.load(path)["state_dict"]) == expected


WEIGHTS = {"0.weight": torch.ones(1)}


@pytest.mark.parametrize("content, wrong", [
    (None, "no state_dict"), ([1], "no state_dict"), ({"weights": {}}, "no state_dict"),
    ({"state_dict": None}, "not hold tensors"), ({"state_dict": [WEIGHTS]}, "not hold tensors"),
    ({"state_dict": {1: torch.ones(1)}}, "not hold tensors"),
    ({"state_dict": {"0.weight": 1.0}}, "not hold tensors"),
    ({"state_dict": WEIGHTS, "epoch": "last"}, "epoch is not a number"),
])  # fmt: skip
def test_what_is_no_checkpoint_says_why(path, content, wrong):
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"checkpoint-1\.pt is not a checkpoint: .*{wrong}"):
        checkpoints.load(path)


@pytest.mark.parametrize("epoch", [1, 0.5, np.int64(1), np.float32(1), torch.tensor(1)])
def test_numbers_of_an_epoch(path, epoch):
    torch.save({"state_dict": WEIGHTS, "epoch": epoch}, path)
    assert checkpoints.load(path)["epoch"] == epoch


def test_own_checkpoint_opens_without_this_project(run):
    """The official readers want a dictionary with these keys, torch tensors and plain numbers."""
    folder = run("--epochs 1 --momentum 0.9")
    content = torch.load(folder / "checkpoint-1.pt", weights_only=True)
    assert {"epoch", "state_dict", "optimizer", "train_res", "test_res"} <= content.keys()
    assert content["train_res"].keys() == content["test_res"].keys() == {"loss", "accuracy"}
    group = content["optimizer"]["param_groups"][0]
    assert group["momentum"] == 0.9 and isinstance(group["lr"], float) and content["epoch"] == 1
    model = models.build(Model("ConvNetSI", 2), 10)
    model.load_state_dict(content["state_dict"], strict=True)
    groups = models.si_parameters(model).values(), model.linear_layers.parameters()
    optimizer = torch.optim.SGD([{"params": list(group)} for group in groups], lr=1.0)
    optimizer.load_state_dict(content["optimizer"])


@pytest.mark.parametrize("saved, classes, into, wrong", [
    (Model("ConvNetSIAf", 2), 10, "ConvNetSI", "it has conv_layers.1.weight"),
    (Model("ConvNetSI", 2), 10, "ConvNetSIAf", "it lacks conv_layers.1.weight"),
    (Model("ResNet18SI", 2), 10, "ConvNetSI", "it lacks conv_layers.0.weight"),
    (Model("ConvNetSI", 3), 10, "ConvNetSI", r"weight is \(.*\), expected \("),
    (Model("ConvNetSI", 2), 5, "ConvNetSI", r"weight is \(.*\), expected \("),
])  # fmt: skip
def test_a_checkpoint_of_another_network_is_refused(saved, classes, into, wrong):
    content = {"state_dict": models.build(saved, classes).state_dict()}
    model = models.build(Model(into, 2), 10)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=f"x.pt belongs to another network: .*{wrong}"):
        checkpoints.load_weights(model, content, "x.pt")
    assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", list(models.MODELS))
def test_all_of_a_checkpoint_is_loaded_and_old_ones_without_batch_counts_too(name):
    torch.manual_seed(0)
    model = models.build(Model(name, 2), 10)
    names = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    assert len(names) < len(model.state_dict())
    saved = {key: torch.rand_like(model.state_dict()[key]) for key in names}
    checkpoints.load_weights(model, {"state_dict": saved}, "x.pt")
    assert_close({key: model.state_dict()[key] for key in names}, saved, rtol=0, atol=0)
