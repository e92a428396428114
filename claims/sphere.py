"""P2: the three regimes, on the sphere, and the toy function."""

from collections.abc import Iterator

import numpy as np

import figures
from claims import rules
from claims.branches import branch
from claims.finding import Finding, NotMeasurable, spread
from runs import Run
from theory import toy
from theory.regimes import find_regime

SAME_LOSS = 0.1  # training loss at which rates are compared
TOY_RATES = (0.01, 0.03, 0.1, 0.2, 0.28, 0.3, 0.4, 0.6, 1, 2, 5, 10, 100, 1000)
STEPS = 10_000  # of the toy function
HIGH, LOW = 8e-3, 1e-3  # the schedule, fixed in advance


def seeds(sphere: list[Run]) -> Iterator[list[Run]]:
    """The runs of each trial, by rising rate."""
    for trial in sorted({run.config["trial"] for run in sphere}):
        line = [run for run in sphere if run.config["trial"] == trial]
        yield sorted(line, key=lambda run: run.config["elr"])


def three_regimes(regimes: list[Run]) -> Finding:
    found = [[figures.regime(run) for run in line] for line in seeds(regimes)]
    names = [[regime.name for regime in seed] for seed in found]
    levels = [[r.level for r in seed if r.name == "chaotic equilibrium"] for seed in found]
    equilibria = [
        [
            rules.is_equilibrium(run.metrics("train-tm")["loss"])
            for run, regime in zip(line, seed, strict=True)
            if regime.name == "chaotic equilibrium"
        ]
        for line, seed in zip(seeds(regimes), found, strict=True)
    ]
    rates = [run.config["elr"] for run in next(seeds(regimes))]
    words = []
    for name in ("convergence", "chaotic equilibrium", "divergence"):
        at = [elr for seed in names for elr, n in zip(rates, seed, strict=True) if n == name]
        if at:
            words.append(f"{name} at ELR {min(at):g} to {max(at):g}")
    steady, chaotic = sum(map(sum, equilibria)), sum(map(len, equilibria))
    words.append(f"{steady} of {chaotic} chaotic runs without trend and in a factor 5")
    ranked = sum(list(seed) == sorted(seed) for seed in levels)
    words.append(f"levels in order in {ranked} of {len(levels)} seeds")
    numbers = {"elrs": rates, "names": names, "chaotic_levels": levels, "equilibria": equilibria}
    holds = rules.three_regimes(names, levels, equilibria)
    return Finding("; ".join(words), holds, numbers, figures.three_regimes(next(seeds(regimes))))


def at_loss(run: Run, level: float) -> tuple[float, float]:
    """Test error in % and effective gradient where the training loss first comes to a level."""
    found = figures.curves(run)
    below = np.flatnonzero(found["train loss"] <= level)
    if not len(below) or below[0] == 0:
        raise NotMeasurable(f"ELR {run.config['elr']:g} does not come to a loss of {level:g}")
    at = below[0]
    x = np.log(found["train loss"][[at, at - 1]])  # rising, as np.interp needs it
    return tuple(
        float(np.interp(np.log(level), x, found[name][[at, at - 1]]))
        for name in ("test error", "effective gradient norm")
    )


def features(regimes: list[Run]) -> Finding:
    errors, gradients = [], []
    for line in seeds(regimes):
        converging = [run for run in line if figures.regime(run).name == "convergence"]
        rows = [at_loss(run, SAME_LOSS) for run in converging]
        if len(rows) < 3:
            raise NotMeasurable("fewer than three rates converge")
        errors.append([row[0] for row in rows])
        gradients.append([row[1] for row in rows])
    measured = (
        f"at a training loss of {SAME_LOSS:g} from the lowest to the highest converging rate: "
        f"test error {spread([e[0] for e in errors])} to {spread([e[-1] for e in errors])} %, "
        f"effective gradient {spread([g[0] for g in gradients])} to "
        f"{spread([g[-1] for g in gradients])}"
    )
    holds = rules.better_with_the_rate(errors, gradients)
    return Finding(measured, holds, {"errors": errors, "gradients": gradients})


def better_optima(optima: list[Run]) -> Finding:
    rows = []
    for line in seeds(optima):
        held_out = [run.log()["test_acc"][-1] for run in line]  # without --use_test
        best = line[int(np.argmax(held_out))]
        high = next(run for run in line if run.config["elr"] == HIGH)
        epochs = high.config["epochs"]
        dropped = branch(high, epochs // 2, epochs - epochs // 2, elr=LOW)
        rows.append({
            "trial": high.config["trial"], "constant_elr": best.config["elr"],
            "constant": float(figures.curves(best)["test error"][-1]),
            "dropped": float(figures.curves(dropped)["test error"][-1]),
        })  # fmt: skip
    constant, dropped = ([row[key] for row in rows] for key in ("constant", "dropped"))
    measured = (
        f"test error {spread(dropped)} % with ELR {HIGH:g}, then {LOW:g}; {spread(constant)} % at "
        "the constant rate that is best on held-out images"
    )
    return Finding(measured, rules.better_optima(dropped, constant), {"rows": rows})


def toy_function() -> Finding:
    found, bound = toy.convergence_boundary(steps=3000), toy.stability_bound((1, 2, 4))
    level = toy.random_level((1, 2, 4))
    losses = {rate: toy.descend(rate, STEPS, runs=256).mean(0) for rate in TOY_RATES}
    regimes = {rate: find_regime(loss, loss / level) for rate, loss in losses.items()}
    names = [regime.name for regime in regimes.values()]
    levels = {rate: float(losses[rate][STEPS // 2 :].mean()) for rate in (1, 1000)}
    measured = (
        f"descent converges up to ELR {found:.4f}, derived bound 2/Σα = {bound:.4f}; regimes in "
        f"order: {', '.join(dict.fromkeys(names))}; mean loss {levels[1]:.3f} at ELR 1 and "
        f"{levels[1000]:.3f} at 1000"
    )
    holds = rules.toy_regimes(found, bound, names, levels)
    numbers = {"found": found, "bound": bound, "names": names, "levels": levels}
    return Finding(measured, holds, numbers, figures.diagram_of_toy(TOY_RATES))
