"""Results without a configuration: those of the official code.

It keeps metrics in `<experiment>/info/<name>/` and checkpoints in
`<experiment>/checkpoints/<name>/trial_<t>/`. The name is shown as it is; no settings are read
from it. The rates are those of the optimisers in the checkpoints, where these are still there.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from runs.arrays import read_arrays
from runs.config import read_config
from runs.folder import CONFIG, METRICS, files_below, trial_folder, whole_epochs
from utils import UserError

INFO, CHECKPOINTS = "info", "checkpoints"
HELD = 1e-3  # relative change of the norm below which a run counts as on the sphere


def find_unconfigured(root: Path) -> list[tuple[Path, dict[str, Any], Path]]:
    """The measured runs below a folder whose metrics do not lie beside a configuration: for each
    the folder of its checkpoints (which may be gone), its configuration as far as it is known, and
    the folder of its metrics."""
    names = {f"{name}.npz" for name in METRICS}
    measured = {path.parent for path in files_below(root) if path.name in names}
    found = []
    for metrics in sorted(folder for folder in measured if not (folder / CONFIG).exists()):
        folder, name = _run_of(metrics)
        if (folder / CONFIG).exists():  # a run of train.py whose --dir was an official folder
            config = read_config(folder, labels=False)
        else:
            config = {"name": name, **_known(folder, metrics)}
        found.append((folder, config, metrics))
    return found


def _run_of(metrics: Path) -> tuple[Path, str]:
    """The folder of a run's checkpoints, and its name."""
    info = next((parent for parent in metrics.parents if parent.name == INFO), None)
    if info is None or whole_epochs(metrics):
        return metrics, "/".join(metrics.absolute().parts[-2:])
    name = metrics.relative_to(info)
    line = info.parent / CHECKPOINTS / name
    is_trial = re.fullmatch(r"trial_\d+", name.name)
    return line if is_trial else trial_folder(line, 0), str(name)


def _known(folder: Path, metrics: Path) -> dict[str, Any]:
    """What checkpoints and metrics say of a run: rates, whether it is on the sphere, classes."""
    whole = whole_epochs(folder)
    read = functools.cache(lambda epoch: _settings(whole[epoch]))
    config = {"lr_init": np.nan, "wd": np.nan, "momentum": None, "optimizer": "sgd", "trial": 0}
    # The initialisation may not have been trained at its rate yet (P2's runs on the sphere).
    first = [read(epoch) for epoch in [*whole][:2] if read(epoch)]
    if first:
        config |= max(first, key=lambda found: found["lr_init"])
        last = read([*whole][-1])
        if last and not np.isclose(last["lr_init"], config["lr_init"], rtol=1e-6):
            times = [epoch for epoch in whole if read(epoch)]
            config["lr_by_epoch"] = (times, [read(epoch)["lr_init"] for epoch in times])
    si = metrics / "train-tm-prebn.npz"
    norms = read_arrays(si)[0].get("params_norm", ()) if si.exists() else ()
    if len(norms) > 1 and np.ptp(norms) < HELD * norms[0] and "num_classes" in config:
        config |= {"fix_elr": True, "elr": config["lr_init"] / norms[0] ** 2}
    return config


def _settings(path: Path) -> dict[str, Any]:
    """Rates and number of classes from a checkpoint; empty where it cannot be read. Of several
    groups of weights the one with the largest rate counts: the others are frozen."""
    from runs.checkpoints import load  # only here: it needs torch

    try:
        content = load(path)
        group = max(content["optimizer"]["param_groups"], key=lambda group: float(group["lr"]))
    except (UserError, KeyError, TypeError, ValueError):
        return {}
    last = [weight for weight in content["state_dict"].values() if weight.ndim == 2]
    return {
        "lr_init": float(group["lr"]),
        "wd": float(group.get("weight_decay", np.nan)),
        "momentum": float(group.get("momentum", 0)),
        "optimizer": "adam" if "betas" in group else "sgd",
        **({"num_classes": len(last[-1])} if last else {}),
    }
