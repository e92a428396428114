"""Loss and error along the straight line between checkpoints.

    python -m measuring.paths RUN/checkpoint-100.pt RUN/checkpoint-200.pt OTHER/checkpoint-200.pt
    python -m measuring.paths --points 21 A.pt B.pt --save_path some.npz

Every pair a, b of the checkpoints is connected by (1 - t) a + t b. Each path gives train and test
loss and error at evenly spaced points, their barriers, and the angle between the scale-invariant
(SI) weights of its ends. The barrier of a quantity L is the largest excess of its path over linear
interpolation between its ends, max over t of L(t) - (1 - t) L(0) - t L(1): 0 if no point lies above
it (Entezari et al., 2022, arXiv 2110.06296, section 2). P2 uses such paths to tell minima apart.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

import models
import runs
from measuring import distance
from measuring.rebuild import Evaluation, check_comparable
from options import DECIDING, Options, integer, not_empty, option, parse
from runs import checkpoints
from utils import UserError, user_errors


@dataclass(frozen=True)
class Paths(Options):
    """Which checkpoints to connect."""

    checkpoints: tyro.conf.Positional[tuple[Path, ...]] = option(  # noqa: RUF009
        (), "two or more, of any runs"
    )
    points: int = option(11, "points of each path, its ends included", integer(2))
    save_path: str = option("paths.npz", "where the results go", not_empty)


def connect(files: Sequence[Path], points: int = 11) -> dict[str, np.ndarray]:
    """Evaluate the N paths between every two of P checkpoints, each at `points` points, 2 or more.

    The checkpoints are of runs with the same network, images and loss. The quantities are those of
    `rebuild.Evaluation`. Raises UserError if a checkpoint or a configuration is missing, or the
    runs differ in more than their training.

    Returns
    -------
    checkpoint : (P,) names of the files; epoch, lr, elr, trial : (P,), elr NaN off the sphere.
    run, seed, setting : (P,) numbers, the same for checkpoints of one run, of runs with one seed,
        and of runs that differ in rate, seed and length alone.
    regime : (P,) names of the regimes of these runs; "" if not known, or off the sphere.
    pair : (N, 2) indices of the ends; t : (points,).
    train_loss, train_error, test_loss, test_error : (N, points), errors as fractions.
    train_loss_barrier, ... : (N,), of each of these.
    angle : (N,), between the SI weights of the ends, in radians.
    """
    of = [runs.read_run(path.parent) for path in files]
    check_comparable(of)
    evaluation = Evaluation(of[0])
    contents = [checkpoints.load_into(evaluation.model, path) for path in files]
    parameters = dict(evaluation.model.named_parameters())
    si_names = list(models.si_parameters(evaluation.model))
    weights = [{name: c["state_dict"][name] for name in parameters} for c in contents]

    ts, pairs = np.linspace(0, 1, points), list(itertools.combinations(range(len(files)), 2))
    rows = []
    for (i, j), t in tqdm([*itertools.product(pairs, ts)], "points", leave=False, disable=None):
        with torch.no_grad():
            for name, parameter in parameters.items():
                first, last = weights[i][name].double(), weights[j][name].double()
                parameter.copy_((1 - t) * first + t * last)
        rows.append(evaluation.measure())
    varied = ("lr_init", "elr", "seed", "trial", "epochs")
    settings = [{k: v for k, v in vars(run.options).items() if k in DECIDING and k not in varied}
                for run in of]  # fmt: skip
    values = {
        name: np.array([row[name] for row in rows]).reshape(len(pairs), points) for name in rows[0]
    }
    return {
        "checkpoint": np.array([str(path) for path in files]),
        "epoch": np.array([float(content["epoch"]) for content in contents]),
        "lr": np.array([run.base_lr for run in of]),
        "elr": np.array([run.config["elr"] if run.on_sphere else np.nan for run in of]),
        "trial": np.array([run.config["trial"] for run in of]),
        "run": numbered([path.parent.resolve() for path in files]),
        "seed": numbered([(run.options.seed, run.options.trial) for run in of]),
        "setting": numbered(settings),
        "regime": np.array([(run.regime.name if run.on_sphere else None) or "" for run in of]),
        "pair": np.array(pairs),
        "t": ts,
        "angle": np.array([distance.angle(weights[i], weights[j], si_names) for i, j in pairs]),
        **values,
        **{f"{name}_barrier": barrier(ts, path) for name, path in values.items()},
    }


def numbered(values: Sequence) -> np.ndarray:
    """For each value the index of the first that is equal to it: (n,)."""
    return np.array([values.index(value) for value in values])


def barrier(t: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The largest excess over linear interpolation of the ends: (..., points) -> (...)."""
    return (values - (1 - t) * values[..., :1] - t * values[..., -1:]).max(-1)


def main(argv: list[str] | None = None) -> None:
    options, _ = parse(Paths, argv, "measuring.paths", __doc__)
    if len(options.checkpoints) < 2:
        raise UserError("a path has two ends: name two checkpoints or more")
    found = connect(options.checkpoints, options.points)
    for (i, j), angle, loss, error in zip(
        found["pair"], found["angle"], found["train_loss_barrier"], found["test_error_barrier"],
        strict=True,
    ):  # fmt: skip
        print(
            f"{options.checkpoints[i]}, {options.checkpoints[j]}: angle {math.degrees(angle):.1f}°,"
            f" barrier {loss:.4g} in train loss, {100 * error:.2f} points in test error"
        )
    path = Path(options.save_path).expanduser()
    runs.write_arrays(path, found)
    print(f"wrote {path}")


if __name__ == "__main__":
    with user_errors("measuring.paths"):
        main()
