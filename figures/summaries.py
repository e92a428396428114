"""What figures and tables say of a run: its curves, its label, its regime, a row of numbers."""

from collections.abc import Sequence

import numpy as np

from runs import Run
from theory.dynamics import effective_gradient_norm, effective_lr
from theory.jumps import Periods, find_periods
from theory.regimes import Regime, find_regime

NO_RUNS = (
    "There are no measured runs in {root} yet. `make demo` makes some in a few minutes on a CPU; "
    "`python run_train_and_test.py` trains the setting at the top of that file."
)


def on_sphere(runs: Sequence[Run]) -> bool:
    """Whether the runs were trained at a fixed effective learning rate."""
    return all(run.config.get("fix_elr") for run in runs)


def varies(runs: Sequence[Run], key: str) -> bool:
    """Whether the runs differ in this option."""
    return len({run.config[key] for run in runs}) > 1


def label(run: Run, among: Sequence[Run]) -> str:
    """What tells this run from the others: its learning rate, weight decay, and so on."""
    symbols = {"wd": "λ", "model": "", "trial": "trial", "fix_si_pnorm_value": "ρ"}
    parts = [
        f"ELR = {run.config['elr']:g}" if on_sphere([run]) else f"η = {run.config['lr_init']:g}"
    ]
    for key, symbol in symbols.items():
        if len({other.config[key] for other in among}) > 1:
            value = run.config[key]
            parts.append(f"{symbol} = {value:g}" if symbol else str(value))
    return ", ".join(parts)


def curves(run: Run) -> dict[str, np.ndarray]:
    """The quantities of Figure 2 for one run, by name; what was not measured is left out."""
    train, si, test = (run.metrics(name) for name in ("train-tm", "train-tm-prebn", "test-em"))
    found = {}
    if "loss" in train:
        found["epochs"], found["train loss"] = train["report_epochs"], train["loss"]
    if "acc" in test:
        found["test epochs"], found["test error"] = test["report_epochs"], 100 * (1 - test["acc"])
    if "params_norm" in si:
        found["si epochs"], found["si norm"] = si["report_epochs"], si["params_norm"]
        found["effective lr"] = effective_lr(run.base_lr, si["params_norm"])
    if "gnorm_m" in si:
        found["effective gradient norm"] = effective_gradient_norm(si["gnorm_m"], si["params_norm"])
    return found


def periods_of(run: Run) -> Periods:
    """Jumps of a run's training loss: from its log, where there is one, which has every epoch."""
    log = run.log()
    if log:
        return find_periods(log["epoch"], log["train_loss"])
    found = curves(run)
    return find_periods(found.get("epochs", []), found.get("train loss", []))


def regime(run: Run) -> Regime:
    """The regime of a run on the sphere, by its training loss and error."""
    train = run.metrics("train-tm")
    random_error = 1 - 1 / run.config["num_classes"]
    return find_regime(train["loss"], (1 - train["acc"]) / random_error)


def summary_row(run: Run) -> dict[str, float]:
    """One run in a few numbers: its rates, jumps, mean period (epochs), best test error (%)."""
    found, periods = curves(run), periods_of(run)
    errors = found.get("test error", np.array([np.nan]))
    return {
        "lr": run.config["lr_init"],
        "wd": run.config["wd"],
        "jumps": len(periods.jumps),
        "mean period": periods.mean,
        "best test error": float(np.nanmin(errors)) if np.isfinite(errors).any() else np.nan,
    }
