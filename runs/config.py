"""The configuration that a run saves, and whether two configurations are the same run."""

import functools
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from options import DECIDING, NORM_EPS, Data, Train, check_values, names
from runs.folder import CONFIG
from utils import UserError, write_atomically

# Checkpoints without a configuration are the official code's, which used this epsilon.
OFFICIAL = {"norm_eps": 1e-5}
# Values of the options that an older configuration lacks: the defaults, and this epsilon.
DEFAULTS = {**asdict(Train()), "norm_eps": NORM_EPS}


def read_config(folder: Path, labels: bool = True) -> dict[str, Any]:
    """The configuration that train.py saved with a run; options that an older one lacks have their
    defaults. Raises UserError if the folder holds no config.json or a damaged one, or if `labels`
    are wanted and those that the run was trained on cannot be reproduced any more."""
    try:
        saved = json.loads((folder / CONFIG).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder} has no {CONFIG}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}") from None
    if not isinstance(saved, dict):
        raise UserError(f"{folder / CONFIG} does not hold the options of a run")
    try:
        check_values(Train, {**DEFAULTS, **saved})
    except UserError as error:
        raise UserError(f"{folder / CONFIG} is damaged: {error}") from None
    if labels and saved.get("corrupt_train") and "norm_eps" not in saved:
        raise UserError(f"{folder} is of an older version, which corrupted other labels")
    return {**DEFAULTS, **saved}


def options_of(config: dict[str, Any]) -> Train:
    return Train(**{name: config[name] for name in names(Train) if name in config})


def write_config(folder: Path, config: dict[str, Any]) -> None:
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


@functools.cache
def code_version() -> str | None:
    """The git commit, followed by "+ changes" if tracked code differs from it; None outside git."""
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


def differences(saved: dict[str, Any], asked: Train) -> dict[str, tuple[Any, Any]]:
    """The options that decide what is trained and differ: name -> (saved value, asked value)."""
    both = [
        {**c, "norm_eps": c["norm_eps"] or NORM_EPS, "corrupt_train": c["corrupt_train"] or None}
        for c in (saved, asdict(asked))
    ]
    pairs = {key: tuple(values[key] for values in both) for key in sorted(DECIDING)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def differing_options(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The options that decide what is trained and are not the same in all these configurations."""
    return [key for key in DECIDING if any(c.get(key) != configs[0].get(key) for c in configs)]


def check_same_run(folder: Path, options: Train) -> None:
    """Raise UserError if the folder holds a run with other options (it names them) or no
    config.json."""
    changed = differences(read_config(folder), options)
    if options.no_schedule:
        changed.pop("epochs", None)  # a run at a constant rate can be prolonged
    if changed:
        what = ", ".join(f"{k} (saved {a}, asked {b})" for k, (a, b) in changed.items())
        raise UserError(
            f"{folder} holds another run; different: {what}. Name another folder (--dir; in the "
            "driver exp_name), or start anew with --overwrite"
        )


def check_same_images(folder: Path, options: Train, checksum: int) -> None:
    """Raise UserError if the folder holds a run whose training images have another checksum, though
    its options ask for the same ones. Older runs have none."""
    if not (folder / CONFIG).exists():
        return
    saved = read_config(folder)
    if saved.get("checksum", checksum) != checksum and not {*names(Data)} & {
        *differences(saved, options)
    }:
        raise UserError(
            f"{folder} holds a run on other training images than those of --data_path now: name "
            "another --dir, or start anew with --overwrite"
        )


def branch_folder(parent: Path, epoch: int, options: Train) -> Path:
    """The folder of a branch, named after the options that it changes. A checkpoint of the official
    code does not say what it was trained with: there the first branch is named after its epoch
    alone, and others after what they change of the first."""
    plain = parent / f"branch-{epoch}"
    known = [folder for folder in (parent, plain) if (folder / CONFIG).exists()]
    if not known:
        return plain
    changed = differences(read_config(known[0]), options)
    changed.pop("epochs", None)
    words = [f"{key}={value[1]}".replace("/", "_") for key, value in sorted(changed.items())]
    return parent / "_".join([plain.name, *words])
