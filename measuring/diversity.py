"""Are the minima of different periods different functions? Cosines of weights, and ensembles.

    python -m measuring.diversity --anchor 60 \\
        --models_dir Experiments/demo_minima/lr_0.1_wd_0.01/trial_0 \\
        --independent Experiments/demo_minima/lr_0.1_wd_0.01/trial_1

An anchor checkpoint is compared with every later one of its run, and with those of an independently
trained network: the cosine of their scale-invariant weights, and the accuracy of the two as an
ensemble (the mean of their probabilities) on the test set (P1, section 5).
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

import models
import runs
from command_line import Option, Parser, integer
from data import ImageSet
from measuring import meter
from measuring.distance import cosine
from measuring.rebuild import rebuild, renew_statistics
from runs import checkpoints
from utils import UserError, user_errors

OPTIONS = (
    Option("--models_dir", str, None, "folder of the run, DIR/trial_<t>"),
    Option("--anchor", integer(0), None, "epoch of the anchor checkpoint"),
    Option("--independent", str, None, "folder of an independently trained run (another trial)"),
)


@torch.no_grad()
def probabilities(model: torch.nn.Module, images: ImageSet) -> torch.Tensor:
    """The network's class probabilities, running statistics used: (images, classes)."""
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
    """Compare an anchor checkpoint with others of its run, and with an independent run's.

    Statistics of batch normalisation are estimated anew for every checkpoint.

    Parameters
    ----------
    epochs : which are compared, of both runs; from the anchor's on where they are not given.

    Returns
    -------
    report_epochs : (n,) of the run's whole-epoch checkpoints.
    acc, ensemble_acc, cosine : (n,) of each alone; with the anchor; and with its SI weights.
    independent_...: the same arrays for the independent run, where one is given.

    Raises
    ------
    UserError : a checkpoint or a configuration is missing.
    """
    try:
        config = runs.read_config(folder)
    except FileNotFoundError:
        raise UserError(f"{folder} has no {runs.CONFIG}: --models_dir is DIR/trial_<t>") from None
    model, train_images, images = rebuild(config)
    names = list(models.si_parameters(model))

    def of(content: dict, path: Path) -> torch.Tensor:
        checkpoints.load_weights(model, content, path)
        renew_statistics(model, train_images, config["batch_size"])
        return probabilities(model, images)

    def states(where: Path):
        for (epoch, step), path in runs.checkpoints_in(where).items():
            if not step and (epoch >= anchor if epochs is None else epoch in epochs):
                content = checkpoints.load(path)
                yield epoch, content["state_dict"], of(content, path)

    anchor_path = runs.checkpoint_path(folder, anchor)
    anchor_state = checkpoints.load(anchor_path)["state_dict"]
    anchor_p = of({"state_dict": anchor_state}, anchor_path)
    found = {}
    for prefix, where in (("", folder), ("independent_", independent)):
        if where is None:
            continue
        rows = [
            (epoch, accuracy(p, images), accuracy(p + anchor_p, images),
             cosine(state, anchor_state, names))
            for epoch, state, p in states(where)
        ]  # fmt: skip
        if not rows:
            raise UserError(f"{where} has no checkpoint from epoch {anchor} on")
        columns = ("report_epochs", "acc", "ensemble_acc", "cosine")
        found |= {
            prefix + name: np.array(column)
            for name, column in zip(columns, zip(*rows, strict=True), strict=True)
        }
    return found


def turning(folder: Path) -> dict[str, np.ndarray]:
    """How far the SI weights turn from each whole-epoch checkpoint of a run to the next.

    Returns
    -------
    from, to : (n,) epochs of the two checkpoints.
    angle : (n,) between their SI weights, in radians.
    """
    model, _, _ = rebuild(runs.read_config(folder))
    names, before, rows = list(models.si_parameters(model)), None, []
    for (epoch, step), path in runs.checkpoints_in(folder).items():
        if step:
            continue
        state = checkpoints.load(path)["state_dict"]
        if before is not None:
            angle = np.arccos(min(cosine(before[1], state, names), 1.0))
            rows.append((before[0], epoch, angle))
        before = epoch, state
    return dict(zip(("from", "to", "angle"), np.array(rows).reshape(-1, 3).T, strict=True))


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="measuring.diversity", description=__doc__).parse_args(argv)
    if options.models_dir is None or options.anchor is None:
        raise UserError("--models_dir and --anchor are needed")
    folder = Path(options.models_dir).expanduser()
    independent = options.independent and Path(options.independent).expanduser()
    found = compare(folder, options.anchor, independent)
    path = folder / f"diversity-{options.anchor}.npz"
    runs.write_arrays(path, found)
    print(f"wrote {path}")


if __name__ == "__main__":
    with user_errors("measuring.diversity"):
        main()
