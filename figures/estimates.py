"""Estimates over seeds, as the claims draw them: points, interval and margin."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from figures.style import COLOURS

VERDICTS = {"supported": COLOURS[2], "contradicted": COLOURS[3], "undecided": COLOURS[1]}


def estimates(found: Sequence[Any], title: str) -> Figure:
    """Each estimate on its own axis, with "name" and "verdict": its "seeds" (n,) as points, the
    interval "low" to "high" around its "value" as a bar, and any margin "inside" as a band."""
    size = (8, 0.85 * len(found) + 0.9)
    figure, axes = plt.subplots(len(found), 1, figsize=size, layout="constrained", squeeze=False)
    rng = np.random.default_rng(0)
    for axis, estimate in zip(axes[:, 0], found, strict=True):
        low, value, high = estimate.low, estimate.value, estimate.high
        seeds = np.asarray(estimate.seeds, dtype=float)
        ends = [v for v in (estimate.inside or ()) if np.isfinite(v)]
        shown = np.array([value, low, high, *seeds, *ends])
        shown = shown[np.isfinite(shown)]
        if len(shown) == 0:
            shown = np.zeros(1)
        room = 0.08 * (np.ptp(shown) or max(abs(shown[0]), 1e-6))
        left, right = shown.min() - room, shown.max() + room
        if estimate.inside:
            axis.axvspan(
                *np.clip(estimate.inside, left, right), color=COLOURS[2], alpha=0.15, linewidth=0
            )
        height = rng.uniform(-0.25, 0.25, len(seeds))
        axis.plot(seeds, height, "o", color="grey", alpha=0.6, markersize=4)
        colour = VERDICTS.get(estimate.verdict, "black")
        axis.plot([low, high], [0, 0], color=colour, linewidth=3)
        axis.plot(value, 0, "D", color=colour, markersize=7, markeredgecolor="white")
        axis.set(xlim=(left, right), ylim=(-0.6, 0.6), yticks=[])
        axis.set_title(
            f"{estimate.name}: {estimate.verdict or 'beside, not judged'}", loc="left", fontsize=9
        )
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=11, wrap=True)
    figure.supxlabel("points: seeds; bar: interval; band: where the claim holds", fontsize=8)
    return figure
