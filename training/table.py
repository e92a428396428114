"""The table that a training run prints."""

import sys
from typing import Any

from tqdm import tqdm


def _column(value: float, width: int, decimals: int) -> str:
    """A number in its column; as a power of ten where it is too long for that."""
    text = f"{value:{width}.{decimals}f}"
    return text if len(text) <= width else f"{value:{width}.2e}"


class Table:
    """One line per evaluated epoch on a terminal; in a log one per epoch, as in official logs."""

    HEADER = "epoch        lr  train loss  train err %  test loss  test err %         ρ  s/epoch"
    REPEATED = 40  # lines between two headers

    def __init__(self):
        self.lines = 0

    @staticmethod
    def watched() -> bool:
        """Whether the output is a terminal."""
        return sys.stdout.isatty()

    def show(self, row: dict[str, Any], evaluated: bool) -> None:
        if evaluated or not self.watched():
            if self.lines % self.REPEATED == 0:
                tqdm.write(self.HEADER)
            test = f"{'':9}  {'':10}"
            if row["test_loss"] is not None:
                test = f"{_column(row['test_loss'], 9, 4)}  {100 - 100 * row['test_acc']:10.2f}"
            tqdm.write(
                f"{row['epoch']:5} {row['lr']:9.4g}  {_column(row['train_loss'], 10, 6)}"
                f"  {100 - 100 * row['train_acc']:11.2f}  {test}  {_column(row['si_norm'], 8, 4)}"
                f"  {row['seconds']:7.2f}"
            )
            self.lines += 1
        sys.stdout.flush()
