"""What is measured of a network: everything asked for, in one pass over the data.

Eigenvalues alone need further passes: one for each product of the Lanczos iteration.
"""

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import models
from data import ImageSet
from measuring import curvature, distance, sums, wanted
from measuring.wanted import SUBSETS, parameter_names
from options import Measure
from training.capture import Captured
from training.device import autocast, products, seed_from
from training.loss import LOSSES

TRACE_VECTORS = 5  # random unit vectors of a Hutchinson estimate
# Without batch statistics the size of a batch only matters for speed.
EVALUATION_BATCH = {"cpu": 200, "cuda": 2000}


@contextlib.contextmanager
def mode(model: nn.Module, train_mode: bool) -> Iterator[None]:
    """Evaluate with batch statistics (train mode) or running ones, leaving the model as it was. In
    train mode running statistics are not updated: forward derivatives do not support it. Changes
    that other layers make to their buffers are undone afterwards."""
    was_training = [(module, module.training) for module in model.modules()]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    tracked = [norm.track_running_stats for norm in norms]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    model.train(train_mode)
    for norm, track in zip(norms, tracked, strict=True):
        norm.track_running_stats = track and not train_mode
    try:
        yield
    finally:
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
        for module, name, buffer, before in buffers:
            module._buffers[name] = buffer
            if buffer is not None:
                buffer.copy_(before)
        for module, training in was_training:
            module.training = training


