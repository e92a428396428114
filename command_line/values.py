"""Types of values. Each raises ValueError or ArgumentTypeError with what would be right."""

import math
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence

from utils import nearest


def number(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    off: float | None = None,
    whole: bool = False,
) -> Callable[[str], float]:
    """A finite (or whole) number from low to high; an `open_` end is excluded, `off` taken too."""
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'>' if open_low else '>='} {low:g}")
    if high < math.inf:
        bounds.append(f"{'<' if open_high else '<='} {high:g}")
    words = f"a {'whole' if whole else 'finite'} number {' and '.join(bounds)}".strip()
    words += "" if off is None else f", or {off:g}"

    def parse(text: str) -> float:
        value = int(text) if whole else float(text)
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        if value != off and not (-math.inf < value < math.inf and above and below):
            raise ArgumentTypeError(f"{text} is not {words}")
        return value

    parse.__name__ = "whole number" if whole else "number"
    return parse


def integer(low: int, high: float = math.inf) -> Callable[[str], int]:
    """A whole number from low to high."""
    return number(low, high, whole=True)


def one_of(known: Sequence[str]) -> Callable[[str], str]:
    """One of the known names; the nearest one is suggested for a misspelt one."""

    def parse(text: str) -> str:
        if text not in known:
            raise ArgumentTypeError(
                f"unknown name {text!r}{nearest(text, known)}; known: {', '.join(known)}"
            )
        return text

    return parse


def whole_numbers(text: str) -> list[int]:
    """Whole numbers >= 0, separated by commas."""
    return [integer(0)(part) for part in text.split(",")]


def chosen_epochs(text: str) -> Sequence[int]:
    """Whole numbers separated by commas, or every n-th from 0 on: 'every10' or 'every 10'."""
    every = re.fullmatch(r"every[ _]?([1-9]\d*)", text)
    if every:
        return range(0, sys.maxsize, int(every[1]))
    try:
        return whole_numbers(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not epochs: 0,100,200 or every10") from None


def key_values(text: str) -> dict[str, str]:
    """name=value pairs, separated by commas."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and separator for name, separator, _ in pairs):
        raise ArgumentTypeError(f"{text!r} is not name=value,name=value")
    return {name.removeprefix("--"): value for name, _, value in pairs}
