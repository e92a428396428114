"""P1: jumps, equilibrium and sharpness: why periods are there."""

import numpy as np

import figures
import test as measuring
from claims.finding import Finding, NotMeasurable, by_line, rate_product, spread
from runs import Run
from theory.dynamics import (
    effective_gradient_norm,
    effective_step,
    jump_threshold,
    moving_equilibrium,
)
from theory.jumps import find_phases

DELTA = 0.01  # of a δ-jump: an angle of 8 degrees in one step
MOST = 0.9  # of the jumps, in rules about them
EDGE = 2.0  # η̃ times sharpness at which descent on the sphere loses stability


def split_jump_runs(found: list[Run]) -> tuple[list[Run], list[Run]]:
    """The traced lines: that with periods, and that in chaotic equilibrium (the larger ηλ)."""
    lines = sorted(by_line(found).values(), key=lambda line: rate_product(line[0]))
    return lines[0], lines[-1]


def jumps_where_allowed(jumps: list[Run]) -> Finding:
    periodic, _ = split_jump_runs(jumps)
    agree, with_step, in_b, in_c, count = [], [], [], [], []
    for run in periodic:
        trace, log = run.trace(), run.log()
        lr, wd = run.config["lr_init"], run.config["wd"]
        step = effective_step(trace["lr"], trace["si_norm"], trace["gradient_norm"])
        allowed = step > jump_threshold(DELTA, lr, wd)
        happened = trace["one_minus_cosine"] > DELTA
        agree.append(np.mean(allowed == happened))
        found = figures.periods_of(run).jumps
        epochs = log["epoch"]
        phases = find_phases(epochs, log["train_loss"], log["si_norm"], found)
        phase = phases[np.minimum(trace["epoch"].astype(int), len(phases) - 1)]
        near = [
            allowed[(trace["epoch"] >= jump - 2) & (trace["epoch"] < jump + 1)].any()
            for jump in found
        ]
        with_step.append(int(np.sum(near)))
        count.append(len(found))
        in_b.append(np.mean(allowed[phase == "B"]))
        in_c.append(np.mean(allowed[phase == "C"]) if len(found) else np.nan)
    measured = (
        f"{sum(with_step)} of {sum(count)} destabilisations hold steps above the threshold of a "
        f"δ-jump (δ = {DELTA:g}); of the steps in phase C {spread(100 * np.array(in_c))} % are, of "
        f"those in phase B {spread(100 * np.array(in_b), '.2g')} %. The threshold tells δ-jumps "
        f"from other steps in {spread(100 * np.array(agree), '.4g')} % of all"
    )
    enough = sum(with_step) >= MOST * sum(count) > 0
    holds = enough and min(agree) > 0.999 and 10 * max(in_b) < np.mean(in_c)
    numbers = {"delta": DELTA, "jumps": count, "jumps_above_threshold": with_step,
               "share_of_steps_in_phase_B": in_b, "share_in_phase_C": in_c,
               "agreement": agree}  # fmt: skip
    return Finding(measured, holds, numbers, figures.jump_trace(periodic[0], DELTA))


def equilibrium_in_chaos(jumps: list[Run]) -> Finding:
    _, chaotic = split_jump_runs(jumps)
    ratios, curves = [], []
    for run in chaotic:
        trace = run.trace()
        gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
        lr, wd = run.config["lr_init"], run.config["wd"]
        curves.append(moving_equilibrium(gradient, lr, wd))
        half = len(gradient) // 2
        ratios.append((trace["si_norm"] / curves[-1])[half:])
    medians = [np.median(r) for r in ratios]
    low, high = np.percentile(np.concatenate(ratios), (10, 90))
    counts = [len(figures.periods_of(run).jumps) for run in chaotic]
    measured = (
        f"at ηλ = {rate_product(chaotic[0]):.2g} (jumps: {max(counts)}) the norm over its "
        f"equilibrium has the median {spread(medians)}, and lies between {low:.2f} and {high:.2f} "
        "in 80 % of the steps"
    )
    holds = all(abs(m - 1) < 0.1 for m in medians) and low > 0.5 and high < 2
    numbers = {"median_ratio": medians, "percentile_10": low, "percentile_90": high}
    trace = chaotic[0].trace()
    figure = figures.equilibrium(trace["epoch"], trace["si_norm"], curves[0])
    return Finding(measured, holds, numbers, figure)


def sharpness(full_batch: list[Run]) -> Finding:
    products, before, drawn = [], [], None
    for run in full_batch:
        path = run.folder / "sharpness.npz"
        words = f"--models_dir {run.folder} --save_path {path} --sharpness --train_mode --update"
        measuring.main(words.split())
        found, log = run.metrics("sharpness"), run.log()
        epochs, values = found["report_epochs"][1:], found["sharpness"][1:]
        rate = np.interp(epochs, log["epoch"], log["effective_lr"])
        jumps = figures.periods_of(run).jumps
        phases = find_phases(log["epoch"], log["train_loss"], log["si_norm"], jumps)
        in_b = phases[np.searchsorted(log["epoch"], epochs)] == "B"
        products.append((rate * values)[in_b])
        for jump in jumps:
            quiet = np.flatnonzero((epochs < jump) & in_b)  # not in the destabilisation itself
            before += (rate * values)[quiet[-1:]].tolist()
        drawn = drawn or figures.sharpness(run, epochs, values)
    if not before:
        raise NotMeasurable("no jump after a checkpoint of phase B")
    low, middle, high = np.percentile(np.concatenate(products), (10, 50, 90))
    crossed = sum(value > 0.8 * EDGE for value in before)
    measured = (
        f"η̃·sharpness is above {0.8 * EDGE:g} at the last checkpoint of phase B before {crossed} "
        f"of {len(before)} jumps (median {np.median(before):.2f}); but it is "
        f"there long before: median {middle:.2f} in phase B, 10 to 90 %: {low:.2f} to {high:.2f}"
    )
    holds = crossed >= MOST * len(before)
    numbers = {"before_jumps": before, "in_phase_B": [low, middle, high]}
    return Finding(measured, holds, numbers, drawn)
