"""What a step of SGD does to the scale-invariant (SI) weights, as the papers derive it.

Symbols: η learning rate, λ weight decay, ρ norm of the SI weights, g̃ effective gradient, η̃ = η/ρ².
For Adam and its kin only the effective rate is defined here, η/ρ.
"""

import numpy as np
from numpy.typing import ArrayLike

# What the name of an optimiser holds -> power of ρ in the effective rate; the first that is there
POWERS = {
    **dict.fromkeys(("lars", "lamb", "asgd"), None),  # steps that grow with ρ, or a rate that falls
    **dict.fromkeys(("adam", "rmsprop", "adagrad", "lion", "muon", "sign", "norm"), 1),
    "sgd": 2,
}


def norm_power(name: str) -> int | None:
    """The power p of ρ in the effective learning rate η / ρ^p of an optimiser.

    The gradient of scale-invariant weights is proportional to 1 / ρ, so a step of SGD turns them by
    an angle proportional to η / ρ²: p = 2 (P1, section 2). The steps of Adam (AdamW, NAdam, RAdam,
    Adamax), RMSprop, Adagrad, Lion, Muon and of
    normalised gradients or their signs do not depend on the size of the gradients, so
    theirs is proportional to η / ρ: p = 1, whether weight decay is coupled or not. The steps of
    Adafactor, LARS and LAMB grow with ρ, and Adadelta, Rprop and L-BFGS have sizes of their own:
    they are not known here.

    Parameters
    ----------
    name : of the optimiser, in any case of letters.

    Returns
    -------
    None for an optimiser that is not known.
    """
    return next((power for word, power in POWERS.items() if word in name.lower()), None)


def effective_lr(
    lr: ArrayLike, si_norm: ArrayLike, optimizer: str | int | None = "sgd"
) -> np.ndarray:
    """Effective learning rate η̃ = η / ρ^p, elementwise: η / ρ² for SGD (P1, section 2), η / ρ for
    Adam and AdamW (`norm_power`).

    Parameters
    ----------
    lr, si_norm : η and ρ; where ρ is not a positive number, the result is NaN.
    optimizer : its name, or p.

    Returns
    -------
    NaN for an optimiser that is not known.
    """
    power = norm_power(optimizer) if isinstance(optimizer, str) else optimizer
    lr, si_norm = np.asarray(lr, dtype=float), np.asarray(si_norm, dtype=float)
    valid = np.where(si_norm > 0, si_norm, np.nan)
    return lr / valid ** (np.nan if power is None else power)


def effective_gradient_norm(gradient_norm: ArrayLike, si_norm: ArrayLike) -> np.ndarray:
    """Norm of the effective gradient, ‖g̃‖ = ρ ‖g‖: the gradient at w / ρ (P1, section 2)."""
    return np.asarray(gradient_norm) * np.asarray(si_norm)


def effective_step(lr: ArrayLike, si_norm: ArrayLike, gradient_norm: ArrayLike) -> np.ndarray:
    """Effective step η̃ ‖g̃‖ = η ‖g‖ / ρ of a gradient of norm ‖g‖ (P1, section 2), elementwise."""
    return np.asarray(lr) * gradient_norm / np.asarray(si_norm)


def next_norm(
    si_norm: ArrayLike, gradient_norm: ArrayLike, lr: ArrayLike, wd: ArrayLike
) -> np.ndarray:
    """Norm ρ' of the SI weights after a step of SGD (P1, section 2), elementwise.

    ρ'² = (1 - ηλ)² ρ² + η² ‖g̃‖² / ρ², exact since the gradient is orthogonal to the weights.

    Parameters
    ----------
    si_norm : ρ > 0 before the step.
    gradient_norm : norm ‖g̃‖ of the effective gradient.
    lr, wd : η and λ.
    """
    rho, kept = np.asarray(si_norm), 1 - np.asarray(lr) * wd
    return np.sqrt((kept * rho) ** 2 + (np.asarray(lr) * gradient_norm / rho) ** 2)


