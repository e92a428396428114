"""Products with the Hessian and the Fisher matrix of a network's loss; traces and eigenvalues.

The products are autograd's, batch by batch; the eigenvalues are SciPy's (ARPACK's Lanczos method).
The Fisher matrix is J^T H J, averaged over images, with J the derivative of the logits by the
weights and H the Hessian of the loss by the logits. For the softmax cross-entropy H is
diag(p) - p p^T with p the network's own probabilities: the expectation over labels is taken exactly
(Martens, 2020, arXiv 1412.1193, section 9). For the squared loss it is 2/C times the identity.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from training.loss import Loss

Tensors = list[torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]

EIGENVALUES = 10  # leading ones
EIGENVALUE_TOLERANCE = 1e-4  # relative
SHARPNESS_TOLERANCE = 1e-3


def flatten(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def split_like(vector: torch.Tensor, tensors: Tensors) -> Tensors:
    """The inverse of `flatten`: pieces of a vector with the shapes of `tensors`."""
    pieces = vector.split([t.numel() for t in tensors])
    return [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]


def hessian_product(
    model: nn.Module, names: list[str], batch: Batch, v: Tensors, loss: Loss, weights: torch.Tensor
) -> Tensors:
    """H v for the weighted sum of a batch's losses, over the parameters `names`.

    v has the parameters' shapes, `weights` are (B,): all 1/B for the mean loss.
    """
    images, labels = batch
    parameters = [model.get_parameter(name) for name in names]
    total = loss(model(images), labels) @ weights
    gradient = torch.autograd.grad(total, parameters, create_graph=True)
    slope = sum((g * u).sum() for g, u in zip(gradient, v, strict=True))
    return list(torch.autograd.grad(slope, parameters))


def fisher_product(
    model: nn.Module, names: list[str], batch: Batch, v: Tensors, loss: Loss, weights: torch.Tensor
) -> Tensors:
    """(Fisher matrix) v, the images weighted as in `hessian_product`.

    It is J^T H J with H the Hessian of each image's loss by its logits.
    """
    parameters = {name: model.get_parameter(name) for name in names}

    def logits_of(weights):
        return torch.func.functional_call(model, weights, (batch[0],))

    directions = dict(zip(names, v, strict=True))
    logits, change = torch.func.jvp(logits_of, (parameters,), (directions,))
    outputs = logits.detach().requires_grad_()
    total = loss(outputs, batch[1]) @ weights
    (slope,) = torch.autograd.grad(total, outputs, create_graph=True)
    (change,) = torch.autograd.grad(slope, outputs, change.detach())
    return list(torch.autograd.grad(logits, list(parameters.values()), change))


Product = Callable[[nn.Module, list[str], Batch, Tensors, Loss, torch.Tensor], Tensors]


def mean_product(
    product: Product,
    model: nn.Module,
    names: list[str],
    batches: Iterable[Batch],
    v: torch.Tensor,
    loss: Loss,
) -> torch.Tensor:
    """A matrix times a flat vector, averaged over all images of the batches: a flat vector."""
    directions = split_like(v, [model.get_parameter(name) for name in names])
    total, images = torch.zeros_like(v), 0
    for batch in batches:
        weights = torch.ones_like(batch[1], dtype=v.dtype)
        total += flatten(product(model, names, batch, directions, loss, weights))
        images += len(weights)
    return total / images


def leading_eigenvalues(
    product: Product,
    model: nn.Module,
    names: list[str],
    batches: Callable[[], Iterable[Batch]],
    loss: Loss,
) -> np.ndarray:
    """The largest eigenvalues, descending: float64, (10,).

    Every product is one pass over `batches()`. The start vector is fixed, so the result is
    reproducible. All are NaN for a network whose products are not finite.
    """

    def multiply(v: torch.Tensor) -> torch.Tensor:
        return mean_product(product, model, names, batches(), v, loss)

    like = flatten(model.get_parameter(name) for name in names)
    return _eigenvalues(multiply, like, EIGENVALUES, EIGENVALUE_TOLERANCE)


def sharpness(
    model: nn.Module, names: list[str], batches: Callable[[], Iterable[Batch]], loss: Loss
) -> float:
    """The largest eigenvalue of the loss's Hessian on the unit sphere of the SI weights `names`.

    With w all these weights as one vector, ρ = ‖w‖ and u = w / ρ it is that of ρ² P H P, where H
    is the Hessian at w, ρ² H the one at u, and P = I - u uᵀ projects onto the sphere's tangent
    space. Since the gradient is orthogonal to u, the sphere's own curvature adds nothing.
    Descent with the effective learning rate η̃ is stable at a minimum if η̃ times it is below 2.
    """
    w = flatten(model.get_parameter(name) for name in names).detach()
    norm = torch.linalg.vector_norm(w)
    u = w / norm

    def project(v: torch.Tensor) -> torch.Tensor:
        return v - u * (u @ v)

    def multiply(v: torch.Tensor) -> torch.Tensor:
        product = mean_product(hessian_product, model, names, batches(), project(v), loss)
        return norm**2 * project(product)

    return float(_eigenvalues(multiply, w, 1, SHARPNESS_TOLERANCE)[0])


def _eigenvalues(
    multiply: Callable[[torch.Tensor], torch.Tensor],
    like: torch.Tensor,
    count: int,
    tolerance: float,
) -> np.ndarray:
    """The largest eigenvalues, descending, of a symmetric matrix given by its products."""
    from scipy.sparse.linalg import LinearOperator, eigsh  # slow to import, and rarely asked for

    def matvec(vector: np.ndarray) -> np.ndarray:
        v = torch.as_tensor(vector, dtype=like.dtype, device=like.device).reshape(-1)
        result = multiply(v).cpu().double().numpy()
        if not np.isfinite(result).all():
            raise FloatingPointError
        return result

    operator = LinearOperator((len(like), len(like)), matvec=matvec, dtype=np.float64)
    start = np.random.RandomState(0).standard_normal(len(like))
    try:
        values = eigsh(
            operator, count, which="LA", v0=start, tol=tolerance, return_eigenvectors=False
        )
    except FloatingPointError:
        return np.full(count, np.nan)
    return np.sort(values)[::-1]
