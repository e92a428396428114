"""What is measured of a network: everything asked for, in one pass over the data.

(The eigenvalues alone need further passes: one for each product of the Lanczos iteration.)
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import models
from data import ImageSet
from measuring import curvature
from training.capture import Captured
from training.device import products

TRACE_VECTORS = 5  # random unit vectors of a Hutchinson estimate
# Without batch statistics to respect, the size of a batch is only a matter of speed.
EVALUATION_BATCH = {"cpu": 200, "cuda": 2000}


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
    sharpness: bool = False

    @classmethod
    def from_flags(cls, flags: Iterable[str]) -> "Wanted":
        """What these flags of test.py ask for; those that say how to measure are left out."""
        names = {f.name for f in fields(cls)}
        return cls(**{flag: True for flag in flags if flag in names})

    def lacking(self, lacks: Callable[[list[str]], bool], parameters: list[str]) -> set[str]:
        """The fields that are asked for and of whose arrays `lacks` says that some are missing."""
        asked = [f.name for f in fields(self) if getattr(self, f.name)]
        return {flag for flag in asked if lacks(self.from_flags([flag]).names(parameters))}

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
        """The names of all arrays that `Meter.measure` gives for these parameters."""
        names = ["loss", "acc"] if self.eval_model else []
        if self.eval_on_train_subsets:
            names += ["loss_clean", "acc_clean", "loss_corrupted", "acc_corrupted"]
        if self.sharpness:
            names += ["sharpness"]
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

    def __init__(self, size: int, device: torch.device):
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean, self.squares = (torch.zeros(size).double().to(device) for _ in range(2))

    def zero(self) -> None:
        for tensor in (self.count, self.mean, self.squares):
            tensor.zero_()

    def add(self, vector: torch.Tensor) -> None:
        self.count += 1
        difference = vector - self.mean
        self.mean += difference / self.count
        self.squares += difference * (vector - self.mean)

    def norms(self, keep: torch.Tensor) -> tuple[float, float]:
        """Norms of the mean and of the standard deviation, over the elements in `keep`."""
        deviation = (self.squares / self.count).sqrt()
        return self.mean[keep].norm().item(), deviation[keep].norm().item()


class Meter:
    """Measures one network, as its weights change, on one image set.

    Parameters
    ----------
    train_mode : normalise with each batch's own statistics, batches in data-set order.
    scopes : sets of parameter names, each under a name of its own ("all", "si"): norms, gradients
        and curvature are measured for each of them, from the same pass.
    augment_seed : measure on images cropped and flipped with this seed; None: as they are.
    vector_seed : seed of the random unit vectors of the trace estimates.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        wanted: Wanted,
        *,
        train_mode: bool,
        batch_size: int,
        scopes: dict[str, list[str]],
        augment_seed: int | None = None,
        vector_seed: int = 0,
    ):
        self.model, self.images, self.wanted = model, images, wanted
        self.train_mode, self.scopes, self.augment_seed = train_mode, scopes, augment_seed
        self.batch_size = batch_size
        device = images.images.device
        if not train_mode and not wanted.gradients:
            self.batch_size = max(batch_size, EVALUATION_BATCH[device.type])
        self.parameters = dict(model.named_parameters())
        self.sizes = {
            scope: sum(self.parameters[n].numel() for n in names) for scope, names in scopes.items()
        }
        self.vectors = {
            scope: _unit_vectors(size, vector_seed, device)
            for scope, size in self.sizes.items()
            if wanted.traces
        }
        # What a pass adds up. All of it stays on the device until the pass is over.
        self.sums = torch.zeros(2, 3, dtype=torch.float64, device=device)  # by label corruption
        self.norm_sums = torch.zeros(len(scopes), dtype=torch.float64, device=device)
        self.trace_sums = {
            (scope, name): torch.zeros((), dtype=torch.float64, device=device)
            for scope in scopes
            for name in wanted.traces
        }
        total = sum(p.numel() for p in self.parameters.values())
        self.moments = _GradientMoments(total if wanted.calc_grads else 0, device)
        self.add_batch = Captured(self._add_batch, device)

    def measure(self) -> dict[str, dict[str, float | np.ndarray]]:
        """One pass over the images with the network's present weights, in exact float32.

        Returns
        -------
        scope -> name of the array -> a number, or (10,) eigenvalues. Of N images in B batches:
        loss and acc are means over the N images; gnorm_m is the mean over the B batches of the
        norm of the batch's gradient; gm_norm and gs_norm are the norms of the mean and the
        standard deviation of the B batch gradients; sharpness is that of the SI weights.
        """
        for tensor in (self.sums, self.norm_sums, *self.trace_sums.values()):
            tensor.zero_()
        self.moments.zero()
        seen, batch_count = 0, 0
        with mode(self.model, self.train_mode), products("fp32"):
            for x, y in self._batches() if self.wanted.needs_data else ():
                self.add_batch(x, y, self.images.corrupted[seen : seen + len(y)])
                for scope, name in self.trace_sums:
                    self.trace_sums[scope, name] += len(y) * _quadratic_form(
                        self.wanted.traces[name],
                        self.model,
                        self.scopes[scope],
                        (x, y),
                        self.vectors[scope],
                    )
                seen, batch_count = seen + len(y), batch_count + 1
            rows = {scope: self._results(scope, seen, batch_count) for scope in self.scopes}
            if self.wanted.sharpness:
                invariant = parameter_names(self.model, si_only=True)
                value = curvature.sharpness(self.model, invariant, self._batches)
                rows = {scope: {**row, "sharpness": value} for scope, row in rows.items()}
            return rows

    def _batches(self) -> Iterator[curvature.Batch]:
        seed = self.augment_seed
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return self.images.batches(self.batch_size, generator, augment=seed is not None)

    def _add_batch(self, x: torch.Tensor, y: torch.Tensor, corrupted: torch.Tensor) -> None:
        with torch.set_grad_enabled(self.wanted.gradients):
            logits = self.model(x)
        self.sums += _image_sums(logits.detach(), y, corrupted)
        if self.wanted.gradients:
            loss = F.cross_entropy(logits, y)
            gradients = torch.autograd.grad(loss, list(self.parameters.values()))
            by_name = dict(zip(self.parameters, gradients, strict=True))
            self.norm_sums += torch.stack(
                [models.norm(by_name[n] for n in names) for names in self.scopes.values()]
            )
            if self.wanted.calc_grads:
                self.moments.add(curvature.flatten(gradients).double())

    def _results(self, scope: str, images: int, batches: int) -> dict[str, float | np.ndarray]:
        """The row of one scope, from the sums of a finished pass."""
        wanted, names, parameters = self.wanted, self.scopes[scope], self.parameters
        norms = torch.stack(torch._foreach_norm([parameters[n] for n in names], 2, torch.float64))
        row = {
            "params_norm": torch.linalg.vector_norm(norms).item(),
            "params_numel": self.sizes[scope],
        }
        if wanted.all_pnorm:
            for name, norm in zip(names, norms.tolist(), strict=True):
                row[f"{name}_norm"] = norm
                row[f"{name}_numel"] = parameters[name].numel()
        if wanted.eval_model:
            row["loss"], row["acc"] = _means(self.sums.sum(0))
        if wanted.eval_on_train_subsets:
            row["loss_clean"], row["acc_clean"] = _means(self.sums[0])
            row["loss_corrupted"], row["acc_corrupted"] = _means(self.sums[1])
        if wanted.calc_grad_norms:
            row["gnorm_m"] = self.norm_sums[list(self.scopes).index(scope)].item() / batches
        if wanted.calc_grads:
            keep = [torch.full((p.numel(),), n in names) for n, p in parameters.items()]
            row["gm_norm"], row["gs_norm"] = self.moments.norms(torch.cat(keep))
        for name in wanted.traces:
            row[name] = self.trace_sums[scope, name].item() / images
        for name, product in wanted.spectra.items():
            row[name] = curvature.leading_eigenvalues(product, self.model, names, self._batches)
        return row


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
