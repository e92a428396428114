"""P1: why there are periods: the norm, the equilibrium, the steps, the sharpness."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

import figures
from claims import rules
from claims.branches import branch, destabilises
from claims.finding import (
    Finding,
    NotMeasurable,
    by_line,
    by_trial,
    interval,
    late,
    rate_product,
    seeds,
    spread,
)
from claims.periodic import settled
from runs import Run
from theory.dynamics import effective_gradient_norm, equilibrium_norm, jump_threshold
from theory.periods import Period

POINTS = (0.25, 0.5, 0.75)  # of phase B, where branches begin
BRANCHED = 3  # periods of a run that are branched
FOR_A_TREND = 8  # periods, of which the lengths show a trend at 5 % in 15 tests together
FACTORS = (1 / 16, 1 / 4, 1, 4, 16, 128, 512)  # on η and 1/λ, late in phase B
WITHIN = 50  # steps
PATIENCE = 3  # lengths of phase B, in which branches may destabilise
DELTA = 0.01  # of a δ-jump: an angle of 8 degrees in one step
LATER = {"same": "η", "half": "η/2", "as_fast": "η/2 and 2λ"}  # branches of a lower rate
OTHER_SEED = 7919  # of the branches: they do not repeat their parent's batches


def branch_points(run: Run) -> Iterator[tuple[Period, int, int]]:
    """Epochs within phase B of the first periods after one e-fold, and how long that phase is."""
    for period in settled(run).cycles[:BRANCHED]:
        needed = period.turn - period.start
        for point in POINTS:
            yield period, round(period.start + point * needed), max(round(needed), 2)


def late_branch_points(run: Run) -> list[tuple[Period, int, int]]:
    """Those at three quarters of each phase B."""
    return [*branch_points(run)][len(POINTS) - 1 :: len(POINTS)]


def cause(base: list[Run]) -> Finding:
    rows = []
    for run in base:
        for period, epoch, needed in branch_points(run):
            free = branch(run, epoch, needed, seed=OTHER_SEED)
            held = branch(run, epoch, needed, seed=OTHER_SEED, fix_si_pnorm=True)
            rows.append({
                "run": run.folder.as_posix(), "turn": period.turn, "from": epoch, "epochs": needed,
                "free": destabilises(free), "held": destabilises(held),
            })  # fmt: skip
    if not rows:
        raise NotMeasurable("no period to branch from")
    free, held = (np.isfinite([row[key] for row in rows]) for key in ("free", "held"))
    measured = (
        f"{free.sum()} of {len(rows)} branches with ρ free destabilise within the time of their "
        f"phase B, {held.sum()} of {len(rows)} with ρ held from there on"
    )
    holds = rules.the_norm_is_the_cause(free, held)
    figure = figures.branches(rows, {"free": "ρ free", "held": "ρ held"})
    return Finding(measured, holds, {"branches": rows}, figure)


def sharpness(base: list[Run]) -> Finding:
    rows = []
    for run in base:
        lr, wd = run.config["lr_init"], run.config["wd"]
        for period, epoch, needed in late_branch_points(run):
            row = {"run": run.folder.as_posix(), "turn": period.turn, "from": epoch,
                   "epochs": needed}  # fmt: skip
            # With 2λ beside η/2 the norm shrinks as fast as before, and only the rate is lower.
            for key, rate, decay in (
                ("same", lr, wd), ("half", lr / 2, wd), ("as_fast", lr / 2, 2 * wd),
            ):  # fmt: skip
                found = branch(
                    run, epoch, PATIENCE * needed, seed=OTHER_SEED, lr_init=rate, wd=decay
                )
                row[key] = destabilises(found)
            rows.append(row)
    if not rows:
        raise NotMeasurable("no period to branch from")
    same, half, as_fast = (np.array([row[key] for row in rows]) for key in LATER)
    measured = (
        f"with η/2 from late in phase B on it comes later in {np.sum(half > same)} of {len(rows)} "
        f"branches, with η/2 and 2λ, ρ shrinking as fast, in {np.sum(as_fast > same)}"
    )
    figure = figures.branches(rows, LATER, PATIENCE)
    return Finding(measured, rules.postponed(same, half), {"branches": rows}, figure)


def late_gradients(run: Run) -> np.ndarray:
    """Effective gradient norms of all steps in the second halves of phase B: (n,)."""
    trace, found = run.trace(), np.zeros(0)
    gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
    for period in settled(run).cycles:
        middle = (period.start + period.turn) / 2
        steps = (trace["epoch"] >= middle) & (trace["epoch"] < period.low)
        found = np.append(found, gradient[steps])
    return found


def destabilisation(base: list[Run]) -> Finding:
    gradients = {run.folder: late_gradients(run) for run in base}
    rows = []
    for run in base:
        others = [g for folder, g in gradients.items() if folder != run.folder and len(g)]
        if not others:
            raise NotMeasurable("no other seed to take the gradients from")
        smallest, largest = np.quantile(np.concatenate(others), (0.01, 0.99))
        for _, epoch, _ in late_branch_points(run):
            for factor in FACTORS:
                lr, wd = factor * run.config["lr_init"], run.config["wd"] / factor
                epochs = -(-WITHIN // run.steps_per_epoch)
                # With ρ held η̃ is that of the branch in all of its steps.
                changes = {"lr_init": lr, "wd": wd, "fix_si_pnorm": True}
                found = branch(run, epoch, epochs, seed=OTHER_SEED, trace=True, **changes).trace()
                elr = lr / found["si_norm"][0] ** 2
                threshold = jump_threshold(DELTA, lr, wd)
                rows.append({
                    "run": run.folder.as_posix(), "from": epoch, "factor": factor, "elr": elr,
                    "possible": threshold / largest, "guaranteed": threshold / smallest,
                    "jumped": bool((found["one_minus_cosine"][:WITHIN] > DELTA).any()),
                })  # fmt: skip
    if not rows:
        raise NotMeasurable("no period to branch from")
    below = [row["jumped"] for row in rows if row["elr"] < row["possible"]]
    above = [row["jumped"] for row in rows if row["elr"] > row["guaranteed"]]
    measured = (
        f"of the branches whose η̃ is below where a δ-jump (δ = {DELTA:g}) is possible "
        f"{sum(below)} of {len(below)} jump within {WITHIN} steps, of those above where it is "
        f"guaranteed {sum(above)} of {len(above)}"
    )
    onset = [row["elr"] / row["possible"] for row in rows if row["jumped"]]
    full = [row["elr"] / row["guaranteed"] for row in rows if not row["jumped"]]
    if onset and full:
        measured += (
            f"; the lowest η̃ with one is {min(onset):.2g} times the first bound, the highest "
            f"without one {max(full):.2g} times the second"
        )
    holds = rules.bounded(below, above) if below and above else None
    return Finding(measured, holds, {"branches": rows}, figures.destabilisation(rows))


def consistent(base: list[Run]) -> Finding:
    rows = []
    for run in base:
        found = settled(run)
        if len(found) < FOR_A_TREND:
            raise NotMeasurable(
                f"trial {run.config['trial']}: {len(found)} periods after an e-fold"
            )
        trace = run.trace()
        gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
        lr, wd = run.config["lr_init"], run.config["wd"]
        inside = []
        # From turn to turn: the gradients that enlarge ρ come before it is largest.
        for begin, end in itertools.pairwise(found.turns):
            steps = (trace["epoch"] >= begin) & (trace["epoch"] < end)
            low, high = equilibrium_norm([gradient[steps].min(), gradient[steps].max()], lr, wd)
            norm = trace["si_norm"][steps]
            inside.append(float(np.mean((low <= norm) & (norm <= high))))
        columns = (found.lengths, found.each("rho_start"), found.each("rho_turn"))
        rows.append({
            "run": run.folder.as_posix(), "lengths": columns[0].tolist(),
            "rho_high": columns[1].tolist(), "rho_low": columns[2].tolist(), "cv": found.cv,
            "inside": inside, "trends": [rules.trend(c) for c in columns],
            "holds": rules.consistent(*columns, found.cv, inside, len(base)),
        })  # fmt: skip
    held = sum(row["holds"] for row in rows)
    cvs = [row["cv"] for row in rows]
    measured = (
        f"{held} of {len(rows)} runs; CV {min(cvs):.2f} to {max(cvs):.2f}; ρ turns at "
        f"{spread([np.mean(r['rho_low']) for r in rows])} and "
        f"{spread([np.mean(r['rho_high']) for r in rows])}; ρ within its two equilibrium norms in "
        f"{min(min(row['inside']) for row in rows):.0%} of the steps or more"
    )
    return Finding(measured, held == len(rows), {"trials": rows}, figures.consistency(rows))


def levels_on_sphere(sphere: Sequence[Run]) -> dict[int, np.ndarray]:
    """Of each trial, by rising rate: ELR, median loss and mean squared effective gradient: (3, n).

    Of the second half of the runs in chaotic equilibrium alone.
    """
    found = {}
    for line in seeds(sphere):
        chaotic = [run for run in line if run.regime.name == "chaotic equilibrium"]
        rows = [(run.config["elr"], *chaos_levels(run)) for run in chaotic]
        found[line[0].config["trial"]] = np.array(rows).reshape(-1, 3).T
    return found


def levels_beside(run: Run, levels: dict[int, np.ndarray]) -> np.ndarray:
    """Those of the run's own trial: (3, n), n >= 2."""
    found = levels.get(run.config["trial"], np.empty((3, 0)))
    if found.shape[1] < 2:
        raise NotMeasurable(f"trial {run.config['trial']}: no two chaotic rates on the sphere")
    return found


