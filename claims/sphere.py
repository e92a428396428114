"""P2: the three regimes, on the sphere, and the toy function."""

import numpy as np

import figures
import runs
from claims import rules
from claims.branches import branch
from claims.finding import Finding, NotMeasurable, late, seeds, spread
from measuring import parameter_names
from measuring.distance import cosine
from measuring.rebuild import rebuild
from runs import Run, at_common_epochs, checkpoints
from theory import toy
from theory.regimes import REGIMES, find_regime

SAME_LOSS = 0.1  # training loss at which rates are compared
TOY_RATES = (0.01, 0.03, 0.1, 0.2, 0.28, 0.3, 0.4, 0.6, 1, 2, 5, 10, 100, 1000)
STEPS = 10_000  # of the toy function
LAGS = 10  # steps over which a random walk is followed
HIGH, LOW = 8e-3, 1e-3  # the schedule, fixed in advance


def walk_gap(cosines: np.ndarray, steps: np.ndarray) -> float:
    """How far the weights are from a random walk on the sphere: 0 for one, up to 2.

    Over k steps in directions that are independent of the way so far, the cosine with the weights
    at their beginning is the product of the cosines of the k steps; the largest difference between
    the two means over all beginnings, for k = 2 to 10.

    Parameters
    ----------
    cosines : (n, n) of the weights after each step with each other.
    steps : (n - 1,) the cosines of the steps.
    """
    n, gaps = len(cosines), []
    for lag in range(2, LAGS + 1):
        expected = [np.prod(steps[i : i + lag]) for i in range(n - lag)]
        gaps.append(abs(np.mean(np.diagonal(cosines, lag)) - np.mean(expected)))
    return float(max(gaps))


def random_walk(run: Run) -> float:
    """`walk_gap` of the scale-invariant weights in an epoch after a run's last."""
    steps, last = run.steps_per_epoch, run.config["epochs"]
    after = branch(run, last, 1, save_freq_int=steps, trace=True)
    names = parameter_names(rebuild(run.config)[0], True)
    paths = runs.checkpoints_in(after.folder).values()
    weights = [checkpoints.load(path)["state_dict"] for path in paths]
    cosines = np.array([[cosine(a, b, names) for b in weights] for a in weights])
    return walk_gap(cosines, 1 - after.trace()["one_minus_cosine"])


def three_regimes(regimes: list[Run]) -> Finding:
    found = [[run.regime for run in line] for line in seeds(regimes)]
    names = [[regime.name for regime in seed] for seed in found]
    levels = [[r.level for r in seed if r.name == "chaotic equilibrium"] for seed in found]
    losses = [
        [
            run.log()["train_loss"]
            for run, regime in zip(line, seed, strict=True)
            if regime.name == "chaotic equilibrium"
        ]
        for line, seed in zip(seeds(regimes), found, strict=True)
    ]
    equilibria = [[*map(rules.is_equilibrium, seed)] for seed in losses]
    trends = [[rules.trend(late(loss)) for loss in seed] for seed in losses]
    walks = [
        [random_walk(run) for run, r in zip(line, seed, strict=True) if r.name == "divergence"]
        for line, seed in zip(seeds(regimes), found, strict=True)
    ]
    rates = [run.config["elr"] for run in next(seeds(regimes))]
    words = []
    for name in REGIMES:
        at = [elr for seed in names for elr, n in zip(rates, seed, strict=True) if n == name]
        if at:
            ends = dict.fromkeys(f"{elr:g}" for elr in (min(at), max(at)))  # one where they agree
            words.append(f"{name} at ELR {' to '.join(ends)}")
    steady, chaotic = sum(map(sum, equilibria)), sum(map(len, equilibria))
    words.append(f"{steady} of {chaotic} chaotic runs without trend and in a factor 5")
    ranked = sum(list(seed) == sorted(seed) for seed in levels)
    words.append(f"levels in order in {ranked} of {len(levels)} seeds")
    gaps = [gap for seed in walks for gap in seed]
    words.append(f"in divergence cosines within {spread(gaps, '.2g')} of a random walk's")
    numbers = {"elrs": rates, "names": names, "chaotic_levels": levels, "equilibria": equilibria,
               "trends": trends, "walks": walks}  # fmt: skip
    holds = rules.three_regimes(names, levels, equilibria, walks)
    return Finding("; ".join(words), holds, numbers, figures.diagram_of_runs(regimes))


