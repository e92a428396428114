"""Hessian and Fisher matrix of a network's loss: products with vectors, leading eigenvalues.

Products are computed by automatic differentiation, batch by batch; eigenvalues by SciPy's eigsh
(ARPACK's Lanczos method). The Fisher matrix is the mean over images of J^T H J, where J is the
Jacobian of the logits with respect to the weights and H the Hessian of the loss with respect to the
logits. For the cross-entropy H is diag(p) - p p^T, with p the predicted probabilities, so the
expectation over labels is exact (Martens, 2020, arXiv 1412.1193, section 9). For the squared loss
it is 2/C times the identity.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from training.loss import Loss

Tensors = list[torch.Tensor]
Batch = tuple[torch.Tensor, torch.Tensor]
Passes = Callable[[], Iterable[Batch]]  # every call is a pass over the data

EIGENVALUES = 10  # leading ones
EIGENVALUE_TOLERANCE = 1e-4  # relative
SHARPNESS_TOLERANCE = 1e-3
# A parameter that the loss does not depend on has a gradient of zero.
UNUSED = {"allow_unused": True, "materialize_grads": True}


def flatten(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def split_like(vector: torch.Tensor, tensors: Tensors) -> Tensors:
    """The inverse of `flatten`: pieces of a vector with the shapes and types of `tensors`."""
    pieces = vector.split([t.numel() for t in tensors])
    return [piece.view(t.shape).to(t.dtype) for piece, t in zip(pieces, tensors, strict=True)]


def _precise(logits: torch.Tensor) -> torch.Tensor:
    """The same logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def hessian_product(
    model: nn.Module, names: list[str], batch: Batch, v: Tensors, loss: Loss, weights: torch.Tensor
) -> Tensors:
    """H v, with H the Hessian, in the parameters `names`, of the sum of a batch's losses with
    `weights` (B,); 1/B each gives the mean. `v` and the result have the parameters' shapes."""
    images, labels = batch
    parameters = [model.get_parameter(name) for name in names]
    losses = loss(_precise(model(images)), labels)
    total = losses @ weights.to(losses)
    gradient = torch.autograd.grad(total, parameters, create_graph=True, **UNUSED)
    slope = sum((g * u).sum() for g, u in zip(gradient, v, strict=True))
    if not slope.requires_grad:  # the loss is linear in these parameters
        return [torch.zeros_like(u) for u in v]
    return list(torch.autograd.grad(slope, parameters, **UNUSED))


def fisher_product(
    model: nn.Module, names: list[str], batch: Batch, v: Tensors, loss: Loss, weights: torch.Tensor
) -> Tensors:
    """F v, with F the weighted sum of the images' Fisher matrices; see `hessian_product`."""
    parameters = {name: model.get_parameter(name) for name in names}
    # Every place of a shared parameter, but each module once: functional_call leaves its weights
    # behind in a module that it is given under two names.
    known = {id(p): name for name, p in parameters.items()}
    places = {
        f"{owner}.{key}".removeprefix("."): known[id(p)]
        for owner, module in model.named_modules()
        for key, p in module._parameters.items()
        if id(p) in known
    }

    def logits_of(weights):
        placed = {place: weights[name] for place, name in places.items()}
        call = torch.func.functional_call
        return _precise(call(model, placed, (batch[0],), tie_weights=False))

    directions = dict(zip(names, v, strict=True))
    logits, change = torch.func.jvp(logits_of, (parameters,), (directions,))
    outputs = logits.detach().requires_grad_()
    losses = loss(outputs, batch[1])
    total = losses @ weights.to(losses)
    (slope,) = torch.autograd.grad(total, outputs, create_graph=True)
    (change,) = torch.autograd.grad(slope, outputs, change.detach())
    return list(torch.autograd.grad(logits, list(parameters.values()), change, **UNUSED))


Product = Callable[[nn.Module, list[str], Batch, Tensors, Loss, torch.Tensor], Tensors]
PRODUCTS: dict[str, Product] = {"hess": hessian_product, "fisher": fisher_product}


def mean_product(
    product: Product,
    model: nn.Module,
    names: list[str],
    batches: Iterable[Batch],
    v: torch.Tensor,
    loss: Loss,
) -> torch.Tensor:
    """A product of the matrix averaged over all images of the batches with a flat vector."""
    directions = split_like(v, [model.get_parameter(name) for name in names])
    total, images = torch.zeros_like(v), 0
    for batch in batches:
        weights = torch.ones_like(batch[1], dtype=v.dtype)
        total += flatten(product(model, names, batch, directions, loss, weights))
        images += len(weights)
    return total / images


def leading_eigenvalues(
    product: Product, model: nn.Module, names: list[str], batches: Passes, loss: Loss
) -> np.ndarray:
    """The ten largest eigenvalues, descending: float64, (10,); all NaN if a product is not finite
    or ARPACK does not converge. Every product takes one pass over `batches()`. The start vector is
    fixed, as are the results."""

    def multiply(v: torch.Tensor) -> torch.Tensor:
        return mean_product(product, model, names, batches(), v, loss)

    like = flatten(model.get_parameter(name) for name in names)
    return _eigenvalues(multiply, like, EIGENVALUES, EIGENVALUE_TOLERANCE)


def sharpness(model: nn.Module, names: list[str], batches: Passes, loss: Loss) -> float:
    """Leading eigenvalue of the Hessian on the unit sphere of the SI weights `names`.

    With these weights as one vector w, ρ = ‖w‖ and u = w / ρ, it is that of ρ² P H P: H is the
    Hessian at w, ρ² H that at u, and P = I - u uᵀ projects onto the tangent space. The curvature of
    the sphere adds nothing, as the gradient is orthogonal to u. Gradient descent at effective
    learning rate η̃ is stable at a minimum if η̃ times this eigenvalue is below 2.
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
    """The largest eigenvalues, descending, of the symmetric matrix that `multiply` applies."""
    # Slow to import, and rarely asked for
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

    largest = 0.0  # of all products

    def matvec(vector: np.ndarray) -> np.ndarray:
        nonlocal largest
        v = torch.as_tensor(vector, dtype=like.dtype, device=like.device).reshape(-1)
        result = multiply(v).cpu().double().numpy()
        if not np.isfinite(result).all():
            raise FloatingPointError
        largest = max(largest, np.abs(result).max())
        return result

    operator = LinearOperator((len(like), len(like)), matvec=matvec, dtype=np.float64)
    start = np.random.RandomState(0).standard_normal(len(like))
    try:
        values = eigsh(
            operator, count, which="LA", v0=start, tol=tolerance, return_eigenvectors=False
        )
    except (FloatingPointError, ArpackNoConvergence):
        return np.full(count, np.nan)
    except ArpackError:  # as of a saturated network
        if largest:
            raise
        return np.zeros(count)
    return np.sort(values)[::-1]
