"""Angles and distances between the weights of two networks."""

from collections.abc import Iterable, Mapping

import torch

Weights = Mapping[str, torch.Tensor]


def _vectors(a: Weights, b: Weights, names: Iterable[str]) -> list[torch.Tensor]:
    names = list(names)
    return [torch.cat([s[name].detach().double().flatten() for name in names]) for s in (a, b)]


def cosine(a: Weights, b: Weights, names: Iterable[str]) -> float:
    """Cosine of the angle between the weights `names` of two networks, each as one vector."""
    return torch.nn.functional.cosine_similarity(*_vectors(a, b, names), dim=0).item()


def angle(a: Weights, b: Weights, names: Iterable[str]) -> float:
    """Angle in radians between the weights `names` of two networks, each as one vector. Accurate
    near 0 and π, where the arc cosine is not (Kahan, 2006, "How Futile are Mindless Assessments of
    Roundoff", section 12)."""
    u, v = (w / torch.linalg.vector_norm(w) for w in _vectors(a, b, names))
    norm = torch.linalg.vector_norm
    return 2 * torch.atan2(norm(u - v), norm(u + v)).item()


def l2(a: Weights, b: Weights, names: Iterable[str]) -> float:
    """Euclidean distance of the weights `names` of two networks, each as one vector."""
    u, v = _vectors(a, b, names)
    return torch.linalg.vector_norm(u - v).item()