def step_cosine(effective_step: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """Cosine of the angle between the SI weights before and after a step (P1, section 2).

    cos(w, w') = (1 - ηλ) / sqrt((1 - ηλ)² + s²) for the effective step s = η̃ ‖g̃‖, elementwise.
    """
    kept = 1 - np.asarray(lr) * wd
    return kept / np.hypot(kept, effective_step)


def jump_threshold(delta: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """The effective step η̃ ‖g̃‖ above which a step is a δ-jump, 1 - cos(w, w') > δ.

    (1 - ηλ) sqrt(2δ - δ²) / (1 - δ), for 0 < δ < 1 (P1, section 2); elementwise.

    Raises
    ------
    ValueError : a δ that is not between 0 and 1.
    """
    delta = np.asarray(delta, dtype=float)
    if not np.all((delta > 0) & (delta < 1)):
        raise ValueError("delta must lie between 0 and 1")
    return (1 - np.asarray(lr) * wd) * np.sqrt(2 * delta - delta**2) / (1 - delta)


def equilibrium_norm(gradient_norm: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """The norm ρ* that steps with effective gradients of a constant norm ‖g̃‖ lead to.

    ρ*⁴ = η ‖g̃‖² / (λ (2 - ηλ)), the fixed point of `next_norm` (P1, section 2); elementwise.
    """
    lr, wd = np.asarray(lr), np.asarray(wd)
    return (lr * np.asarray(gradient_norm) ** 2 / (wd * (2 - lr * wd))) ** 0.25


def equilibrium_angle(
    decay: float, momentum: float = 0.0, *, nesterov: bool = False, decoupled: bool = False
) -> float:
    """RMS angle of a step, in radians, where weight decay and random gradients are in balance.

    Decay takes a fraction κ of the norm a step, and a gradient acts on the weights in steps of
    sizes c₀, c₁, ... (momentum). ρ² then stays as it is if 2κρ² = (Σc)² ‖g‖², and a step turns the
    weights by an angle of square (Σc²) ‖g‖² / ρ² = 2κ Σc² / (Σc)². SGD with momentum α:
    sqrt(2ηλ / (1 + α)); AdamW: sqrt(2ηλ (1 - β₁) / (1 + β₁)) (Wan et al. 2021, arXiv 2006.08419;
    Kosson et al. 2024, arXiv 2305.17212, table 1).

    Parameters
    ----------
    decay : ηλ.
    momentum : α of SGD (with `nesterov`: Nesterov's), or β₁ of AdamW, whose decay is `decoupled`.
    """
    if decoupled:
        return float(np.sqrt(2 * decay * (1 - momentum) / (1 + momentum)))
    if nesterov:
        squares = (1 + momentum) ** 2 + momentum**4 / (1 - momentum**2)
        return float(np.sqrt(2 * decay * (1 - momentum) * squares))
    return float(np.sqrt(2 * decay / (1 + momentum)))


def steps_between(
    high: float, low: float, lr: float, wd: float, gradient_norm: float = 0.0
) -> float:
    """Steps that the norm ρ takes to fall from `high` to `low`: a bound on the steps of a period.

    With negligible gradients ρ decays by 1 - ηλ a step and takes
    ln(high / low) / -ln(1 - ηλ) steps (P1, section 2). Gradients only slow it down, so no fall is
    faster: this is the lower bound, and the frequency of periods is proportional to ηλ.

    Given the largest norm ‖g̃‖ of an effective gradient on the way, the result is an upper bound:
    above `low`, x = ρ² obeys x' <= a x + b with a = (1 - ηλ)² and b = (η ‖g̃‖ / low)², which falls
    below low² after ln((high² - c) / (low² - c)) / -ln(a) steps, c = b / (1 - a). Infinite where
    low² <= c, that is where `low` is not above the `equilibrium_norm` of ‖g̃‖.

    Raises
    ------
    ValueError : not high >= low > 0, or ηλ not between 0 and 1.
    """
    if not (high >= low > 0 and 0 < lr * wd < 1):
        raise ValueError("needs high >= low > 0 and 0 < lr * wd < 1")
    kept = (1 - lr * wd) ** 2
    floor = (lr * gradient_norm / low) ** 2 / (1 - kept)
    if low**2 <= floor:
        return float("inf")
    return float(np.log((high**2 - floor) / (low**2 - floor)) / -np.log(kept))
