"""P1: where there are periods, how often they come, and how long they are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import figures
from claims import rules
from claims.finding import Finding, NotMeasurable, by_line, by_trial, interval, rate_product
from runs import Run
from theory.periods import Periods


def settled(run: Run) -> Periods:
    """The periods after one e-fold of weight decay, when the start is forgotten."""
    return run.periods.after(run.e_fold)


def settled_course(run: Run) -> str:
    """What a run does, by its periods after one e-fold where it has any."""
    periods = settled(run)
    return str(periods) if len(periods) else run.behaviour


def regularity(found: Sequence[Run]) -> str:
    """Numbers of periods and their CV over runs, in words, the dead networks left out."""
    dead = [run for run in found if run.dead_layer]
    periods = [settled(run) for run in found if run not in dead]
    if not periods:
        return f"all {len(dead)} networks dead"
    counts = sorted(map(len, periods))
    cvs = [p.cv for p in periods if np.isfinite(p.cv)]
    number = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    words = f"{number} periods" + (f", CV {min(cvs):.2f} to {max(cvs):.2f}" if cvs else "")
    at = ", ".join(str(run.config["trial"]) for run in dead)
    return words + (f"; {len(dead)} of {len(found)} networks dead (trial {at})" if dead else "")


def numbers_of(found: Sequence[Run]) -> list[dict]:
    """What a reader needs to check the verdict on each run.

    All turning points, and of the periods after one e-fold what `Periods.is_periodic` judges.
    """
    rows = []
    for run in found:
        periods = settled(run)
        rows.append({
            "run": run.folder.as_posix(), "turns": run.periods.turns.tolist(),
            "e_fold": run.e_fold, "cv": periods.cv, "cv_limit": periods.cv_limit,
            "orderly": periods.orderly, "periodic": periods.is_periodic,
            "dead_layer": run.dead_layer,
        })  # fmt: skip
    return rows


def setting_of(run: Run, networks: bool = False) -> str:
    """What is special about a line's setting, in words; with the network where there are two."""
    config = run.config
    parts = {
        "full-batch descent": config["fbgd"],
        "Adam": config["optimizer"] == "adam",
        f"{config['norm']} normalisation": config["norm"] != "batch",
        "ConvNet": networks and config["model"].startswith("ConvNet"),
        "ResNet-18": config["model"].startswith("ResNet18"),
        "momentum": config["optimizer"] == "sgd" and config["momentum"] > 0,
        "augmentation": not config["noaug"],
        "all weights": config["noninvlr"] == -1,
    }
    return ", ".join(part for part, there in parts.items() if there)


def every_run(found: Sequence[Run]) -> Finding:
    """Whether every run of every line is periodic."""
    by_name = by_line(found)
    networks = len({run.config["model"].startswith("ResNet") for run in found}) > 1
    settings = [setting_of(line[0], networks) for line in by_name.values()]
    lines = {
        setting if setting and settings.count(setting) == 1 else f"{setting} ({name})": line
        for (name, line), setting in zip(by_name.items(), settings, strict=True)
    }
    words = [f"{key}: {regularity(line)}" for key, line in lines.items()]
    holds = rules.all_periodic(
        [[settled(run).is_periodic for run in line] for line in lines.values()]
    )
    numbers = {key: numbers_of(line) for key, line in lines.items()}
    figure = figures.loss_panels(panels(lines), settled_course)
    return Finding("; ".join(words), holds, numbers, figure)


def irregularity(run: Run) -> tuple[bool, float]:
    """Largest for a run that is not periodic; then by its CV over what that has to be below."""
    periods = settled(run)
    share = periods.cv / periods.cv_limit
    return not periods.is_periodic, share if np.isfinite(share) else np.inf


def panels(
    lines: dict[str, list[Run]], badness: Callable[[Run], Any] = irregularity
) -> dict[str, Run]:
    """Of every line its first trial, of a network that lives if one does, and the worst."""
    chosen = {}
    for name, line in lines.items():
        first = next((run for run in line if not run.dead_layer), line[0])
        worst = max(line, key=badness)
        for run in dict.fromkeys((first.folder, worst.folder)):
            trial = next(r for r in line if r.folder == run)
            words = f"{name}, trial {trial.config['trial']}"
            chosen[words + (" (worst)" if run == worst.folder and len(line) > 1 else "")] = trial
    return chosen