class Meter:
    """Measures one network, as its weights change, on one image set.

    Parameters
    ----------
    options : what to measure, and how. Of them the metrics, train_mode (batches in data-set order),
        batch_size, use_squared_loss, use_aug, precision, compile and seed (of the augmentation and
        the trace estimates) count here; curvature is always exact.
    scopes : sets of parameter names, each with a name ("all", "si"). Norms, gradients and curvature
        are measured for each set, in the same pass. None: "all" alone.
    initial : weights by name to compare with, for cos_init and l2_init.
    progress : show on a terminal how far a pass is, and which product of an eigenvalue it is for.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        options: Measure,
        scopes: Mapping[str, list[str]] | None = None,
        initial: Mapping[str, torch.Tensor] | None = None,
        progress: bool = False,
    ):
        self.model, self.images, self.options = model, images, options
        self.initial, self.progress = initial, progress
        self.loss = LOSSES[options.use_squared_loss]
        self.network = torch.compile(model, dynamic=False) if options.compile else model
        self.device = images.images.device
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.scopes = scopes or {"all": list(self.parameters)}
        self.invariant = parameter_names(model, si_only=True)
        self.captured = Captured(self.device)

        given = wanted.flags(options)
        self.traces = [name for name in wanted.TRACES if name in given]
        self.needs_gradients = any(flag.startswith("calc_grad") for flag in given)
        # What depends on which images are in a batch, even in evaluation mode.
        by_batch = self.needs_gradients or options.calc_batch_outliers or options.calc_probs_stats
        averages = options.eval_model or options.eval_on_train_subsets
        self.needs_data = bool(by_batch or averages or self.traces)
        self.batch_size = options.batch_size
        if not options.train_mode and not by_batch:
            self.batch_size = max(self.batch_size, EVALUATION_BATCH[self.device.type])
        self._make_sums()

    def _make_sums(self) -> None:
        """What a pass adds up. It stays on the device until the pass is over."""
        options, classes, device = self.options, self.images.num_classes, self.device
        batches = math.ceil(len(self.images) / self.batch_size)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        def rows(asked: bool, *shape: int, dtype=torch.float64) -> sums.Rows:
            return sums.Rows(batches if asked else 0, shape, dtype, device)

        self.sums = zeros(len(SUBSETS), 3)
        self.norms = rows(self.needs_gradients, len(self.scopes))
        self.outliers = rows(options.calc_batch_outliers, classes, dtype=torch.int64)
        shape = (len(sums.CLASS_STATISTICS), classes, classes)
        self.class_statistics = rows(options.calc_probs_stats, *shape, dtype=torch.float32)
        self.filter_sums = zeros(sum(len(self.parameters[n]) for n in self.invariant))
        total = sum(p.numel() for p in self.parameters.values())
        self.moments = sums.GradientMoments(total if options.calc_grads else 0, device)
        parts = len(SUBSETS) if options.eval_on_train_subsets else 1
        self.trace_sums = {(scope, t): zeros(parts) for scope in self.scopes for t in self.traces}
        self.vectors = {
            scope: _unit_vectors(self._size(scope), seed_from(options.seed), device)
            for scope in (self.scopes if self.traces else ())
        }

    def _size(self, scope: str) -> int:
        return sum(self.parameters[name].numel() for name in self.scopes[scope])

    def measure(self) -> dict[str, dict[str, float | np.ndarray]]:
        """One pass over the images with the present weights: scope -> name of the array -> value.

        Of N images in B batches and C classes:

        loss, acc : means over the N images; with the suffix _normal or _corrupt, over those with
            true or corrupted labels (in the batches of the whole set). The traces likewise.
        gnorm_m : mean over the B batches of the norm of the batch's gradient; gnorm_all : (B,),
            these norms; gnorm_m_param_groups : (filters,), the means of each filter of each SI
            weight, one weight after the other.
        gm_norm, gs_norm : norms of the mean and standard deviation (n - 1) of the batch gradients.
        outliers_list : (B, C), `sums.outliers`; p_stats : (5, B, C, C), `sums.class_statistics`.
        cos_init, l2_init : cosine of the SI weights with the initial ones, distance of all weights
            from them.
        hess_evals, fisher_evals : (10,); sharpness is that of the SI weights.
        """
        for gathered in (self.norms, self.outliers, self.class_statistics, self.moments):
            gathered.zero()
        for tensor in (self.sums, self.filter_sums, *self.trace_sums.values()):
            tensor.zero_()
        seen = 0
        seed = seed_from(self.options.seed)
        with mode(self.model, self.options.train_mode), models.random_numbers(seed):
            for x, y in self._batches("one pass") if self.needs_data else ():
                corrupted = self.images.corrupted[seen : seen + len(y)]
                with products(self.options.precision):
                    self.captured(self._add_batch, x, y, corrupted)
                self._add_traces(x, y, corrupted)
                seen += len(y)
            shared = self._shared_results()
            return {scope: {**shared, **self._results(scope)} for scope in self.scopes}

    def _batches(self, shown: str) -> Iterable[curvature.Batch]:
        """The batches of a pass, with a bar of this name on a terminal if progress is shown. A
        network that draws random numbers, as dropout, draws the same ones in every pass."""
        seed = seed_from(self.options.seed)
        models.reseed(seed)
        generator = torch.Generator().manual_seed(seed)
        batches = self.images.batches(self.batch_size, generator, augment=self.options.use_aug)
        total = math.ceil(len(self.images) / self.batch_size)
        return tqdm(batches, shown, total, leave=False, disable=None if self.progress else True)

    def _passes(self, what: str) -> curvature.Passes:
        """A function that gives the batches for one product after the other."""
        number = itertools.count(1)
        return lambda: self._batches(f"{what}, product {next(number)}")

    def _add_batch(self, x: torch.Tensor, y: torch.Tensor, corrupted: torch.Tensor) -> None:
        options = self.options
        with torch.set_grad_enabled(self.needs_gradients):
            with autocast(options.precision, self.device):
                logits = self.network(x).float()
            losses = self.loss(logits, y)
        logits = logits.detach()
        self.sums += sums.image_sums(losses.detach(), logits, y, corrupted)
        if options.calc_batch_outliers:
            self.outliers.add(sums.outliers(logits, y))
        if options.calc_probs_stats:
            self.class_statistics.add(sums.class_statistics(logits, y))
        if self.needs_gradients:
            parameters = list(self.parameters.values())
            gradients = torch.autograd.grad(losses.mean(), parameters, **curvature.UNUSED)
            by_name = dict(zip(self.parameters, gradients, strict=True))
            scopes = self.scopes.values()
            self.norms.add(torch.stack([models.norm(by_name[n] for n in s) for s in scopes]))
            if options.calc_grad_norms_param_groups:
                self.filter_sums += sums.filter_norms([by_name[n] for n in self.invariant])
            if options.calc_grads:
                self.moments.add(curvature.flatten(gradients).double())

    def _add_traces(self, x: torch.Tensor, y: torch.Tensor, corrupted: torch.Tensor) -> None:
        parts = [torch.ones_like(corrupted)]
        if self.options.eval_on_train_subsets:
            parts = [~corrupted, corrupted]
        for (scope, name), total in self.trace_sums.items():
            product, vectors = curvature.PRODUCTS[name.split("_")[0]], self.vectors[scope]
            for i, part in enumerate(parts):
                total[i] += _quadratic_form(
                    product, self.model, self.scopes[scope], (x, y), vectors, self.loss, part
                )

    def _shared_results(self) -> dict[str, float | np.ndarray]:
        """What does not depend on the scope, from the sums of a finished pass."""
        options, row = self.options, {}
        if options.eval_model:
            row["loss"], row["acc"] = _means(self.sums.sum(0))
        if options.eval_on_train_subsets:
            for subset, part in zip(SUBSETS, self.sums, strict=True):
                row[f"loss_{subset}"], row[f"acc_{subset}"] = _means(part)
        if options.calc_batch_outliers:
            row["outliers_list"] = self.outliers.numpy()
        if options.calc_probs_stats:
            row["p_stats"] = self.class_statistics.numpy().swapaxes(0, 1)
        if options.calc_grad_norms_param_groups:
            row["gnorm_m_param_groups"] = (self.filter_sums / len(self.norms.values)).cpu().numpy()
        if options.calc_cos_init:
            row["cos_init"] = distance.cosine(self.parameters, self.initial, self.invariant)
        if options.calc_l2_init:
            row["l2_init"] = distance.l2(self.parameters, self.initial, self.parameters)
        if options.sharpness:
            row["sharpness"] = curvature.sharpness(
                self.model, self.invariant, self._passes("sharpness"), self.loss
            )
        return row

    def _results(self, scope: str) -> dict[str, float | np.ndarray]:
        """What depends on the scope, from the sums of a finished pass."""
        options, names, parameters = self.options, self.scopes[scope], self.parameters
        norms = models.norms(parameters[n] for n in names)
        row: dict[str, float | np.ndarray] = {}
        if options.all_pnorm:  # first: a parameter may be called "params" or "gm"
            for name, norm in zip(names, norms.tolist(), strict=True):
                row |= {f"{name}_norm": norm, f"{name}_numel": parameters[name].numel()}
        row["params_norm"] = torch.linalg.vector_norm(norms).item()
        row["params_numel"] = self._size(scope)
        gradient_norms = self.norms.numpy()[:, list(self.scopes).index(scope)]
        if options.calc_grad_norms:
            row["gnorm_m"] = gradient_norms.mean()
        if options.calc_grad_norms_all:
            row["gnorm_all"] = gradient_norms
        if options.calc_grads:
            keep = [torch.full((p.numel(),), n in names) for n, p in parameters.items()]
            row["gm_norm"], row["gs_norm"] = self.moments.norms(torch.cat(keep))
        for name in self.traces:
            total = self.trace_sums[scope, name]
            row[name] = (total.sum() / len(self.images)).item()
            if options.eval_on_train_subsets:
                means = (total / self.sums[:, 0]).tolist()
                row |= {f"{name}_{s}": mean for s, mean in zip(SUBSETS, means, strict=True)}
        for kind, product in curvature.PRODUCTS.items():
            name = f"{kind}_evals"
            if getattr(options, name):
                row[name] = curvature.leading_eigenvalues(
                    product, self.model, names, self._passes(name), self.loss
                )
        return row


def _means(sums: torch.Tensor) -> tuple[float, float]:
    """Mean loss and accuracy; NaN where there is no image."""
    count, loss, correct = sums.cpu()
    return (loss / count).item(), (correct / count).item()


def _unit_vectors(size: int, seed: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(TRACE_VECTORS, size, generator=generator)
    return (vectors / vectors.norm(dim=1, keepdim=True)).to(device)


def _quadratic_form(product, model, names, batch, vectors, loss, weights) -> torch.Tensor:
    """Mean of v^T A v over random unit vectors v; its expectation is trace(A) / dimension."""
    like = [model.get_parameter(name) for name in names]
    weights = weights.to(vectors.dtype)
    forms = []
    for v in vectors:
        pieces = product(model, names, batch, curvature.split_like(v, like), loss, weights)
        forms.append(v @ curvature.flatten(pieces).to(v))
    return torch.stack(forms).mean().double()
