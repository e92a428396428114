"""Networks at minima: their loss, test error and norm, measured from the checkpoint.

    python -m measuring.minima                   # those of results/minima

Measures every checkpoint of a folder, whose run's config.json lies beside it, and compares with the
numbers in its minima.json, where that is; --write replaces them.
"""

import json
from pathlib import Path

import models
import runs
from command_line import Option, Parser
from measuring.diversity import accuracy, probabilities
from measuring.meter import Meter
from measuring.rebuild import rebuild, renew_statistics
from measuring.wanted import Wanted
from runs import checkpoints
from utils import UserError, user_errors, write_atomically

RECORD = "minima.json"
TOLERANCE = 0.02  # relative: other machines round otherwise
OPTIONS = (
    Option("--folder", str, "results/minima", "folders with config.json and checkpoints below it"),
    Option("--write", None, False, "write the numbers down instead of comparing them"),
)


def measure(folder: Path, path: Path) -> dict[str, float]:
    """One checkpoint of the run in a folder.

    Returns
    -------
    loss : training loss with batch statistics, as in train-tm.npz.
    error : test error, a fraction, with the statistics of batch normalisation estimated anew.
    si_norm : norm ρ of the scale-invariant weights.
    """
    config = runs.read_config(folder)
    model, train_images, test_images = rebuild(config)
    checkpoints.load_weights(model, checkpoints.load(path), path)
    si_norm = models.norm(models.split_parameters(model)[0]).item()
    batch_size, wanted = config["batch_size"], Wanted(eval_model=True)
    meter = Meter(model, train_images, wanted, train_mode=True, batch_size=batch_size)
    loss = float(meter.measure()["all"]["loss"])
    renew_statistics(model, train_images, batch_size)
    error = 1 - accuracy(probabilities(model, test_images), test_images)
    return {"loss": loss, "error": error, "si_norm": si_norm}


def main(argv: list[str] | None = None) -> None:
    options = Parser(OPTIONS, prog="measuring.minima", description=__doc__).parse_args(argv)
    root = Path(options.folder)
    found = {
        path.relative_to(root).as_posix(): measure(path.parent, path)
        for path in sorted(root.rglob("checkpoint-*.pt"))
    }
    if not found:
        raise UserError(f"there is no checkpoint below {root}")
    for name, numbers in found.items():
        print(name, " ".join(f"{key} {value:.5g}" for key, value in numbers.items()))
    if options.write:
        write_atomically(root / RECORD, (json.dumps(found, indent=1) + "\n").encode())
        return
    compare(found, json.loads((root / RECORD).read_text()))
    print(f"as in {root / RECORD}")


def compare(found: dict[str, dict[str, float]], written: dict[str, dict[str, float]]) -> None:
    """Raises UserError where a measured number is not the written one, within 2 %."""
    for name, numbers in written.items():
        for key, value in numbers.items():
            now = found.get(name, {}).get(key, float("nan"))
            if not abs(now - value) <= TOLERANCE * abs(value):
                raise UserError(f"{name}: {key} is {now:.5g}, written down is {value:.5g}")


if __name__ == "__main__":
    with user_errors("measuring.minima"):
        main()
