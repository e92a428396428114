"""Which arrays the metrics options of test.py ask for."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

import models
from options import FROM_RUN, Machine, Measure, Metrics, Train, names

SUBSETS = ("normal", "corrupt")  # images with true labels, images with corrupted ones
TRACES = ("hess_trace", "fisher_trace")
# Option -> its arrays; not here: norms and sizes, and the traces of the subsets.
ARRAYS = {
    **{name: (name,) for name in (*TRACES, "hess_evals", "fisher_evals", "sharpness")},
    "eval_model": ("loss", "acc"),
    "eval_on_train_subsets": tuple(f"{what}_{s}" for s in SUBSETS for what in ("loss", "acc")),
    "calc_grad_norms": ("gnorm_m",),
    "calc_grad_norms_all": ("gnorm_all",),
    "calc_grads": ("gm_norm", "gs_norm"),
    "calc_batch_outliers": ("outliers_list",),
    "calc_probs_stats": ("p_stats",),
    "calc_grad_norms_param_groups": ("gnorm_m_param_groups",),
    "calc_cos_init": ("cos_init",),
    "calc_l2_init": ("l2_init",),
}
M = TypeVar("M", bound=Metrics)


def measure_as(options: Train) -> Measure:
    """The options with which test.py measures a run with these options; no metrics yet."""
    return Measure(**{name: getattr(options, name) for name in (*FROM_RUN, *names(Machine))})


def flags(metrics: Metrics) -> list[str]:
    """The options that are given."""
    return [name for name in names(Metrics) if getattr(metrics, name)]


def only(metrics: M, chosen: Collection[str]) -> M:
    """The same options with these metrics alone."""
    return replace(metrics, **{name: name in chosen for name in names(Metrics)})


def array_names(metrics: Metrics, parameters: Collection[str]) -> list[str]:
    """The names of all arrays that `Meter.measure` gives for these parameters."""
    given = flags(metrics)
    found = ["params_norm", "params_numel", *(a for flag in given for a in ARRAYS.get(flag, ()))]
    if metrics.all_pnorm:
        found += [f"{p}_{what}" for p in parameters for what in ("norm", "numel")]
    if metrics.eval_on_train_subsets:
        found += [f"{name}_{subset}" for name in TRACES if name in given for subset in SUBSETS]
    return found


def lacking(metrics: M, rows: Sequence[tuple[Collection[str], Collection[str]]]) -> M | None:
    """The options whose arrays are missing in some row; None if nothing is missing. A row is given
    by the names of its arrays and the parameters that it is about."""

    def lacks(chosen: Collection[str]) -> bool:
        asked = only(metrics, chosen)
        return any(not {*array_names(asked, parameters)} <= {*row} for row, parameters in rows)

    given = {*flags(metrics)}
    if not lacks(given):
        return None
    parts = [{flag, "eval_on_train_subsets"} & given if flag in TRACES else {flag}
             for flag in given]  # fmt: skip
    return only(metrics, set().union(*filter(lacks, parts)))


def parameter_names(model: torch.nn.Module, si_only: bool) -> list[str]:
    """All trainable parameters, or the scale-invariant ones, in the order of the network."""
    if si_only:
        return list(models.si_parameters(model))
    return [name for name, p in model.named_parameters() if p.requires_grad]
