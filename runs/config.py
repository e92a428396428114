"""The configuration that a run saves, and whether two configurations are the same run."""

import functools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from options import TRAIN
from runs.folder import CONFIG
from utils import UserError, write_atomically

# Options that say where and how to run, not what to train: they do not make it another run.
HOW_TO_RUN = {
    "dir", "data_path", "num_workers", "gpu", "resume", "overwrite", "resume_epoch", "keep_going",
    "metrics", "metrics_precision", "trace", "keep", "keep_epochs", "compile", "deterministic",
    "eval_freq", "save_freq", "save_freq_int",
}  # fmt: skip
# Options that configurations of older versions lack, and what those runs did.
LATER_OPTIONS = {
    "norm": "batch",
    "norm_eps": 1e-12,
    "optimizer": "sgd",
    "split_classes": None,
    "use_squared_loss": False,
    "same_init": False,
    "fix_all_elr": False,
}
# Checkpoints without a configuration are of the official code; what options do not say of those.
OFFICIAL = {"norm_eps": 1e-5}


def read_config(folder: Path, labels: bool = True) -> dict[str, Any]:
    """The configuration that train.py saved with a run.

    `labels` says whether the images are wanted with the labels that the run was trained on.

    Raises
    ------
    FileNotFoundError : the folder holds no config.json.
    UserError : the file is damaged, or the labels are wanted and cannot be had any more.
    """
    content = (folder / CONFIG).read_bytes()
    try:
        saved = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}") from None
    if not isinstance(saved, dict):
        raise UserError(f"{folder / CONFIG} holds no options of a run")
    if labels and saved.get("corrupt_train") and "norm_eps" not in saved:
        raise UserError(f"{folder} is of an older version, which corrupted other labels")
    return {**LATER_OPTIONS, **saved}


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


@functools.cache
def code_version() -> str | None:
    """The git commit, "+ changes" behind it where tracked code differs; None outside git."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # a copy inside another repository
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + (" + changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def differences(saved: dict[str, Any], asked: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The options that decide what is trained and differ: name -> (saved value, asked value)."""
    keys = (saved.keys() & asked.keys()) - HOW_TO_RUN
    return {key: (saved[key], asked[key]) for key in sorted(keys) if saved[key] != asked[key]}


def differing_options(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The options that decide what is trained and are not the same in all these configurations."""
    deciding = (option.key for option in TRAIN if option.key not in HOW_TO_RUN)
    return [key for key in deciding if any(c.get(key) != configs[0].get(key) for c in configs)]


def check_same_run(folder: Path, options: dict[str, Any]) -> None:
    """Refuse to mix runs.

    Raises
    ------
    UserError : the folder holds a run with other options, which are named.
    FileNotFoundError : it has no configuration.
    """
    changed = differences(read_config(folder), options)
    if options["no_schedule"]:
        changed.pop("epochs", None)  # a constant rate can go on for longer
    if changed:
        what = ", ".join(f"{k} (saved {a}, asked {b})" for k, (a, b) in changed.items())
        raise UserError(
            f"{folder} holds another run; different: {what}. Name another folder (--dir; in the "
            "driver exp_name), or start anew with --overwrite"
        )


def branch_folder(parent: Path, epoch: int, config: dict[str, Any]) -> Path:
    """The folder of a branch, named after the options that it changes.

    A checkpoint of the official code does not say what it was trained with: the first branch off it
    has no more than the epoch in its name, others what they change of the first.
    """
    plain = parent / f"branch-{epoch}"
    try:
        before = read_config(parent)
    except FileNotFoundError:
        try:
            before = read_config(plain)
        except FileNotFoundError:
            return plain
    changed = differences(before, config)
    changed.pop("epochs", None)
    if config.get("norm_eps") is None:
        changed.pop("norm_eps", None)  # left as it was
    words = [f"{key}={value[1]}".replace("/", "_") for key, value in sorted(changed.items())]
    return parent / "_".join([plain.name, *words])
