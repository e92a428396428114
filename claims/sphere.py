"""P2: the three regimes, on the sphere, in ordinary training and in the toy function."""

import numpy as np

import figures
from claims.finding import Finding, NotMeasurable, spread
from claims.mechanism import split_jump_runs
from runs import Run
from theory import toy


def three_regimes(three_regimes: list[Run]) -> Finding:
    order = ("convergence", "chaotic equilibrium", "divergence")
    holds, levels, words = True, {}, []
    for trial in sorted({run.config["trial"] for run in three_regimes}):
        line = [run for run in three_regimes if run.config["trial"] == trial]
        line.sort(key=lambda run: run.config["elr"])
        found = [figures.regime(run) for run in line]
        ranks = [order.index(regime.name) for regime in found]
        chaotic = [regime.level for regime in found if regime.name == order[1]]
        holds &= set(ranks) == {0, 1, 2} and ranks == sorted(ranks) and chaotic == sorted(chaotic)
        for run, regime in zip(line, found, strict=True):
            levels.setdefault(run.config["elr"], []).append((regime.name, regime.level))
    for name in order:
        rates = [elr for elr, found in levels.items() if any(n == name for n, _ in found)]
        level = [v for found in levels.values() for n, v in found if n == name]
        if rates:
            words.append(f"{name} at ELR {min(rates):g} to {max(rates):g} (loss "
                         f"{min(level):.2g} to {max(level):.2g})")  # fmt: skip
    first = [run for run in three_regimes if run.config["trial"] == 0]
    numbers = {f"{elr:g}": found for elr, found in levels.items()}
    return Finding("; ".join(words), holds, numbers, figures.three_regimes(first))


def regimes_in_ordinary_training(three_regimes: list[Run], jumps: list[Run]) -> Finding:
    names = {run.folder: figures.regime(run).name for run in three_regimes}
    rates = {
        name: [r.config["elr"] for r in three_regimes if names[r.folder] == name]
        for name in set(names.values())
    }
    periodic, chaotic = split_jump_runs(jumps)
    before = []
    for run in periodic:
        log = run.log()
        at = np.searchsorted(log["epoch"], figures.periods_of(run).jumps) - 1
        before += log["effective_lr"][at].tolist()
    if not before:
        raise NotMeasurable("no jumps in ordinary training")
    if len(rates) < 3:
        raise NotMeasurable("a regime is missing on the sphere")
    low, high = max(rates["convergence"]), min(rates["divergence"])
    in_chaos = [np.median(r.log()["effective_lr"][len(r.log()["epoch"]) // 2 :]) for r in chaotic]
    chaos_starts = min(rates["chaotic equilibrium"])
    found = [np.median(before), *in_chaos]
    holds = all(low / 3 < rate < 3 * chaos_starts for rate in found)
    measured = (
        f"on the sphere ELRs up to {low:g} converge, and {chaos_starts:g} to {high:g} do not and "
        f"are not random; in ordinary training the loss jumps at η̃ = {spread(before, '.2g')} "
        f"(median {np.median(before):.2g}), and the chaotic line stays at "
        f"{spread(in_chaos, '.2g')}"
    )
    numbers = {"before_jumps": before, "in_chaos": in_chaos, "converges_up_to": low}
    first = [run for run in three_regimes if run.config["trial"] == 0]
    return Finding(measured, holds, numbers, figures.boundary(first, np.array(before)))


def better_optima(rows: list[dict]) -> Finding:
    """From the rows of `second_regime.measure`."""
    best: dict[str, list[float]] = {}
    for trial in sorted({row["trial"] for row in rows}):
        for how in ("constant", "drop", "average"):
            errors = [r["test error"] for r in rows if (r["trial"], r["how"]) == (trial, how)]
            best.setdefault(how, []).append(min(errors, default=np.nan))
    words = [f"{how} {spread(errors, '.3g')} %" for how, errors in best.items()]
    both = zip(best["drop"], best["constant"], strict=True)
    holds = all(dropped < constant for dropped, constant in both)
    measured = "best test error of each trial: " + ", ".join(words)
    return Finding(measured, holds, {"rows": rows}, figures.second_regime(rows))


def toy_function() -> Finding:
    found, bound = toy.convergence_boundary(steps=3000), toy.stability_bound((1, 2, 4))
    rates = (0.01, 0.03, 0.1, 0.2, 0.28, 0.3, 0.4, 0.6, 1, 2, 5, 10, 100, 1000)
    measured = f"descent converges up to ELR {found:.4f}; derived bound 2/Σα = {bound:.4f}"
    holds = abs(found / bound - 1) < 0.01
    return Finding(measured, holds, {"found": found, "bound": bound}, figures.diagram_of_toy(rates))
