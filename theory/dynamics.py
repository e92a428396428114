"""What a training step does to the scale-invariant (SI) weights, as the papers derive it.

Symbols: η learning rate, λ weight decay, ρ norm of the SI weights, g gradient, g̃ = ρ g effective
gradient, η̃ effective learning rate. Arrays are taken elementwise.
"""

import numpy as np
from numpy.typing import ArrayLike

# Part of an optimiser's name -> power of ρ in its effective rate; the first match counts.
POWERS = {
    **dict.fromkeys(("lars", "lamb", "asgd"), None),  # steps that grow with ρ; a rate that falls
    **dict.fromkeys(("adam", "rmsprop", "adagrad", "lion", "muon", "sign", "norm"), 1),
    "sgd": 2,
}


def norm_power(name: str) -> int | None:
    """The power p in the effective learning rate η / ρ^p of an optimiser; None if it is unknown.

    The gradient of scale-invariant weights is proportional to 1 / ρ, so a step of SGD turns them by
    an angle proportional to η / ρ²: p = 2 (P1, section 2). The steps of Adam and its variants,
    RMSprop, Adagrad, Lion, Muon, and of normalised gradients or their signs, do not depend on the
    size of the gradients: p = 1, whether weight decay is coupled or not. It is unknown for
    Adafactor, LARS and LAMB, whose steps grow with ρ, and for Adadelta, Rprop and L-BFGS, which
    choose their own step sizes.
    """
    return next((power for word, power in POWERS.items() if word in name.lower()), None)


def effective_lr(
    lr: ArrayLike, si_norm: ArrayLike, optimizer: str | int | None = "sgd"
) -> np.ndarray:
    """Effective learning rate η̃ = η / ρ^p: η / ρ² for SGD (P1, section 2), η / ρ for Adam. The
    optimiser is given by its name or p (see `norm_power`). NaN if it is unknown, and where ρ is not
    a positive number."""
    power = norm_power(optimizer) if isinstance(optimizer, str) else optimizer
    lr, si_norm = np.asarray(lr, dtype=float), np.asarray(si_norm, dtype=float)
    known = (si_norm > 0) & (power is not None)
    return lr / np.where(known, si_norm, np.nan) ** (power or 1)


def effective_gradient_norm(gradient_norm: ArrayLike, si_norm: ArrayLike) -> np.ndarray:
    """Norm of the effective gradient, ‖g̃‖ = ρ ‖g‖: that of the gradient at w / ρ (P1, sec. 2)."""
    return np.asarray(gradient_norm) * np.asarray(si_norm)


def effective_step(lr: ArrayLike, si_norm: ArrayLike, gradient_norm: ArrayLike) -> np.ndarray:
    """Effective step η̃ ‖g̃‖ = η ‖g‖ / ρ of SGD, for a gradient of norm ‖g‖ (P1, section 2)."""
    return np.asarray(lr) * gradient_norm / np.asarray(si_norm)


def next_norm(
    si_norm: ArrayLike, gradient_norm: ArrayLike, lr: ArrayLike, wd: ArrayLike
) -> np.ndarray:
    """Norm ρ' after a step of SGD, for an effective gradient of norm ‖g̃‖ (P1, section 2):
    ρ'² = (1 - ηλ)² ρ² + η² ‖g̃‖² / ρ², exact since the gradient is orthogonal to the weights."""
    rho, kept = np.asarray(si_norm), 1 - np.asarray(lr) * wd
    return np.sqrt((kept * rho) ** 2 + (np.asarray(lr) * gradient_norm / rho) ** 2)


def jump_threshold(delta: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """The effective step η̃ ‖g̃‖ above which a step of SGD is a δ-jump, 1 - cos(w, w') > δ:
    (1 - ηλ) sqrt(2δ - δ²) / (1 - δ), from cos(w, w') = (1 - ηλ) / sqrt((1 - ηλ)² + η̃² ‖g̃‖²)
    (P1, section 2). Raises ValueError for a δ that is not between 0 and 1."""
    delta = np.asarray(delta, dtype=float)
    if not np.all((delta > 0) & (delta < 1)):
        raise ValueError("delta must lie between 0 and 1")
    return (1 - np.asarray(lr) * wd) * np.sqrt(2 * delta - delta**2) / (1 - delta)


def equilibrium_norm(gradient_norm: ArrayLike, lr: ArrayLike, wd: ArrayLike) -> np.ndarray:
    """The norm ρ* to which effective gradients of a constant norm ‖g̃‖ lead (P1, section 2):
    ρ*⁴ = η ‖g̃‖² / (λ (2 - ηλ)), the fixed point of `next_norm`."""
    lr, wd = np.asarray(lr), np.asarray(wd)
    return (lr * np.asarray(gradient_norm) ** 2 / (wd * (2 - lr * wd))) ** 0.25


def equilibrium_angle(
    decay: float, momentum: float = 0.0, *, nesterov: bool = False, decoupled: bool = False
) -> float:
    """RMS angle of a step, in radians, where weight decay and random gradients are in balance.

    Decay takes a fraction κ off the norm a step, and a gradient acts on the weights in steps of
    sizes c₀, c₁, ... (momentum). ρ² then stays as it is if 2κρ² = (Σc)² ‖g‖², and a step turns the
    weights by an angle of square (Σc²) ‖g‖² / ρ² = 2κ Σc² / (Σc)². It is sqrt(2ηλ / (1 + α)) for
    SGD with momentum α, and sqrt(2ηλ (1 - β₁) / (1 + β₁)) for AdamW (Wan et al. 2021, arXiv
    2006.08419; Kosson et al. 2024, arXiv 2305.17212, table 1). `decay` is ηλ; `momentum` is α, or
    with `decoupled` decay β₁.
    """
    if decoupled:
        return float(np.sqrt(2 * decay * (1 - momentum) / (1 + momentum)))
    if nesterov:
        squares = (1 + momentum) ** 2 + momentum**4 / (1 - momentum**2)
        return float(np.sqrt(2 * decay * (1 - momentum) * squares))
    return float(np.sqrt(2 * decay / (1 + momentum)))
