"""What all figures share: colours, axes, and how they are saved."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation

from utils import write_atomically

DPI = 150
# Okabe and Ito's colours, distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")


def colours(items: Sequence) -> list[str]:
    """A colour for each item: fixed ones for a few, a perceptually even scale for many."""
    if len(items) <= len(COLOURS):
        return list(COLOURS[: len(items)])
    return shades(items)


def shades(items: Sequence) -> list[str]:
    """A colour for each of some ordered items, on a perceptually even scale."""
    return list(plt.colormaps["viridis"](np.linspace(0, 0.92, max(len(items), 1))))


def describe(axis: Axes, title: str, x: str, y: str, xscale="linear", yscale="linear") -> None:
    axis.set(title=title, xlabel=x, ylabel=y, xscale=xscale, yscale=yscale)
    axis.grid(alpha=0.3)
    for side, scale in ((axis.xaxis, xscale), (axis.yaxis, yscale)):
        if scale == "log":
            side.set_major_formatter(_Plain())
            side.set_minor_formatter(_Plain(minor_thresholds=(2, 0.5)))


class _Plain(LogFormatterSciNotation):
    """On a logarithmic axis of up to two decades, unless they are small: 3 and 20, not 2 × 10¹."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        label = super().__call__(x, pos)
        low, high = sorted(self.axis.get_view_interval())
        return f"{x:g}" if label and 0.1 <= 100 * low >= high else label


def name_below(figure: Figure, lines: Sequence[Line2D], names: Sequence[str]) -> None:
    """A legend of the lines below all panels, in as many columns as its names leave room for."""
    points = 72 * figure.get_size_inches()[0]
    columns = int(points / (55 + 6 * max(map(len, names), default=1)))  # a handle, gaps, a letter
    columns = min(len(names), max(columns, 1))
    legend = figure.legend(lines, names, loc="outside lower center", ncols=columns)
    for line in legend.get_lines():
        line.set_linewidth(3)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    write_atomically(path, buffer.getvalue())
    plt.close(figure)
