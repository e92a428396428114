"""Official checkpoints load; damaged, foreign and malicious files do not, and run nothing."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

import models
import test as test_script
from options import Model
from runs import checkpoints
from utils import UserError


def official(name="ConvNetSI", width=2, **more):
    """What P2's official code saves: NumPy scalars among the numbers."""
    model = models.build(Model(name, width), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float64(0.01), momentum=0.9)
    x = torch.randn(4, 3, 32, 32)
    model(x).sum().backward()
    optimizer.step()
    return {
        "epoch": 1,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "train_res": {"loss": np.float64(2.5), "accuracy": np.float32(10.0)},
        "test_res": {"loss": None, "accuracy": None},
        **more,
    }


@pytest.mark.parametrize("name", list(models.MODELS))
@pytest.mark.parametrize("zipped", [True, False])
def test_official_checkpoints_are_measured(tmp_path, name, zipped):
    for epoch in (1, 5):
        torch.save(
            official(name),
            tmp_path / f"checkpoint-{epoch}.pt",
            _use_new_zipfile_serialization=zipped,
        )
    test_script.main(
        f"--models_dir {tmp_path} --save_path {tmp_path}/info.npz --dataset Digits --model {name} "
        "--num_channels 2 --depth 3 --init_scale 10 --noninvlr 0.0 --corrupt_train 0.0 "
        "--num_workers 4 --use_test --batch_size 128 --eval_model --all_pnorm --gpu 0".split()
    )
    with np.load(tmp_path / "info.npz") as found:
        assert found["report_epochs"].tolist() == [1, 5]
        assert np.isfinite(found["loss"]).all()


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


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save(official(test_res=Attack()), tmp_path / "checkpoint-1.pt")
    with pytest.raises(UserError, match=r"checkpoint-1\.pt"):
        checkpoints.load(tmp_path / "checkpoint-1.pt")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"<html>", pickle.dumps([1, 2])])
def test_foreign_files_are_named(tmp_path, content, recwarn):
    path = tmp_path / "checkpoint-1.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint-1\.pt"):
        checkpoints.load(path)
    assert not recwarn  # the error is all that one sees


def test_only_a_parallel_networks_names_are_shortened(tmp_path):
    path = tmp_path / "checkpoint-1.pt"
    for names in (["module.0.weight", "head.weight"], ["0.weight"]):
        torch.save({"state_dict": {name: torch.ones(1) for name in names}}, path)
        assert list(checkpoints.load(path)["state_dict"]) == names
    torch.save({"weights": {}}, path)
    with pytest.raises(UserError, match="it has no state_dict"):
        checkpoints.load(path)


WEIGHTS = {"0.weight": torch.ones(1)}


@pytest.mark.parametrize("content, wrong", [
    (None, "no state_dict"), ([1], "no state_dict"),
    ({"state_dict": None}, "not hold tensors"), ({"state_dict": [WEIGHTS]}, "not hold tensors"),
    ({"state_dict": {1: torch.ones(1)}}, "not hold tensors"),
    ({"state_dict": {"0.weight": 1.0}}, "not hold tensors"),
    ({"state_dict": WEIGHTS, "epoch": "last"}, "epoch is not a number"),
])  # fmt: skip
def test_what_is_no_checkpoint_says_why(tmp_path, content, wrong):
    path = tmp_path / "checkpoint-1.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"checkpoint-1\.pt is not a checkpoint: .*{wrong}"):
        checkpoints.load(path)


@pytest.mark.parametrize("epoch", [1, 0.5, np.int64(1), np.float32(1), torch.tensor(1)])
def test_numbers_of_an_epoch(tmp_path, epoch):
    path = tmp_path / "checkpoint-1.pt"
    torch.save({"state_dict": WEIGHTS, "epoch": epoch}, path)
    assert checkpoints.load(path)["epoch"] == epoch


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "checkpoint-1.pt"
    torch.save(official(), path)
    whole = path.read_bytes()
    for part in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(UserError, match=r"checkpoint-1\.pt"):
            checkpoints.load(path)


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
    torch.optim.SGD(
        [{"params": list(models.si_parameters(model).values())},
         {"params": list(model.linear_layers.parameters())}], lr=1.0
    ).load_state_dict(content["optimizer"])  # fmt: skip


@pytest.mark.parametrize("saved, into, key", [
    ("ConvNetSIAf", "ConvNetSI", "has conv_layers.1.weight"),
    ("ConvNetSI", "ConvNetSIAf", "lacks conv_layers.1.weight"),
    ("ResNet18SI", "ConvNetSI", "lacks conv_layers.0.weight"),
    ("ResNet18SIAf", "ResNet18SI", "has layer1.0.bn1.weight"),
])  # fmt: skip
def test_a_checkpoint_of_another_network_is_refused(saved, into, key):
    content, model = (
        {"state_dict": models.build(Model(saved, 2), 10).state_dict()},
        models.build(Model(into, 2), 10),
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=f"x.pt belongs to another network: it {key}"):
        checkpoints.load_weights(model, content, "x.pt")
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("width, classes", [(3, 10), (2, 5)])
def test_a_checkpoint_of_other_sizes_is_refused(width, classes):
    content = {"state_dict": models.build(Model("ConvNetSI", width), classes).state_dict()}
    with pytest.raises(UserError, match=r"weight is \(.*\), expected \("):
        checkpoints.load_weights(models.build(Model("ConvNetSI", 2), 10), content, "x.pt")


@pytest.mark.parametrize("name", list(models.MODELS))
def test_all_of_a_checkpoint_is_loaded_and_old_ones_without_batch_counts_too(name):
    torch.manual_seed(0)
    saved = {
        k: torch.rand_like(v.float()).to(v.dtype) for k, v in official(name)["state_dict"].items()
    }
    model = models.build(Model(name, 2), 10)
    old = {k: v for k, v in saved.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(saved)
    checkpoints.load_weights(model, {"state_dict": old}, "x.pt")
    found = model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in old.items())
