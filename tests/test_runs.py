"""What lies in a run's folder is read back as it was, and no two runs are taken for one."""

import math
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import options
import runs
from options import Train
from utils import UserError

# Options that may differ between the commands of one run; every other one makes another run.
MAY_DIFFER = {
    "dir", "data_path", "num_workers", "gpu", "resume", "overwrite", "resume_epoch", "metrics",
    "trace", "keep", "compile", "deterministic", "eval_freq", "save_freq", "save_freq_int",
    "su_init",
}  # fmt: skip
# Of options with few values, one that is not the default.
OTHER = {
    "dataset": "Digits", "model": "my/net.py:make", "norm": "layer", "optimizer": "adam",
    "precision": "bf16", "momentum": 0.5, "split_classes": 1, "corrupt_train": 0.5,
    "init_scale": 5.0, "noninvlr": 0.5, "norm_eps": 1e-5,
}  # fmt: skip
NEEDED = {"fix_elr": {"elr": 1.0}, "fix_all_elr": {"elr": 1.0}}


def other(value):
    """Another value of an option than this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return 3 if value is None else f"{value}x"


@pytest.mark.parametrize("key", options.names(Train))
def test_every_other_option_makes_another_run(tmp_path, key):
    asked = Train(**NEEDED.get(key, {}))
    runs.write_config(tmp_path, {**asdict(asked), "norm_eps": 1e-12})
    runs.check_same_run(tmp_path, asked)
    changed = replace(asked, **{key: OTHER.get(key, other(getattr(asked, key)))})
    found = runs.branch_folder(tmp_path, 3, changed).name
    if key in MAY_DIFFER:
        runs.check_same_run(tmp_path, changed)
        assert found == "branch-3"
    else:
        with pytest.raises(UserError, match=rf"different: {key} \(saved "):
            runs.check_same_run(tmp_path, changed)
        # A branch may have another length under the same name, and is one folder
        value = "my_net.py:make" if key == "model" else getattr(changed, key)
        assert found == ("branch-3" if key == "epochs" else f"branch-3_{key}={value}")


def test_what_older_configurations_lack_is_what_those_runs_did(tmp_path):
    old = {k: v for k, v in asdict(Train()).items() if k not in ("norm", "norm_eps", "optimizer")}
    runs.write_config(tmp_path, {**old, "keep_epochs": [0, 5], "keep_going": False})
    runs.check_same_run(tmp_path, Train())
    assert runs.read_run(tmp_path).options == Train(norm_eps=1e-12)
    runs.check_same_run(tmp_path, Train(corrupt_train=0.0))  # as the official drivers give it
    for key, value in {"norm": "layer", "optimizer": "adam", "norm_eps": 1e-5}.items():
        with pytest.raises(UserError, match=key):
            runs.check_same_run(tmp_path, Train(**{key: value}))


def test_checkpoints_are_in_the_order_of_training(tmp_path):
    for name in ("10.pt", "9.pt", "9-12.pt", "9-3.pt", "x.pt", "9.pt.tmp"):
        (tmp_path / f"checkpoint-{name}").touch()
    found = runs.checkpoints_in(tmp_path)
    assert list(found) == [(9, 0), (9, 3), (9, 12), (10, 0)]
    assert all(runs.checkpoint_path(tmp_path, *key) == path for key, path in found.items())


def test_checkpoints_become_rarer_unless_told_otherwise():
    found = [epoch for epoch in range(12_001) if runs.is_saved(epoch, None)]
    assert found == [
        *range(20), *range(20, 100, 5), *range(100, 200, 10), *range(200, 1000, 50),
        *range(1000, 2000, 100), *range(2000, 10_000, 500), *range(10_000, 12_001, 1000),
    ]  # fmt: skip
    assert [epoch for epoch in range(10) if runs.is_saved(epoch, 4)] == [0, 4, 8]


def test_pruning_keeps_the_newest_and_what_follows(tmp_path):
    keys = [(0, 0), (1, 0), (1, 2), (2, 0), (2, 2), (3, 0), (3, 1)]
    for key in keys:
        runs.checkpoint_path(tmp_path, *key).touch()
    for keep, removed in ((9, 0), (2, 3), (1, 5)):
        runs.prune(tmp_path, keep)
        assert list(runs.checkpoints_in(tmp_path)) == keys[removed:]


def test_removing_a_run_leaves_its_branches_and_foreign_files(tmp_path):
    own = ["config.json", "log.csv", "latest.pt", "checkpoint-3.pt", "checkpoint-3-1.pt",
           "train-tm.npz", "train-tm-prebn.npz", "test-em.npz", "trace/epoch-0.npz",
           "train-em.npz", "diversity-3.npz"]  # fmt: skip
    others = ["branch-3/config.json", "notes.txt", "train.log"]
    for name in (*own, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    runs.remove_run(tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {*others}


def test_a_loss_that_is_not_finite_is_divergence(tmp_path):
    assert runs.diverged_at(tmp_path) is None
    for losses, epoch in (
        ([1, 2, 3], None), ([1, math.nan, 3], 2), ([1, 2, math.inf], 3), ([-math.inf, 2, 3], 1),
    ):  # fmt: skip
        runs.write_log(tmp_path, [{"epoch": i, "train_loss": x} for i, x in enumerate(losses, 1)])
        assert runs.diverged_at(tmp_path) == epoch


def test_traces_come_in_the_order_of_the_epochs(tmp_path):
    for epoch in (10, 9, 2):
        runs.write_trace(tmp_path, epoch, {"loss": [epoch, epoch + 0.5], "lr": 0.1})
    found = runs.read_trace(tmp_path)
    assert found["loss"].tolist() == found["epoch"].tolist() == [2, 2.5, 9, 9.5, 10, 10.5]
    assert found["lr"].tolist() == [0.1] * 6
    assert runs.read_trace(tmp_path / "nothing") == {}


def test_damaged_rows_of_the_log_and_notes_of_a_launcher_are_left_out(tmp_path):
    assert runs.read_state(tmp_path) is None
    for content in (b'{"state"', b"{}", b"[]", b'"x"', b"\xff\xfe"):
        (tmp_path / runs.STATE).write_bytes(content)
        assert runs.read_state(tmp_path) is None
    rows = [{"epoch": e, "train_loss": 1.0, "lr": 0.1} for e in (1, 2)]
    runs.write_log(tmp_path, rows)
    whole = (tmp_path / runs.LOG).read_bytes()
    torn = (b"3,1.0,0.1"[:length] for length in range(10))
    for damaged in (b"\0\0\0\n", b"3,0.1\n", b",,\n", b"\xff\xfe,1,1\n", b"3,1,1,1\n", *torn):
        (tmp_path / runs.LOG).write_bytes(whole + damaged)
        assert runs.read_log(tmp_path) == rows
    for content in (b"", b"a\n5\n"):
        (tmp_path / runs.LOG).write_bytes(content)
        assert runs.read_log(tmp_path) == []


def test_a_configuration_that_is_none_is_named_and_passed_over(tmp_path, capsys):
    for content in (b"[]", b"null", b"\xff\xfe", b"{", b'{"lr_init": "0.1"}', b'{"noaug": 1}'):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(UserError, match=r".config\.json"):
            runs.read_config(tmp_path)
        assert runs.all_runs(tmp_path) == [] and "passed over" in capsys.readouterr().out


def test_metrics_files_that_are_damaged_or_hold_objects(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.npz is not a metrics file"):
            runs.Metrics.read(path)
    np.savez(path, report_epochs=3, loss=[1.0])
    with pytest.raises(UserError, match=r"x\.npz is not a metrics file"):
        runs.Metrics.read(path)
    np.savez(path, report_epochs=[0], loss=[1.0], groups=np.array([{"a": 1}], dtype=object))
    run = runs.Run(tmp_path, {})
    assert run.metrics("x")["loss"].tolist() == [1.0]  # of the official code
    with pytest.raises(UserError, match="groups"):  # which would be lost
        runs.Metrics.read(path)
    (tmp_path / "y.npz").write_bytes(b"")
    assert run.files() == ["x"]


def test_a_row_of_the_log_is_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    sizes, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda h: sizes.append(os.fstat(h).st_size) or sync(h))
    for epoch in (1, 2):
        runs.append_log(tmp_path, {"epoch": epoch})
    assert sizes == [8, 10] and [row["epoch"] for row in runs.read_log(tmp_path)] == [1, 2]


def test_two_processes_fill_one_file(tmp_path):
    """Each keeps what it has of a number, and all else that the other has put there meanwhile."""
    path, mine = tmp_path / "x.npz", runs.Metrics({0: {"loss": 1.0}, 1: {"loss": 2.0}})
    runs.Metrics({0: {"loss": 9.0, "acc": 0.5}}).merge(path)
    expected = {0: {"loss": 1.0, "acc": 0.5}, 1: {"loss": 2.0}}
    for _ in range(2):
        mine.merge(path)
        assert runs.Metrics.read(path).rows == mine.rows == expected
        path.write_bytes(b"damaged")  # and replaced

    def fill(first):
        table = runs.Metrics()
        for epoch in range(first, 40, 2):
            table.add(epoch, {"loss": 0.0})
            table.merge(path)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, [10, 11]))
    assert runs.Metrics.read(path).rows.keys() == {*range(10, 40)}
    assert [found.name for found in tmp_path.iterdir()] == ["x.npz"]


def test_metrics_tell_not_measured_from_nan(tmp_path):
    rows = {2: {"loss": math.nan, "evals": np.arange(3.0)}, 0.5: {"loss": 1.0, "acc": 0.25}}
    runs.Metrics(rows).write(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        assert file["report_epochs"].tolist() == [0.5, 2]
        assert file["missing"].tolist() == ["0.5 evals", "2.0 acc"]
        np.testing.assert_equal(file["evals"], [[math.nan] * 3, [0, 1, 2]])


names = st.text("abcdefgh_.", min_size=1, max_size=8)
epochs = st.integers(0, 10**6) | st.integers(0, 99).map(lambda n: n / 4)
metrics = st.dictionaries(names, st.floats(), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(epochs, metrics, min_size=1, max_size=5))
def test_metrics_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("metrics") / "x.npz"
    runs.Metrics(rows).write(path)
    np.testing.assert_equal(runs.Metrics.read(path).rows, rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9999), st.floats() | st.none()), min_size=1, max_size=5))
def test_log_round_trip(tmp_path_factory, written):
    folder = tmp_path_factory.mktemp("log")
    rows = [{"epoch": epoch, "loss": loss} for epoch, loss in written]
    runs.write_log(folder, rows[:2])
    for row in rows[2:]:
        runs.append_log(folder, row)
    back = [(row["epoch"], row["loss"]) for row in runs.read_log(folder)]
    np.testing.assert_array_equal(np.array(back, float), np.array(written, float))


def test_runs_are_found_in_order_and_branches_only_when_asked(tmp_path):
    for name, config in {
        "a/x/trial_0": {"lr_init": 0.01}, "a/y/trial_0": {"wd": 0.1}, "b/x/trial_1": {},
        "b/x/trial_0": {"lr_init": 9.0, "base_lr": 0.001, "wd": 0.5},
        "b/x/trial_1/branch-0": {"resume_epoch": 0},
    }.items():  # fmt: skip
        runs.write_config(tmp_path / name, {"lr_init": 0.1, "wd": 0.01, **config})
        (tmp_path / name / "test-em.npz").touch()
    runs.write_config(tmp_path / "b/unmeasured/trial_0", {})
    shutil.move(tmp_path / "a/y", tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    (tmp_path / "a/y").symlink_to(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    (tmp_path / "a/circle").symlink_to(tmp_path)

    def names(found):
        return [run.folder.relative_to(tmp_path).as_posix() for run in found]

    order = ["b/x/trial_0", "a/x/trial_0", "b/x/trial_1", "a/y/trial_0"]
    assert names(runs.find_runs(tmp_path)) == order
    with_branches = names(runs.find_runs(tmp_path, branches=True))
    assert sorted(with_branches) == sorted([*order, "b/x/trial_1/branch-0"])
    found = {name: names(some) for name, some in runs.find_experiments(tmp_path).items()}
    assert found == {"a": ["a/x/trial_0", "a/y/trial_0"], "b": ["b/x/trial_0", "b/x/trial_1"]}


def test_a_run_is_read_back(tmp_path):
    config = {"fbgd": False, "train_images": 200, "batch_size": 64, "lr_init": 0.2}
    run = runs.Run(tmp_path, config)
    assert run.steps_per_epoch == 4  # the last, smaller batch is one too
    assert runs.Run(tmp_path, {**config, "fbgd": True}).steps_per_epoch == 1
    assert run.log() == {} == run.metrics("train-tm")
    assert run.lr_at([0, 7]).tolist() == [0.2, 0.2]
    rows = zip((1, 2, 3), (0.1, 0.1, 0.05), (None, None, 0.5), strict=True)
    runs.write_log(tmp_path, [{"epoch": e, "lr": lr, "test_acc": acc} for e, lr, acc in rows])
    np.testing.assert_array_equal(run.log()["test_acc"], [math.nan, math.nan, 0.5])
    assert run.lr_at([0, 1, 1.5, 2.5, 3, 9]).tolist() == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05]
    runs.write_arrays(tmp_path / "train-tm.npz", {"loss": [1.0, 2.0]})
    assert run.metrics("train-tm")["loss"].tolist() == [1, 2]


def test_code_version_is_the_commit_and_whether_its_files_differ(tmp_path, monkeypatch):
    def git(words):
        words = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *words.split()]
        return subprocess.check_output(words, cwd=tmp_path, text=True).strip()

    def version(folder=tmp_path):
        monkeypatch.setattr(runs.config, "__file__", str(folder / "runs" / "config.py"))
        return runs.code_version.__wrapped__()  # which is asked once a process

    assert version() is None
    for name in ("train.py", "result.json"):
        (tmp_path / name).write_text("as committed")
    for words in ("init", "add train.py result.json", "commit --no-gpg-sign -m First"):
        git(words)
    commit = git("rev-parse HEAD")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "result.json").write_text("measured anew")
    assert version() == commit
    (tmp_path / "train.py").write_text("changed")
    assert version() == f"{commit} + changes"
    (tmp_path / "copy").mkdir()
    assert version(tmp_path / "copy") is None  # the commit is another repository's


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_e_fold_is_what_weight_decay_alone_takes(tmp_path, momentum):
    """Of SGD without a gradient, in epochs of 4 steps."""
    w, velocity, steps = 1.0, 0.0, 0
    while w > np.exp(-1):
        velocity = momentum * velocity + 0.01 * w
        w, steps = w - 0.1 * velocity, steps + 1
    config = {"lr_init": 0.1, "wd": 0.01, "momentum": momentum, "optimizer": "sgd", "fbgd": False,
              "train_images": 100, "batch_size": 32}  # fmt: skip
    assert runs.Run(tmp_path, config).e_fold == pytest.approx(steps / 4, rel=0.1)
    adam, adamw = (runs.Run(tmp_path, {**config, "optimizer": o}) for o in ("adam", "adamw"))
    assert (adam.e_fold, adamw.e_fold) == (0, pytest.approx(250))  # whatever the momentum of SGD
    assert adamw.equilibrium_angle == pytest.approx(math.sqrt(2 * 1e-3 * 0.1 / 1.9))
