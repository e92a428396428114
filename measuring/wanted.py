"""What to measure, by the options of test.py that ask for it, and the arrays that come of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch

import models
from measuring import curvature

SUBSETS = ("normal", "corrupt")  # images with true labels, images with corrupted ones
# Option -> its arrays. These depend on the parameters that are meant (all, or the SI ones) ...
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


@dataclass(frozen=True)
class Wanted:
    """What to measure; the fields are the options of test.py with these names."""

    eval_model: bool = False
    eval_on_train_subsets: bool = False
    all_pnorm: bool = False
    calc_grad_norms: bool = False
    calc_grad_norms_all: bool = False
    calc_grad_norms_param_groups: bool = False
    calc_grads: bool = False
    calc_batch_outliers: bool = False
    calc_probs_stats: bool = False
    calc_cos_init: bool = False
    calc_l2_init: bool = False
    fisher_trace: bool = False
    fisher_evals: bool = False
    hess_trace: bool = False
    hess_evals: bool = False
    sharpness: bool = False

    @classmethod
    def from_flags(cls, flags: Iterable[str]) -> "Wanted":
        """What these flags of test.py ask for; those that say how to measure are left out."""
        names = {f.name for f in fields(cls)}
        return cls(**{flag: True for flag in flags if flag in names})

    @property
    def flags(self) -> list[str]:
        return [f.name for f in fields(self) if getattr(self, f.name)]

    def lacking(self, lacks: Callable[[list[str]], bool], parameters: list[str]) -> set[str]:
        """The fields that are asked for and of whose arrays `lacks` says that some are missing."""
        found = set()
        for flag in self.flags:
            part = self.from_flags([flag])
            if flag in self.traces and self.eval_on_train_subsets:
                part = self.from_flags([flag, "eval_on_train_subsets"])
            if lacks(part.names(parameters)):
                found |= set(part.flags)
        return found

    @property
    def gradients(self) -> bool:
        """Whether the gradients of the batches are needed."""
        return any(name.startswith("calc_grad") for name in self.flags)

    @property
    def by_batch(self) -> bool:
        """Whether some array depends on which images are a batch, also in evaluation mode."""
        return self.gradients or self.calc_batch_outliers or self.calc_probs_stats

    @property
    def needs_initial(self) -> bool:
        """Whether the weights of checkpoint 0 are needed."""
        return self.calc_cos_init or self.calc_l2_init

    @property
    def needs_data(self) -> bool:
        return self.eval_model or self.eval_on_train_subsets or self.by_batch or bool(self.traces)

    @property
    def traces(self) -> dict[str, curvature.Product]:
        return self._products("trace")

    @property
    def spectra(self) -> dict[str, curvature.Product]:
        return self._products("evals")

    def _products(self, what: str) -> dict[str, curvature.Product]:
        named = {f"{kind}_{what}": product for kind, product in PRODUCTS.items()}
        return {name: product for name, product in named.items() if getattr(self, name)}

    def names(self, parameters: list[str]) -> list[str]:
        """The names of all arrays that `Meter.measure` gives for these parameters."""
        names = ["params_norm", "params_numel"]
        if self.all_pnorm:
            names += [f"{p}_{what}" for p in parameters for what in ("norm", "numel")]
        names += [name for flag in self.flags for name in (SCOPED | SHARED).get(flag, ())]
        if self.eval_on_train_subsets:
            names += [f"{trace}_{subset}" for trace in self.traces for subset in SUBSETS]
        return names


def parameter_names(model: torch.nn.Module, si_only: bool) -> list[str]:
    """All parameters, or the scale-invariant ones, in the order of the network."""
    invariant = models.si_parameters(model)
    return [name for name, _ in model.named_parameters() if not si_only or name in invariant]
