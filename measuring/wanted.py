"""Which arrays the metrics options of test.py ask for, and what is needed to measure them."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

import torch

import models
from measuring import curvature
from options import Metrics, names

SUBSETS = ("normal", "corrupt")  # images with true labels, images with corrupted ones
# Option -> its arrays. These depend on the parameters that are measured (all, or the SI ones) ...
SCOPED = {
    "calc_grad_norms": ("gnorm_m",),
    "calc_grad_norms_all": ("gnorm_all",),
    "calc_grads": ("gm_norm", "gs_norm"),
    "hess_trace": ("hess_trace",),
    "fisher_trace": ("fisher_trace",),
    "hess_evals": ("hess_evals",),
    "fisher_evals": ("fisher_evals",),
}
# ... and these do not.
SHARED = {
    "eval_model": ("loss", "acc"),
    "eval_on_train_subsets": tuple(f"{what}_{s}" for s in SUBSETS for what in ("loss", "acc")),
    "calc_batch_outliers": ("outliers_list",),
    "calc_probs_stats": ("p_stats",),
    "calc_grad_norms_param_groups": ("gnorm_m_param_groups",),
    "calc_cos_init": ("cos_init",),
    "calc_l2_init": ("l2_init",),
    "sharpness": ("sharpness",),
}
PRODUCTS = {"hess": curvature.hessian_product, "fisher": curvature.fisher_product}
M = TypeVar("M", bound=Metrics)


def flags(metrics: Metrics) -> list[str]:
    """The options that are given."""
    return [name for name in names(Metrics) if getattr(metrics, name)]


def only(metrics: M, chosen: Collection[str]) -> M:
    """The same options, but these metrics alone."""
    return replace(metrics, **{name: name in chosen for name in names(Metrics)})


def array_names(metrics: Metrics, parameters: list[str]) -> list[str]:
    """The names of all arrays that `Meter.measure` gives for these parameters."""
    found = ["params_norm", "params_numel"]
    if metrics.all_pnorm:
        found += [f"{p}_{what}" for p in parameters for what in ("norm", "numel")]
    found += [name for flag in flags(metrics) for name in (SCOPED | SHARED).get(flag, ())]
    if metrics.eval_on_train_subsets:
        found += [f"{trace}_{subset}" for trace in traces(metrics) for subset in SUBSETS]
    return found


def lacking(
    metrics: Metrics, lacks: Callable[[list[str]], bool], parameters: list[str]
) -> set[str]:
    """The options that are given and some of whose arrays are missing, according to `lacks`."""
    found = set()
    for flag in flags(metrics):
        part = {flag}
        if flag in traces(metrics) and metrics.eval_on_train_subsets:
            part.add("eval_on_train_subsets")
        if lacks(array_names(only(metrics, part), parameters)):
            found |= part
    return found


def gradients(metrics: Metrics) -> bool:
    """Whether the gradients of the batches are needed."""
    return any(flag.startswith("calc_grad") for flag in flags(metrics))


def by_batch(metrics: Metrics) -> bool:
    """Whether some array depends on which images are a batch, also in evaluation mode."""
    return gradients(metrics) or metrics.calc_batch_outliers or metrics.calc_probs_stats


def needs_data(metrics: Metrics) -> bool:
    return (
        metrics.eval_model
        or metrics.eval_on_train_subsets
        or by_batch(metrics)
        or bool(traces(metrics))
    )


def traces(metrics: Metrics) -> dict[str, curvature.Product]:
    """The traces asked for: name of the array -> product of the matrix with a vector."""
    return _products(metrics, "trace")


def spectra(metrics: Metrics) -> dict[str, curvature.Product]:
    """The leading eigenvalues asked for: name of the array -> product of the matrix."""
    return _products(metrics, "evals")


def _products(metrics: Metrics, what: str) -> dict[str, curvature.Product]:
    named = {f"{kind}_{what}": product for kind, product in PRODUCTS.items()}
    return {name: product for name, product in named.items() if getattr(metrics, name)}


def parameter_names(model: torch.nn.Module, si_only: bool) -> list[str]:
    """All trainable parameters, or the scale-invariant ones, in the order of the network."""
    if si_only:
        invariant = models.si_parameters(model)
        return [name for name, _ in model.named_parameters() if name in invariant]
    return [name for name, p in model.named_parameters() if p.requires_grad]