def chaos_levels(run: Run) -> tuple[float, float]:
    """Median loss and root mean square of the effective gradient, in the second half of a run."""
    trace = run.trace()
    gradient = effective_gradient_norm(trace["gradient_norm"], trace["si_norm"])
    return float(np.median(late(trace["loss"]))), float(np.sqrt(np.mean(late(gradient) ** 2)))


def forecast_norm(elrs: np.ndarray, gradients: np.ndarray, lr: float, wd: float) -> float:
    """The norm ρ* at which ρ* is the equilibrium norm of the gradients at the rate η/ρ*².

    Gradients between the rates of the sphere are interpolated in logarithms. NaN where no rate of
    the sphere brackets it.
    """
    rho = np.sqrt(lr / np.geomspace(elrs[0], elrs[-1], 2001))
    known = np.exp(np.interp(np.log(lr / rho**2), np.log(elrs), np.log(gradients)))
    gap = np.log(equilibrium_norm(known, lr, wd) / rho)
    crossing = np.flatnonzero(np.sign(gap[:-1]) != np.sign(gap[1:]))
    return float(rho[crossing[0]]) if len(crossing) else float("nan")


def equilibrium_in_chaos(chaos: list[Run], sphere: list[Run]) -> Finding:
    levels, rows = levels_on_sphere(sphere), []
    for run in chaos:
        lr, wd = run.config["lr_init"], run.config["wd"]
        elrs, _, gradients = levels_beside(run, levels)
        predicted = forecast_norm(elrs, gradients, lr, wd)
        found = float(np.median(late(run.trace()["si_norm"])))
        rows.append({"run": run.folder.as_posix(), "rate_times_decay": lr * wd, "norm": found,
                     "forecast": predicted, "ratio": found / predicted})  # fmt: skip
    ratios = [row["ratio"] for row in rows]
    if not np.all(np.isfinite(ratios)):
        raise NotMeasurable("a chaotic line is outside the rates of the sphere")
    products = sorted({row["rate_times_decay"] for row in rows})
    middle = interval(np.median(ratios), rules.median_interval(by_trial(chaos, ratios)))
    measured = (
        f"ρ over its forecast: median {middle}, "
        f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} runs at ηλ = "
        + ", ".join(f"{p:.3g}" for p in products)
    )
    holds = len(products) >= 3 and rules.forecast(ratios)
    return Finding(measured, holds, {"runs": rows}, figures.forecast(rows, rules.CLOSE))


