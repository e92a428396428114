"""P1: where training has periods, and how their frequency depends on the rates."""

from collections.abc import Callable, Sequence

import numpy as np

import figures
from claims.finding import Finding, NotMeasurable, by_line, first_trials, rate_product, spread
from runs import Run
from theory.fits import fit_power_law
from utils import plural

TOLERANCE = 0.1  # of the exponent of the frequency around 1


def periods_in_a_range(vary_lr: list[Run]) -> Finding:
    lines = sorted(by_line(vary_lr).values(), key=lambda line: rate_product(line[0]))
    counts = [[len(figures.periods_of(run).jumps) for run in line] for line in lines]
    products = [rate_product(line[0]) for line in lines]
    late = [np.median(r.log()["train_loss"][len(r.log()["epoch"]) // 2 :]) for r in lines[-1]]
    between = [n for line in counts[1:-1] for n in line]
    holds = not any(counts[0]) and not any(counts[-1]) and min(between) >= 1 and min(late) > 0.1
    measured = (
        f"jumps: {max(counts[0])} at ηλ = {products[0]:.2g}, {min(between)} to {max(between)} at "
        f"{products[1]:.2g} to {products[-2]:.2g}, {max(counts[-1])} at {products[-1]:.2g}, where "
        f"the loss stays at {spread(late, '.2g')}"
    )
    numbers = {"rate_times_decay": products, "jumps": counts, "loss_at_the_largest": late}
    figure = figures.loss_panels(first_trials(vary_lr, lambda r: f"ηλ = {rate_product(r):.2g}"))
    return Finding(measured, holds, numbers, figure)


def fixed_norm(fixed_norm: list[Run]) -> Finding:
    fixed = [len(figures.periods_of(r).jumps) for r in fixed_norm if r.config["fix_si_pnorm"]]
    free = [len(figures.periods_of(r).jumps) for r in fixed_norm if not r.config["fix_si_pnorm"]]
    values = sorted({r.config["fix_si_pnorm_value"] for r in fixed_norm} - {-1.0})

    def name(run: Run) -> str:
        held = run.config["fix_si_pnorm"]
        return f"ρ = {run.config['fix_si_pnorm_value']:g}, held" if held else "ρ free"

    measured = (
        f"{plural(sum(fixed), 'jump')} in {len(fixed)} runs with ρ held at "
        f"{', '.join(f'{v:g}' for v in values)}, at most {max(fixed)} in one; "
        f"{spread(free, '.2g')} a run with ρ free"
    )
    numbers = {"held_at": values, "jumps_held": fixed, "jumps_free": free}
    figure = figures.loss_panels(first_trials(fixed_norm, name))
    return Finding(measured, max(fixed) < 2 <= min(free), numbers, figure)


def frequency(vary_lr: list[Run], vary_wd: list[Run]) -> Finding:
    sweeps, fits = {}, {}
    for name, found in (("η varied", vary_lr), ("λ varied", vary_wd)):
        points = [(rate_product(run), figures.periods_of(run).frequency) for run in found]
        known = [point for point in points if np.isfinite(point[1])]
        try:
            x, y = np.array(known).reshape(-1, 2).T
            sweeps[name], fits[name] = (x, y), fit_power_law(x, y)
        except ValueError:
            raise NotMeasurable(f"{name}: only {len(known)} runs with two jumps") from None
    words = [
        f"{name}: exponent {fit.exponent:.2f} [{fit.low:.2f}, {fit.high:.2f}] from "
        f"{len(sweeps[name][0])} runs at ηλ = {sweeps[name][0].min():.2g} to "
        f"{sweeps[name][0].max():.2g}"
        for name, fit in fits.items()
    ]
    holds = all(
        abs(fit.exponent - 1) <= TOLERANCE or fit.low <= 1 <= fit.high for fit in fits.values()
    )
    numbers = {
        name: {
            "exponent": fit.exponent,
            "interval_95": [fit.low, fit.high],
            "rate_times_decay": sweeps[name][0].tolist(),
            "periods_an_epoch": sweeps[name][1].tolist(),
        }
        for name, fit in fits.items()
    }
    return Finding("; ".join(words), holds, numbers, figures.frequency(sweeps, fits))


def has_periods(
    found: list[Run], name: Callable[[Run], str], counts_only: Sequence[str] = ()
) -> Finding:
    """Whether every run of every line has at least two jumps; `counts_only` names exceptions."""
    counts = {
        name(line[0]): [len(figures.periods_of(run).jumps) for run in line]
        for line in by_line(found).values()
    }
    words = [f"{key}: {spread(values, '.2g')}" for key, values in counts.items()]
    figure = figures.loss_panels(first_trials(found, name))
    asked = [values for key, values in counts.items() if key not in counts_only]
    holds = all(min(values) >= 2 for values in asked)
    return Finding("jumps, " + "; ".join(words), holds, {"jumps": counts}, figure)


def full_batch(full_batch: list[Run]) -> Finding:
    return has_periods(full_batch, lambda run: "full-batch descent")


def practical(practical: list[Run]) -> Finding:
    def name(run: Run) -> str:
        parts = {
            "momentum": run.config["momentum"] > 0,
            "augmentation": not run.config["noaug"],
            "all weights": run.config["noninvlr"] == -1,
        }
        return ", ".join(part for part, there in parts.items() if there)

    return has_periods(practical, name, counts_only=["momentum, augmentation, all weights"])


def adam(adam: list[Run]) -> Finding:
    return has_periods(adam, lambda run: "Adam")


def norms(norms: list[Run]) -> Finding:
    return has_periods(norms, lambda run: f"{run.config['norm']} normalisation")
