"""What all figures share: colours, axes, legends, and how they are saved."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter

from utils import write_atomically

DPI = 150
# Okabe and Ito's colours, distinguishable with every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
NARROWEST = {"log": 2.0, "linear": 1.1}  # ratio of an axis's ends: rounding is not magnified
TICKS = {"x": 5, "y": 7}  # labels at most
STEPS = (1, 2, 2.5, 5, 10)  # between labels
LEGEND_WIDTH = 60  # letters in a line of a legend


def colours(items: Sequence) -> list[str]:
    """A colour for each item: fixed colours for up to eight, else those of `shades`."""
    if len(items) <= len(COLOURS):
        return list(COLOURS[: len(items)])
    return shades(items)


def shades(items: Sequence) -> list[str]:
    """A colour for each of some ordered items, from a perceptually uniform scale."""
    places = np.linspace(0, 0.92, max(len(items), 1))
    return [to_hex(colour) for colour in plt.colormaps["viridis"](places)]


def describe(axis: Axes, title: str, x: str, y: str, xscale="linear", yscale="linear") -> None:
    """Set title, labels, scales and ticks of an axis, after everything has been drawn. A narrow
    range is not magnified, so a constant looks constant. An axis without data has no ticks."""
    axis.set(title=title, xlabel=x, ylabel=y)
    axis.grid(alpha=0.3)
    for name, scale in (("x", xscale), ("y", yscale)):
        side, set_limits = getattr(axis, f"{name}axis"), getattr(axis, f"set_{name}lim")
        low, high = _data_range(axis, name, positive=scale == "log")
        if not low <= high:
            side.set_ticks([])
            if not axis.texts:
                axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
            continue
        getattr(axis, f"set_{name}scale")(scale)
        if scale == "log" and high < NARROWEST[scale] * low:
            middle, factor = np.sqrt(low) * np.sqrt(high), np.sqrt(NARROWEST[scale])
            set_limits(middle / factor, middle * factor)
        elif scale == "linear" and name == "y":
            least = (NARROWEST[scale] - 1) * max(abs(low), abs(high)) or 1
            if high - low < least:
                set_limits((low + high - least) / 2, (low + high + least) / 2)
        if scale == "log":
            side.set_major_locator(_LogTicks(TICKS[name]))
            side.set_major_formatter(FuncFormatter(lambda value, _, side=side: _text(value, side)))
            side.set_minor_locator(LogLocator(subs=range(2, 10)))
            side.set_minor_formatter(NullFormatter())
        elif name == "x" and low == high:  # a single epoch
            side.set_ticks([low])
        else:
            side.set_major_locator(MaxNLocator(TICKS[name] - 1, steps=STEPS))


def _data_range(axis: Axes, name: str, positive: bool) -> tuple[float, float]:
    """The smallest and the largest number on an axis and on those that share its scale."""
    shared = getattr(axis, f"get_shared_{name}_axes")().get_siblings(axis)
    limits = [getattr(one.dataLim, f"interval{name}") for one in shared]
    lows, highs = zip(*limits, strict=True)
    if positive:
        lows = [getattr(one.dataLim, f"minpos{name}") for one in shared]
    return min(lows), max(highs)


class _LogTicks(Locator):
    """At most `most` ticks at round numbers on a logarithmic axis, for a range of any width."""

    def __init__(self, most: int):
        self.most = most

    def __call__(self) -> list[float]:
        low, high = sorted(self.axis.get_view_interval())
        decades = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        dense = ((1, 1.5, 2, 3, 4, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3))
        dense = [(1, digits) for digits in dense if high < 1000 * low]
        for every, digits in (*dense, *((every, (1,)) for every in (1, 2, 3, 5, 10, 20, 50))):
            ticks = [d * 10.0**e for e in decades if e % every == 0 for d in digits]
            ticks = [tick for tick in ticks if low <= tick <= high]
            gaps = np.diff(np.log(ticks)) * self.most
            if 2 <= len(ticks) <= self.most and gaps.min() > math.log(high / low):
                return ticks
        ticks = MaxNLocator(self.most - 1, steps=STEPS).tick_values(low, high)
        return [tick for tick in ticks if low <= tick <= high]


def _text(value: float, side) -> str:
    """A tick label of a logarithmic axis: plain near 1 in up to three decades, else a power."""
    low, high = sorted(side.get_view_interval())
    if high < 1000 * low and low >= 4e-4 and high < 2e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    digits = f"{value / 10.0**exponent:.3g}"
    return f"$10^{{{exponent}}}$" if digits == "1" else rf"${digits}\times10^{{{exponent}}}$"


def name_below(
    figure: Figure, named: Mapping[str, Artist | Sequence[Artist]], title: str | None = None
) -> None:
    """A legend of artists by name below all panels; the figure grows, and long names wrap."""
    if not named:
        return
    names = [textwrap.fill(name, LEGEND_WIDTH, break_on_hyphens=False) for name in named]
    width, height = figure.get_size_inches()
    longest = max(len(part) for name in names for part in name.split("\n"))
    columns = min(len(names), max(int(72 * width / (60 + 6.2 * longest)), 1))
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    texts = sum(max(name.count("\n") + 1 for name in row) for row in rows) + bool(title)
    figure.set_figheight(height + 0.2 * texts + 0.1)
    legend = figure.legend(
        list(named.values()), names, loc="outside lower center", ncols=columns, title=title,
        fontsize=10,
    )  # fmt: skip
    for line in legend.get_lines():
        if line.get_linestyle() != "None":
            line.set_linewidth(max(line.get_linewidth(), 2.5))


def sample(**style) -> Line2D:
    """A sample line, or a sample of a `marker`, for a legend."""
    if "marker" in style:
        style = {"color": "white", "markeredgecolor": "black", "linestyle": "", **style}
    return Line2D([], [], **style)


def save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    write_atomically(path, buffer.getvalue())
    plt.close(figure)