def regimes_in_ordinary_training(chaos: list[Run], sphere: list[Run]) -> Finding:
    levels, rows = levels_on_sphere(sphere), []
    for run in chaos:
        known, trace = levels_beside(run, levels), run.trace()
        elr = float(np.median(late(trace["lr"] / trace["si_norm"] ** 2)))
        if not known[0][0] <= elr <= known[0][-1]:
            raise NotMeasurable(f"a chaotic line is at η̃ = {elr:.2g}, outside the sphere's rates")
        loss, gradient = chaos_levels(run)
        there = np.exp(
            np.array([np.interp(np.log(elr), np.log(known[0]), np.log(k)) for k in known[1:]])
        )
        rows.append({
            "run": run.folder.as_posix(), "rate_times_decay": rate_product(run), "elr": elr,
            "loss": loss / there[0], "gradient": gradient / there[1],
        })  # fmt: skip
    loss, gradient = ([row[key] for row in rows] for key in ("loss", "gradient"))
    measured = (
        f"ordinary chaos over the sphere at the same η̃ ({len(rows)} runs, η̃ = "
        f"{spread([row['elr'] for row in rows], '.2g')}): loss {spread(loss, '.2f')}, effective "
        f"gradient {spread(gradient, '.2f')}"
    )
    enough = len({row["rate_times_decay"] for row in rows}) >= 3
    holds = enough and rules.alike_at_the_same_rate(loss, gradient)
    return Finding(measured, holds, {"runs": rows}, figures.same_rate(rows, rules.ALIKE, chaos))


def angular_update(angles: list[Run]) -> Finding:
    """RMS angle of a step against theory, in the second half of runs with momentum or AdamW."""
    rows = []
    for run in angles:
        # 1 - cos is θ²/2 to the order in which theory's formulas hold
        found = float(np.sqrt(np.mean(2 * late(run.trace()["one_minus_cosine"]))))
        expected = run.equilibrium_angle
        periods = settled(run)
        rows.append({"run": run.folder.as_posix(), "optimizer": run.config["optimizer"],
                     "angle": found, "theory": expected, "ratio": found / expected,
                     "periods": len(periods), "periodic": periods.is_periodic})  # fmt: skip
    words, lines = [], {}
    for line in by_line(angles).values():
        of = [row for row in rows if row["run"] in {run.folder.as_posix() for run in line}]
        kind = "AdamW" if of[0]["optimizer"] == "adamw" else "SGD with momentum"
        lines[kind] = line
        periodic = sum(row["periodic"] for row in of)
        words.append(
            f"{kind}: RMS angle over theory's {spread([r['ratio'] for r in of], '.3f')}, "
            f"{periodic} of {len(of)} runs periodic"
        )
    holds = rules.forecast([row["ratio"] for row in rows])
    return Finding("; ".join(words), holds, {"runs": rows}, figures.angles(lines))
