"""Training loss, test error and norm of stored checkpoints at minima of periods.

    python -m measuring.minima        # of results/minima

Measures every checkpoint below a folder, with the config.json beside it, and compares the numbers
with those of minima.json; --write replaces that file.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import models
import runs
from measuring.rebuild import Evaluation
from options import Options, option, parse
from runs import checkpoints
from utils import UserError, user_errors, write_atomically

RECORD = "minima.json"
TOLERANCE = 0.02  # relative; machines differ in rounding


@dataclass(frozen=True)
class Minima(Options):
    """Which checkpoints to measure."""

    folder: str = option("results/minima", "search this folder for checkpoints")
    write: bool = option(False, "write minima.json instead of comparing with it")


def measure(folder: Path, path: Path) -> dict[str, float]:
    """Measure one checkpoint of the run in `folder`: its training loss with batch statistics, its
    test error (a fraction) with batch-norm statistics estimated anew, and ρ."""
    evaluation = Evaluation(runs.read_run(folder))
    checkpoints.load_into(evaluation.model, path)
    si_norm = models.norm(models.si_parameters(evaluation.model).values()).item()
    found = evaluation.measure()
    return {"loss": found["train_loss"], "error": found["test_error"], "si_norm": si_norm}


def main(argv: list[str] | None = None) -> None:
    options = parse(Minima, argv, "measuring.minima", __doc__)[0]
    root = Path(options.folder)
    measured = {
        path.relative_to(root).as_posix(): measure(path.parent, path)
        for path in sorted(root.rglob("checkpoint-*.pt"))
    }
    if not measured:
        raise UserError(f"no checkpoint below {root}")
    for name, numbers in measured.items():
        print(name, " ".join(f"{key} {value:.5g}" for key, value in numbers.items()))
    if options.write:
        write_atomically(root / RECORD, (json.dumps(measured, indent=1) + "\n").encode())
        return
    check(measured, json.loads((root / RECORD).read_text()))
    print(f"agrees with {root / RECORD}")


def check(measured: dict[str, dict[str, float]], recorded: dict[str, dict[str, float]]) -> None:
    """Raise UserError if a recorded number differs from the measured one by more than 2 %."""
    for name, numbers in recorded.items():
        for key, value in numbers.items():
            now = measured.get(name, {}).get(key, float("nan"))
            if not abs(now - value) <= TOLERANCE * abs(value):
                raise UserError(f"{name}: {key} is {now:.5g}, recorded {value:.5g}")


if __name__ == "__main__":
    with user_errors("measuring.minima"):
        main()
