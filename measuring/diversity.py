"""Whether the minima of different periods are different functions (P1, section 5).

    python -m measuring.diversity --anchor 60 \\
        --models_dir Experiments/minima/lr_0.03_wd_0.001/trial_0 \\
        --independent Experiments/minima/lr_0.03_wd_0.001/trial_1

Compares an anchor checkpoint with later checkpoints of its run and of an independently trained
network: the cosine of the scale-invariant (SI) weights, and the test accuracy of the ensemble of
the two, which averages their probabilities.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import models
import runs
from data import ImageSet
from measuring import meter
from measuring.distance import angle, cosine
from measuring.rebuild import check_comparable, rebuild, renew_statistics
from options import Options, integer, not_empty, option, parse
from runs import checkpoints
from utils import UserError, user_errors

COLUMNS = ("report_epochs", "acc", "ensemble_acc", "cosine")


@dataclass(frozen=True)
class Compare(Options):
    """Which runs to compare."""

    models_dir: str | None = option(None, "folder of the run, DIR/trial_<t>", not_empty)
    anchor: int | None = option(None, "epoch of the anchor checkpoint", integer(0))
    independent: str | None = option(
        None, "folder of an independently trained run (another trial)", not_empty
    )


@torch.no_grad()
def probabilities(model: torch.nn.Module, images: ImageSet) -> torch.Tensor:
    """Class probabilities with running statistics: (images, classes)."""
    size = meter.EVALUATION_BATCH[images.images.device.type]
    with meter.mode(model, train_mode=False):
        return torch.cat([model(x).softmax(1) for x, _ in images.batches(size)])


def accuracy(p: torch.Tensor, images: ImageSet) -> float:
    return (p.argmax(1) == images.labels).double().mean().item()


def compare(
    folder: Path,
    anchor: int,
    independent: Path | None = None,
    epochs: Collection[int] | None = None,
) -> dict[str, np.ndarray]:
    """Compare an anchor checkpoint with others of its run and of an independent run.

    Those are the checkpoints of `epochs` in both runs, by default the anchor's and all later ones.
    Batch-norm statistics are estimated anew for each. Raises UserError if a checkpoint or a
    configuration is missing, or the runs differ in network, images or loss.

    Returns
    -------
    report_epochs : (n,) epochs of the run's checkpoints.
    acc, ensemble_acc : (n,) accuracy alone and as an ensemble with the anchor.
    cosine : (n,) cosine of the SI weights with the anchor's.
    independent_... : the same arrays for the independent run, if there is one.
    """
    run = runs.read_run(folder)
    if independent is not None:
        check_comparable([run, runs.read_run(independent)])
    model, train_images, images = rebuild(run)
    names = list(models.si_parameters(model))

    def load(path: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        content = checkpoints.load_into(model, path)
        renew_statistics(model, train_images, run.options.batch_size)
        return content["state_dict"], probabilities(model, images)

    anchor_weights, anchor_p = load(runs.checkpoint_path(folder, anchor))
    arrays = {}
    for prefix, where in (("", folder), ("independent_", independent)):
        if where is None:
            continue
        rows = []
        for epoch, path in runs.whole_epochs(where).items():
            if epoch >= anchor if epochs is None else epoch in epochs:
                weights, p = load(path)
                alone, ensemble = accuracy(p, images), accuracy(p + anchor_p, images)
                rows.append((epoch, alone, ensemble, cosine(weights, anchor_weights, names)))
        if not rows:
            raise UserError(f"{where} has no checkpoint from epoch {anchor} on")
        for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True):
            arrays[prefix + name] = np.array(column)
    return arrays


def turning(folder: Path) -> dict[str, np.ndarray]:
    """Angles between the SI weights of successive whole-epoch checkpoints of a run: (n,) arrays
    "from" and "to", the epochs of the two, and "angle", in radians."""
    model, _, _ = rebuild(runs.read_run(folder))
    names, rows = list(models.si_parameters(model)), []
    saved = runs.whole_epochs(folder).items()
    weights = ((epoch, checkpoints.load(path)["state_dict"]) for epoch, path in saved)
    for (start, before), (end, after) in itertools.pairwise(weights):
        rows.append((start, end, angle(before, after, names)))
    return dict(zip(("from", "to", "angle"), np.array(rows).reshape(-1, 3).T, strict=True))


def main(argv: list[str] | None = None) -> None:
    options = parse(Compare, argv, "measuring.diversity", __doc__)[0]
    if options.models_dir is None or options.anchor is None:
        raise UserError("--models_dir and --anchor are needed")
    folder = Path(options.models_dir).expanduser()
    independent = options.independent and Path(options.independent).expanduser()
    arrays = compare(folder, options.anchor, independent)
    path = folder / f"diversity-{options.anchor}.npz"
    runs.write_arrays(path, arrays)
    print(f"wrote {path}")


if __name__ == "__main__":
    with user_errors("measuring.diversity"):
        main()
