"""The table that a training run prints."""

import sys
from typing import Any

from tqdm import tqdm

HEADER = "epoch        lr  train loss  train err %  test loss  test err %         ρ  s/epoch"
REPEATED = 40  # rows between two headers


def _column(value: float, width: int, decimals: int) -> str:
    """A number in its column; as a power of ten where it is too long for that."""
    text = f"{value:{width}.{decimals}f}"
    return text if len(text) <= width else f"{value:{width}.2e}"


def print_row(row: dict[str, Any], number: int) -> None:
    """Print a row of log.csv; `number` counts those printed before it."""
    if number % REPEATED == 0:
        tqdm.write(HEADER)
    test = " " * 21
    if row["test_loss"] is not None:
        test = f"{_column(row['test_loss'], 9, 4)}  {100 - 100 * row['test_acc']:10.2f}"
    tqdm.write(
        f"{row['epoch']:5} {row['lr']:9.4g}  {_column(row['train_loss'], 10, 6)}"
        f"  {100 - 100 * row['train_acc']:11.2f}  {test}  {_column(row['si_norm'], 8, 4)}"
        f"  {row['seconds']:7.2f}"
    )
    sys.stdout.flush()