def periods_in_a_range(found: list[Run]) -> Finding:
    by_rates = sorted(by_line(found).values(), key=lambda line: rate_product(line[0]))
    smallest, *between, largest = by_rates
    wd = smallest[0].config["wd"]
    by_lr = [line for line in between if line[0].config["wd"] == wd]
    lrs = {line[0].config["lr_init"] for line in between if line not in by_lr}
    by_wd = [line for line in between if line[0].config["lr_init"] in lrs]

    def late_trend(run: Run) -> float:
        return rules.trend(run.log()["train_loss"][run.config["epochs"] // 2 :])

    wrong = [1 - np.mean(run.log()["train_acc"][run.config["epochs"] // 2 :]) for run in largest]
    error = [e / (1 - 1 / run.config["num_classes"]) for e, run in zip(wrong, largest, strict=True)]
    trends = [*map(late_trend, largest)]
    ends = {
        "at_smallest": [len(run.periods) for run in smallest],
        "at_largest": [settled(run).is_periodic for run in largest],
        "error": error,
        "trends": trends,
    }
    holds, words = True, []
    for symbol, key, lines in (("η", "lr_init", by_lr), ("λ", "wd", by_wd)):
        values = [line[0].config[key] for line in lines]
        periodic = [[settled(run).is_periodic for run in line] for line in lines]
        holds = holds and rules.wide_range(values, periodic, **ends)
        every = [run for line in lines for run in line]
        words.append(
            f"{symbol} = {min(values):g} to {max(values):g}: {sum(map(sum, periodic))} of "
            f"{len(every)} runs periodic ({regularity(every)})"
        )
    words.append(
        f"at ηλ = {rate_product(smallest[0]):.2g} {max(ends['at_smallest'])} periods; at "
        f"{rate_product(largest[0]):.2g} the training error is {min(error):.0%} to "
        f"{max(error):.0%} of guessing's, |τ| of the loss at most {max(map(abs, trends)):.2f}, "
        f"{sum(ends['at_largest'])} of {len(largest)} runs periodic"
    )
    numbers = {**ends, "runs": numbers_of(found)}
    named = {f"η = {r[0].config['lr_init']:g}, λ = {r[0].config['wd']:g}": r for r in by_rates}
    *others, last = named
    shown = panels({name: named[name] for name in others})
    shown |= panels({last: largest}, lambda run: abs(late_trend(run)))
    return Finding("; ".join(words), holds, numbers, figures.loss_panels(shown, settled_course))


def frequency(vary_lr: list[Run], vary_wd: list[Run], vary_images: list[Run]) -> Finding:
    sweeps, holds, words = {}, True, []
    for name, lines in (
        ("η varied", [*by_line(vary_lr).values()]),
        ("λ varied", [*by_line(vary_wd).values()]),
        ("η varied, other images", [*by_line(vary_images).values()]),
    ):
        points = [
            {"run": run.folder.as_posix(), "trial": run.config["trial"],
             "rate_times_decay": rate_product(run),
             "frequency": settled(run).frequency, "periods": len(settled(run)),
             "log_falls": falls(settled(run))}
            for line in lines
            for run in line
        ]  # fmt: skip
        rates, frequencies, trial_of = (
            np.array([point[key] for point in points])
            for key in ("rate_times_decay", "frequency", "trial")
        )
        slopes = []
        for trial in np.unique(trial_of):
            x, y = rates[trial_of == trial], frequencies[trial_of == trial]
            known = np.isfinite(y)
            if known.sum() < 3:
                raise NotMeasurable(f"{name}, trial {trial}: fewer than three rates have periods")
            slopes.append(float(np.polyfit(np.log(x[known]), np.log(y[known]), 1)[0]))
        limits = rules.mean_interval(slopes)
        holds = holds and rules.proportional(limits)
        left_out = np.isnan(frequencies).sum()
        words.append(
            f"{name}: exponent {interval(np.mean(slopes), limits)}"
            + (f" ({left_out} of {len(points)} runs have no two periods)" if left_out else "")
        )
        sweeps[name] = {"exponents": slopes, "interval_95": limits, "points": points}
    return Finding("; ".join(words), holds, sweeps, figures.frequency(sweeps))


def falls(found: Periods) -> np.ndarray:
    """ln(ρ_high / ρ_low) of the phase B of every period."""
    return np.log(found.each("rho_start") / found.each("rho_turn"))


def length_ratios(run: Run) -> np.ndarray:
    """Steps of phase B over ln(ρ_high / ρ_low) / (ηλ), of every period after one e-fold."""
    found = settled(run)
    steps = (found.each("turn") - found.each("start")) * run.steps_per_epoch
    shortest = falls(found) / rate_product(run)
    return steps / shortest


def length(vary_lr: list[Run], vary_wd: list[Run]) -> Finding:
    found = [*vary_lr, *vary_wd]
    ratios = {run.folder.as_posix(): length_ratios(run).tolist() for run in found}
    every = np.concatenate([*ratios.values()])
    if len(every) == 0:
        raise NotMeasurable("no periods")
    inside = np.mean((every >= rules.LENGTH[0]) & (every <= rules.LENGTH[1]))
    of_seeds = by_trial(found, [*ratios.values()])
    middle = interval(np.median(every), rules.median_interval(of_seeds))
    measured = (
        f"median {middle}; {inside:.0%} of {len(every)} periods between {rules.LENGTH[0]:g} and "
        f"{rules.LENGTH[1]:g} (all between {every.min():.2f} and {every.max():.2f})"
    )
    holds = rules.as_long_as_decay_takes(every)
    figure = figures.length_ratios(found, length_ratios, rules.LENGTH)
    return Finding(measured, holds, ratios, figure)