def at_loss(run: Run, level: float) -> tuple[float, float]:
    """Test error in % and effective gradient where the training loss first comes to a level.

    NaN where it does not.
    """
    _, loss, *others = at_common_epochs(
        run.curves, "train_loss", "test_error", "effective_gradient_norm"
    )
    below = np.flatnonzero(loss <= level)
    if not len(below) or below[0] == 0:
        return float("nan"), float("nan")
    at = below[0]
    x = np.log(loss[[at, at - 1]])  # rising, as np.interp needs it
    return tuple(float(np.interp(np.log(level), x, other[[at, at - 1]])) for other in others)


def features(regimes: list[Run]) -> Finding:
    seen = []
    for line in seeds(regimes):
        converging = [run for run in line if run.regime.name == "convergence"]
        if len(converging) < 3:
            raise NotMeasurable("fewer than three rates converge")
        errors, gradients = zip(*(at_loss(run, SAME_LOSS) for run in converging), strict=True)
        seen.append({
            "trial": line[0].config["trial"], "elrs": [run.config["elr"] for run in converging],
            "errors": errors, "gradients": gradients,
        })  # fmt: skip
    errors, gradients = ([row[key] for row in seen] for key in ("errors", "gradients"))
    measured = (
        f"at a training loss of {SAME_LOSS:g} from the lowest to the highest converging rate: "
        f"test error {spread([e[0] for e in errors])} to {spread([e[-1] for e in errors])} %, "
        f"effective gradient {spread([g[0] for g in gradients])} to "
        f"{spread([g[-1] for g in gradients])}"
    )
    short = sum(np.isnan(error) for seed in errors for error in seed)
    if short:
        measured += f"; {short} of {sum(map(len, errors))} runs do not come to that loss"
    whole = [row for row in seen if np.all(np.isfinite(row["errors"]))]
    falls = [rules.better_with_the_rate([row["errors"]], [row["gradients"]]) for row in whole]
    measured += f"; both fall with every rise of the rate in {sum(falls)} of {len(falls)} seeds"
    holds = all(falls) and (None if short else True)  # what fails in one seed does not hold
    return Finding(measured, holds, {"rows": seen}, figures.at_equal_loss(seen, SAME_LOSS))


def better_optima(optima: list[Run]) -> Finding:
    rows = []
    for line in seeds(optima):
        *constant, high = line  # by rising rate
        if high.config["elr"] != HIGH:
            raise NotMeasurable(f"the highest rate is not {HIGH:g}")
        held_out = [run.log()["test_acc"][-1] for run in constant]  # without --use_test
        best = int(np.argmax(held_out))
        errors = [float(run.curves["test_error"].values[-1]) for run in constant]
        at = high.config["epochs"]
        dropped = branch(high, at, constant[0].config["epochs"] - at, elr=LOW)
        rows.append({
            "trial": high.config["trial"], "elrs": [run.config["elr"] for run in constant],
            "errors": errors, "constant_elr": constant[best].config["elr"],
            "constant": errors[best],
            "dropped": float(dropped.curves["test_error"].values[-1]),
        })  # fmt: skip
    constant, dropped = ([row[key] for row in rows] for key in ("constant", "dropped"))
    measured = (
        f"test error {spread(dropped)} % with ELR {HIGH:g}, then {LOW:g}; {spread(constant)} % at "
        "the constant rate that is best on held-out images"
    )
    figure = figures.optima(rows, HIGH, LOW)
    return Finding(measured, rules.better_optima(dropped, constant), {"rows": rows}, figure)


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
