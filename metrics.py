"""What is measured at one checkpoint: everything asked for, in one pass over the data.

(The eigenvalues alone need further passes: one for each product of the Lanczos iteration.)
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import curvature
import models
from data import ImageSet

TRACE_VECTORS = 5  # random unit vectors of a Hutchinson estimate
# Without batch statistics to respect, the size of a batch is only a matter of speed.
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Wanted:
    """What to measure; the fields are the options of test.py with these names."""

    eval_model: bool = False
    all_pnorm: bool = False
    calc_grad_norms: bool = False
    calc_grads: bool = False
    fisher_trace: bool = False
    fisher_evals: bool = False
    hess_trace: bool = False
    hess_evals: bool = False
    eval_on_train_subsets: bool = False

    @classmethod
    def from_options(cls, options) -> "Wanted":
        return cls(**{f.name: getattr(options, f.name) for f in fields(cls)})

    @property
    def gradients(self) -> bool:
        return self.calc_grad_norms or self.calc_grads

    @property
    def needs_data(self) -> bool:
        return self.eval_model or self.eval_on_train_subsets or self.gradients or bool(self.traces)

    @property
    def traces(self) -> dict[str, curvature.Product]:
        products = {
            "hess_trace": (self.hess_trace, curvature.hessian_product),
            "fisher_trace": (self.fisher_trace, curvature.fisher_product),
        }
        return {name: product for name, (wanted, product) in products.items() if wanted}

    @property
    def spectra(self) -> dict[str, curvature.Product]:
        products = {
            "hess_evals": (self.hess_evals, curvature.hessian_product),
            "fisher_evals": (self.fisher_evals, curvature.fisher_product),
        }
        return {name: product for name, (wanted, product) in products.items() if wanted}

    def scope_names(self, parameters: list[str]) -> list[str]:
        """The names of the arrays that depend on which parameters are meant."""
        names = ["params_norm", "params_numel"]
        if self.all_pnorm:
            names += [f"{p}_{what}" for p in parameters for what in ("norm", "numel")]
        names += ["gnorm_m"] * self.calc_grad_norms + ["gm_norm", "gs_norm"] * self.calc_grads
        return [*names, *self.traces, *self.spectra]

    def names(self, parameters: list[str]) -> list[str]:
        """The names of all arrays that `measure` gives for these parameters."""
        names = ["loss", "acc"] if self.eval_model else []
        if self.eval_on_train_subsets:
            names += ["loss_clean", "acc_clean", "loss_corrupted", "acc_corrupted"]
        return names + self.scope_names(parameters)


def parameter_names(model: nn.Module, si_only: bool) -> list[str]:
    """All parameters, or the scale-invariant ones, in the order of the network."""
    invariant = models.si_parameters(model)
    return [name for name, _ in model.named_parameters() if not si_only or name in invariant]


@contextlib.contextmanager
def mode(model: nn.Module, train_mode: bool) -> Iterator[None]:
    """Evaluate with batch statistics (train mode) or running ones, leaving the model as it was.

    In train mode the running statistics are neither used nor changed.
    """
    was_training = model.training
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [m.track_running_stats for m in norms]
    model.train(train_mode)
    for norm in norms:
        norm.track_running_stats = not train_mode
    try:
        yield
    finally:
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
        model.train(was_training)


class _GradientMoments:
    """Mean and standard deviation of vectors that come one by one (Welford's recursion)."""

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, vector: torch.Tensor) -> None:
        self.count += 1
        difference = vector - self.mean
        self.mean = self.mean + difference / self.count
        self.squares = self.squares + difference * (vector - self.mean)

    def norms(self, keep: torch.Tensor) -> tuple[float, float]:
        """Norms of the mean and of the standard deviation, over the elements in `keep`."""
        deviation = (self.squares / self.count).sqrt()
        return self.mean[keep].norm().item(), deviation[keep].norm().item()


