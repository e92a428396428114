"""What figures and tables say of a run: its label and a row of numbers."""

from collections.abc import Sequence

import numpy as np

from runs import Run, differing_options

NO_RUNS = (
    "There are no measured runs in {root} yet. `make demo` makes some in a few minutes on a CPU; "
    "`python run_train_and_test.py` trains the setting at the top of that file."
)


IN_THE_RATE = ("lr_init", "elr", "fix_elr", "fix_all_elr", "epochs")  # a label begins with the rate
NAMES = {
    "wd": "λ",
    "num_channels": "width",
    "fix_si_pnorm": "fixed norm",
    "fix_si_pnorm_value": "ρ",
    "noninvlr": "η of the other weights",
    "noaug": "no augmentation",
    "fbgd": "full batch",
    "use_data_size": "images",
}


def on_sphere(runs: Sequence[Run]) -> bool:
    """Whether the runs were trained at a fixed effective learning rate."""
    return all(run.on_sphere for run in runs)


def varies(runs: Sequence[Run], key: str) -> bool:
    """Whether the runs differ in this option."""
    return len({run.config[key] for run in runs}) > 1


def label(run: Run, among: Sequence[Run]) -> str:
    """What tells this run from the others: its rate, and every option in which they differ."""
    config = run.config
    if "name" in config:  # of the official code
        return config["name"]
    parts = [f"ELR = {config['elr']:g}" if run.on_sphere else f"η = {config['lr_init']:g}"]
    for key in differing_options([other.config for other in among]):
        value = config.get(key)
        if key in IN_THE_RATE or value is None or value is False:
            continue
        if key == "fix_si_pnorm_value" and value <= 0:
            continue  # the norm at the start: "fixed norm" says it
        name = NAMES.get(key, key.replace("_", " "))
        if value is True:
            parts.append(name)
        else:
            parts.append(str(value) if isinstance(value, str) else f"{name} = {value:g}")
    if run.is_branch and len(among) > 1:
        parts.append(f"from epoch {config['resume_epoch']}")
    return ", ".join(parts)


def summary_row(run: Run) -> dict[str, float]:
    """One run in a few numbers: rates, periods, their mean length (epochs) and its CV, best error.

    The best test error is in %.
    """
    periods = run.periods
    errors = run.curves["test_error"].values if "test_error" in run.curves else np.array([np.nan])
    return {
        "lr": run.config["lr_init"],
        "wd": run.config["wd"],
        "periods": len(periods),
        "mean period": periods.mean,
        "cv": periods.cv,
        "best test error": float(np.nanmin(errors)) if np.isfinite(errors).any() else np.nan,
    }
