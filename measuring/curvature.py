"""Products with the Hessian and the Fisher matrix of a network's loss; traces and eigenvalues.

The products are autograd's, batch by batch; the eigenvalues are SciPy's (ARPACK's Lanczos method).
The Fisher matrix of the softmax cross-entropy is J^T (diag(p) - p p^T) J, averaged over images,
with J the derivative of the logits by the weights and p the network's own probabilities: the
expectation over labels is taken exactly (Martens, 2020, arXiv 1412.1193, section 9).
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

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


def hessian_product(model: nn.Module, names: list[str], batch: Batch, v: Tensors) -> Tensors:
    """H v for the mean loss of one batch, over the parameters `names`; v has their shapes."""
    images, labels = batch
    parameters = [model.get_parameter(name) for name in names]
    loss = F.cross_entropy(model(images), labels)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    slope = sum((g * u).sum() for g, u in zip(gradient, v, strict=True))
    return list(torch.autograd.grad(slope, parameters))


def fisher_product(model: nn.Module, names: list[str], batch: Batch, v: Tensors) -> Tensors:
    """(Fisher matrix) v for one batch, over the parameters `names`; v has their shapes."""
    parameters = {name: model.get_parameter(name) for name in names}

    def logits_of(weights):
        return torch.func.functional_call(model, weights, (batch[0],))

    directions = dict(zip(names, v, strict=True))
    logits, change = torch.func.jvp(logits_of, (parameters,), (directions,))
    p = logits.detach().softmax(1)
    change = change.detach()
    change = (p * change - p * (p * change).sum(1, keepdim=True)) / len(p)
    return list(torch.autograd.grad(logits, list(parameters.values()), change))


Product = Callable[[nn.Module, list[str], Batch, Tensors], Tensors]


def mean_product(
    product: Product, model: nn.Module, names: list[str], batches: Iterable[Batch], v: torch.Tensor
) -> torch.Tensor:
    """A matrix times a flat vector, averaged over all images of the batches: a flat vector."""
    directions = split_like(v, [model.get_parameter(name) for name in names])
    total, images = torch.zeros_like(v), 0
    for batch in batches:
        count = len(batch[1])
        total += count * flatten(product(model, names, batch, directions))
        images += count
    return total / images


def leading_eigenvalues(
    product: Product, model: nn.Module, names: list[str], batches: Callable[[], Iterable[Batch]]
) -> np.ndarray:
    """The largest eigenvalues, descending: float64, (10,).

    Every product is one pass over `batches()`. The start vector is fixed, so the result is
    reproducible. All are NaN for a network whose products are not finite.
    """

    def multiply(v: torch.Tensor) -> torch.Tensor:
        return mean_product(product, model, names, batches(), v)

    like = flatten(model.get_parameter(name) for name in names)
    return _eigenvalues(multiply, like, EIGENVALUES, EIGENVALUE_TOLERANCE)


def sharpness(model: nn.Module, names: list[str], batches: Callable[[], Iterable[Batch]]) -> float:
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
        product = mean_product(hessian_product, model, names, batches(), project(v))
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