def measure(
    model: nn.Module,
    images: ImageSet,
    wanted: Wanted,
    *,
    train_mode: bool,
    batch_size: int,
    scopes: dict[str, list[str]],
    augment_seed: int | None = None,
    vector_seed: int = 0,
) -> dict[str, dict[str, float | np.ndarray]]:
    """Measure one network on one image set.

    Parameters
    ----------
    train_mode : normalise with each batch's own statistics, batches in data-set order.
    scopes : sets of parameter names, each under a name of its own ("all", "si"): norms, gradients
        and curvature are measured for each of them, from the same pass.
    augment_seed : measure on images cropped and flipped with this seed; None: as they are.
    vector_seed : seed of the random unit vectors of the trace estimates.

    Returns
    -------
    scope -> name of the array (SPEC of test.py) -> a number, or (10,) eigenvalues. Of N images
    in B batches: loss and acc are means over the N images; gnorm_m is the mean over the B batches
    of the norm of the batch's gradient; gm_norm and gs_norm are the norms of the mean and the
    standard deviation of the B batch gradients.
    """
    parameters = dict(model.named_parameters())
    device = images.images.device
    if not train_mode and not wanted.gradients:
        batch_size = max(batch_size, EVALUATION_BATCH)

    def batches():
        generator = None if augment_seed is None else torch.Generator().manual_seed(augment_seed)
        return images.batches(batch_size, generator, augment=augment_seed is not None)

    sizes = {scope: sum(parameters[n].numel() for n in names) for scope, names in scopes.items()}
    vectors = {
        scope: _unit_vectors(size, vector_seed, device)
        for scope, size in sizes.items()
        if wanted.traces
    }
    sums = torch.zeros(2, 3, dtype=torch.float64, device=device)  # by corruption of the label
    norm_sums = {scope: torch.zeros((), dtype=torch.float64, device=device) for scope in scopes}
    trace_sums = {(scope, name): 0.0 for scope in scopes for name in wanted.traces}
    moments, batch_count, seen = _GradientMoments(), 0, 0

    with mode(model, train_mode):
        for x, y in batches() if wanted.needs_data else ():
            with torch.set_grad_enabled(wanted.gradients):
                logits = model(x)
            corrupted = images.corrupted[seen : seen + len(y)]
            seen, batch_count = seen + len(y), batch_count + 1
            sums += _image_sums(logits.detach(), y, corrupted)
            if wanted.gradients:
                loss = F.cross_entropy(logits, y)
                gradients = torch.autograd.grad(loss, list(parameters.values()))
                by_name = dict(zip(parameters, gradients, strict=True))
                for scope, names in scopes.items():
                    norm_sums[scope] += models.norm(by_name[n] for n in names)
                if wanted.calc_grads:
                    moments.add(curvature.flatten(gradients).double())
            for scope, name in trace_sums:
                trace_sums[scope, name] += len(y) * _quadratic_form(
                    wanted.traces[name], model, scopes[scope], (x, y), vectors[scope]
                )

        results: dict[str, dict[str, float | np.ndarray]] = {}
        for scope, names in scopes.items():
            chosen = [parameters[n] for n in names]
            row = results[scope] = {
                "params_norm": models.norm(chosen).item(),
                "params_numel": sizes[scope],
            }
            if wanted.all_pnorm:
                for name in names:
                    row[f"{name}_norm"] = models.norm([parameters[name]]).item()
                    row[f"{name}_numel"] = parameters[name].numel()
            if wanted.eval_model:
                row["loss"], row["acc"] = _means(sums.sum(0))
            if wanted.eval_on_train_subsets:
                row["loss_clean"], row["acc_clean"] = _means(sums[0])
                row["loss_corrupted"], row["acc_corrupted"] = _means(sums[1])
            if wanted.calc_grad_norms:
                row["gnorm_m"] = norm_sums[scope].item() / batch_count
            if wanted.calc_grads:
                keep = [torch.full((p.numel(),), n in names) for n, p in parameters.items()]
                row["gm_norm"], row["gs_norm"] = moments.norms(torch.cat(keep).to(device))
            for name in wanted.traces:
                row[name] = float(trace_sums[scope, name]) / len(images)
            for name, product in wanted.spectra.items():
                row[name] = curvature.leading_eigenvalues(product, model, names, batches)
    return results


def evaluate(model: nn.Module, images: ImageSet) -> dict[str, float]:
    """Mean loss and accuracy (a fraction) in eval mode."""
    scopes = {"si": parameter_names(model, si_only=True)}
    wanted = Wanted(eval_model=True)
    rows = measure(model, images, wanted, train_mode=False, batch_size=1, scopes=scopes)
    return {"loss": rows["si"]["loss"], "accuracy": rows["si"]["acc"]}


def _image_sums(
    logits: torch.Tensor, labels: torch.Tensor, corrupted: torch.Tensor
) -> torch.Tensor:
    """Number of images, sum of losses, right answers; for true and corrupted labels: (2, 3)."""
    losses = F.cross_entropy(logits, labels, reduction="none").double()
    correct = (logits.argmax(1) == labels).double()
    each = torch.stack([torch.ones_like(losses), losses, correct], 1)
    kind = torch.stack([~corrupted, corrupted]).double()
    return kind @ each


def _means(sums: torch.Tensor) -> tuple[float, float]:
    """Mean loss and accuracy; NaN where there is no image."""
    count, loss, correct = sums.cpu()
    return (loss / count).item(), (correct / count).item()


def _unit_vectors(size: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(TRACE_VECTORS, size, generator=generator)
    return (vectors / vectors.norm(dim=1, keepdim=True)).to(device)


def _quadratic_form(product, model, names, batch, vectors) -> torch.Tensor:
    """Mean of v^T A v over random unit vectors v; its expectation is trace(A) / dimension."""
    like = [model.get_parameter(name) for name in names]
    forms = [
        v @ curvature.flatten(product(model, names, batch, curvature.split_like(v, like)))
        for v in vectors
    ]
    return torch.stack(forms).mean().double()
