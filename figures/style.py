"""What all figures share: colours, axes, and how they are saved."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    write_atomically(path, buffer.getvalue())
    plt.close(figure)
