"""Finite groups of orthogonal matrices that act freely on a sphere."""

from __future__ import annotations

import torch
from torch import Tensor

# --- finite groups of orthogonal matrices --------------------------------------------------------

_TOL = 1e-6


def check_spherical_group(elements: list[Tensor]) -> Tensor:
    """Check that matrices form a group acting freely on the sphere; drop repeated ones.

    Returns:
        (m, d, d), the identity first.
    """
    d = elements[0].shape[-1]
    eye = torch.eye(d, dtype=torch.float64)
    kept = eye.unsqueeze(0)
    for i, a in enumerate(elements):
        if a.shape != (d, d):
            raise ValueError(f"element {i}: expected shape ({d}, {d}), found {tuple(a.shape)}")
        if not torch.allclose(a @ a.T, eye, atol=_TOL):
            raise ValueError(f"element {i}: not orthogonal")
        if (kept - a).abs().amax((-2, -1)).min() < _TOL:
            continue
        if torch.linalg.svdvals(a - eye)[-1] < _TOL:
            raise ValueError(f"element {i}: has the eigenvalue 1, so it fixes a point of the sphere")
        kept = torch.cat([kept, a.unsqueeze(0)])
    for a in kept:
        products = a @ kept
        gaps = (products.unsqueeze(1) - kept).abs().amax((-2, -1)).amin(1)
        if gaps.max() > _TOL:
            j = int(gaps.argmax())
            raise ValueError(
                f"elements: not a group, the product of {_named(elements, a)} and "
                f"{_named(elements, kept[j])} is missing"
            )
    return kept


def _named(elements: list[Tensor], a: Tensor) -> str:
    """How the caller knows a matrix: by its place in the list."""
    for i, b in enumerate(elements):
        if torch.allclose(a, b, atol=_TOL):
            return f"element {i}"
    return "the identity"
