"""Power laws: how the frequency of periods depends on ηλ."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import linregress, t


@dataclass(frozen=True)
class PowerLaw:
    """y = factor * x**exponent, fitted to logarithms by least squares.

    Attributes
    ----------
    exponent, factor : of the fit.
    low, high : confidence interval of the exponent (Student's t).
    """

    exponent: float
    factor: float
    low: float
    high: float

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.factor * np.asarray(x, dtype=float) ** self.exponent


def fit_power_law(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> PowerLaw:
    """Fit log y against log x, for the frequency of periods against ηλ (P1, section 4).

    Parameters
    ----------
    x, y : (n,) positive numbers, n >= 3; pairs with a NaN are left out.

    Raises
    ------
    ValueError : fewer than three pairs are left, or all x are the same.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 3 or np.ptp(x[known]) == 0:
        raise ValueError("a power law needs three pairs with different x")
    fit = linregress(np.log(x[known]), np.log(y[known]))
    width = t.ppf((1 + confidence) / 2, known.sum() - 2) * fit.stderr
    slope = float(fit.slope)
    return PowerLaw(slope, float(np.exp(fit.intercept)), slope - width, slope + width)
