"""What figures and tables say of a run: its curves, its label, its regime, a row of numbers."""

from collections.abc import Sequence

import numpy as np

from runs import METRICS, Run, differing_options
from theory import dynamics
from theory.dynamics import effective_gradient_norm, effective_lr
from theory.periods import Periods, find_periods
from theory.regimes import Regime, find_regime

NO_RUNS = (
    "There are no measured runs in {root} yet. `make demo` makes some in a few minutes on a CPU; "
    "`python run_train_and_test.py` trains the setting at the top of that file."
)


BETA1 = 0.9  # of Adam and AdamW
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
    return all(run.config.get("fix_elr") or run.config.get("fix_all_elr") for run in runs)


def varies(runs: Sequence[Run], key: str) -> bool:
    """Whether the runs differ in this option."""
    return len({run.config[key] for run in runs}) > 1


def label(run: Run, among: Sequence[Run]) -> str:
    """What tells this run from the others: its rate, and every option in which they differ."""
    config = run.config
    if "name" in config:  # of the official code
        return config["name"]
    parts = [f"ELR = {config['elr']:g}" if on_sphere([run]) else f"η = {config['lr_init']:g}"]
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


def curves(run: Run) -> dict[str, np.ndarray]:
    """The quantities of Figure 2 for one run, by name. What was not measured is left out."""
    train, si, test = map(run.metrics, METRICS)
    found = {}
    if "loss" in train:
        found["epochs"], found["train loss"] = train["report_epochs"], train["loss"]
    if "acc" in test:
        found["test epochs"], found["test error"] = test["report_epochs"], 100 * (1 - test["acc"])
    if "params_norm" in si:
        found["si epochs"], found["si norm"] = si["report_epochs"], si["params_norm"]
        rates = run.lr_at(si["report_epochs"])
        if np.isfinite(rates).any():  # a folder may have lost its config
            found["effective lr"] = effective_lr(rates, si["params_norm"])
    if "gnorm_m" in si:
        found["effective gradient norm"] = effective_gradient_norm(si["gnorm_m"], si["params_norm"])
    if "gnorm_m" in train and np.array_equal(train["report_epochs"], found.get("si epochs")):
        found["full gradient norm"] = effective_gradient_norm(train["gnorm_m"], si["params_norm"])
    return found


def history(run: Run) -> dict[str, np.ndarray]:
    """The run's `curves`, but "train loss" and "si norm" of every epoch where there is a log."""
    found, log = curves(run), run.log()
    if log:
        found["epochs"] = found["si epochs"] = log["epoch"]
        found["train loss"], found["si norm"] = log["train_loss"], log["si_norm"]
    return found


def periods_of(run: Run) -> Periods:
    """Periods of a run in epochs."""
    found = history(run)
    if "epochs" not in found or not np.array_equal(found["epochs"], found.get("si epochs")):
        return Periods()
    return find_periods(found["epochs"], found["train loss"], found["si norm"])


def e_fold(run: Run) -> float:
    """Epochs in which weight decay alone shrinks ρ to 1/e: 1/(ηλ) steps, and with momentum α,
    which multiplies the rate by 1/(1 - α), (1 - α)/(ηλ). 0 for Adam, whose coupled decay is part
    of the normalised gradient."""
    config = run.config
    if config["optimizer"] == "adam":
        return 0.0
    rate = run.base_lr * config["wd"] * run.steps_per_epoch
    kept = 1 - (config["momentum"] or 0) if config["optimizer"] == "sgd" else 1.0
    return kept / rate if rate > 0 else float("inf")


def dead_layer(run: Run) -> str | None:
    """A scale-invariant weight that has no gradient: its norm falls as by weight decay alone.

    Judged by the second half of the run, where that is at least one e-fold long; the weight's name,
    or None.
    """
    arrays, span = run.metrics("train-tm-prebn"), e_fold(run)
    epochs = arrays.get("report_epochs", np.array([]))
    late = epochs >= run.config["epochs"] / 2
    if span == 0 or late.sum() < 2 or np.ptp(epochs[late]) < span:
        return None
    folds = np.ptp(epochs[late]) / span
    for name, norms in arrays.items():
        if name.endswith("_norm") and name != "params_norm":
            fall = np.log(norms[late][0] / norms[late][-1])
            if abs(fall / folds - 1) < 0.01:
                return name.removesuffix("_norm")
    return None


def equilibrium_angle(run: Run) -> float:
    """`theory.dynamics.equilibrium_angle` of a run."""
    config, decay = run.config, run.base_lr * run.config["wd"]
    if config["optimizer"] == "adamw":
        return dynamics.equilibrium_angle(decay, BETA1, decoupled=True)
    return dynamics.equilibrium_angle(decay, config["momentum"] or 0)


def regime(run: Run) -> Regime:
    """The regime of a run on the sphere, by its training loss and error."""
    train = run.metrics("train-tm")
    return _regime(run, train["loss"], train["acc"])


def _regime(run: Run, loss: np.ndarray, accuracy: np.ndarray) -> Regime:
    return find_regime(loss, (1 - accuracy) / (1 - 1 / run.config["num_classes"]))


def course(run: Run) -> str:
    """What a run does: its periods or, where it has none, the regime in which it trains."""
    log, found = run.log(), periods_of(run)
    if len(found) or len(log.get("epoch", ())) < 4:
        return str(found)
    return _regime(run, log["train_loss"], log["train_acc"]).name


def summary_row(run: Run) -> dict[str, float]:
    """One run in a few numbers: rates, periods, their mean length (epochs) and its CV, best error.

    The best test error is in %.
    """
    found, periods = curves(run), periods_of(run)
    errors = found.get("test error", np.array([np.nan]))
    return {
        "lr": run.config["lr_init"],
        "wd": run.config["wd"],
        "periods": len(periods),
        "mean period": periods.mean,
        "cv": periods.cv,
        "best test error": float(np.nanmin(errors)) if np.isfinite(errors).any() else np.nan,
    }
