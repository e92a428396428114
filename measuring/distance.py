"""How far the weights of two networks are apart."""

from collections.abc import Iterable, Mapping

import torch

Weights = Mapping[str, torch.Tensor]


def _pair(a: Weights, b: Weights, names: Iterable[str]) -> list[torch.Tensor]:
    names = list(names)
    return [torch.cat([s[name].detach().double().flatten() for name in names]) for s in (a, b)]


def cosine(a: Weights, b: Weights, names: Iterable[str]) -> float:
    """Cosine of the angle between the weights `names` of two networks, each as one vector."""
    return torch.nn.functional.cosine_similarity(*_pair(a, b, names), dim=0).item()


def l2(a: Weights, b: Weights, names: Iterable[str]) -> float:
    """Euclidean distance of the weights `names` of two networks, each as one vector."""
    one, two = _pair(a, b, names)
    return torch.linalg.vector_norm(one - two).item()
