"""Expectation of any function of one normal variable: the KL of a mean-field normal against any density.

Elementwise: w ~ N(loc, scale^2) for tensors ``loc`` and ``scale`` of one shape, deterministic and
differentiable. Where there is a closed form, :mod:`topoprior.priors.mean_field.closed_forms` has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Rule = tuple[list[float], list[float]]

_REACH = 6.5  # a normal holds 8e-11 beyond 6.5 std
_UNRESOLVED = 1e-6  # mass that may lie where the nodes are too far apart to resolve f


def expectation(
    function: Callable[[Tensor], Tensor],
    loc: Tensor,
    scale: Tensor,
    *,
    knee: Tensor,
    end: Tensor | None = None,
    even: bool = False,
    rule: Rule | None = None,
) -> Tensor:
    r"""E f(w) by Gauss-Legendre quadrature in y = asinh(w / knee), on each side of 0.

    Gauss-Hermite quadrature fails where f changes on a scale far below the normal's: whether one of its
    nodes falls into the narrow part is chance. Here the nodes crowd around 0, where log densities have
    their narrow parts, and thin out like a geometric sequence; a kink at 0 (Laplace's) does no harm.

    Args:
        function: f, elementwise; called with an extra last dimension, the nodes.
        knee: the scale on which f changes near 0: below it the nodes are evenly spaced.
        end: f vanishes for \|w\| > end; default: it does not.
        even: f(w) = f(-w), which halves the work.
        rule: from :func:`legendre_rule`, 32 nodes on each side of 0 by default. Time and memory are
            proportional to their number.

    Example: E log(1 + w^2) for a wide normal.
        >>> one = torch.ones(())
        >>> expectation(lambda w: w.square().log1p(), 0 * one, 10 * one, knee=one, even=True)
        tensor(3.5759)
    """
    with torch.no_grad():  # what the normal hardly reaches need not be resolved
        unreached = _UNRESOLVED * (0.5 * (loc / scale).square().clamp_max(_REACH**2)).exp()
        knee = torch.maximum(knee, scale * unreached.clamp_max(1.0))
    nodes, weights = (loc.new_tensor(numbers) for numbers in rule or legendre_rule(32))

    def side(sign: int) -> Tensor:
        # Nodes are constants to autograd: they stay where they are when loc moves.
        with torch.no_grad():
            center, spread = sign * loc, _REACH * scale
            lo, hi = (center - spread).clamp_min(0), (center + spread).clamp_min(0)
            if even:  # fold the other side onto this one
                lo, hi = (loc.abs() - spread).clamp_min(0), loc.abs() + spread
            if end is not None:
                lo, hi = torch.minimum(lo, end), torch.minimum(hi, end)
            first, last = (lo / knee).asinh(), (hi / knee).asinh()
            y = first.unsqueeze(-1) + (last - first).unsqueeze(-1) * nodes
            # sinh and cosh by expm1: torch's own take a CPU 15 times as long
            t = y.expm1()
            inverse = 1 / (1 + t)
            w = (0.5 * knee).unsqueeze(-1) * (t + t * inverse)
            width = (0.5 * knee * (last - first)).unsqueeze(-1) * (1 + t + inverse) * weights
        density = _density(sign * w, loc, scale)
        if even:
            density = density + _density(-w, loc, scale)
        return (function(sign * w) * density * width).sum(-1)

    return side(1) if even else side(1) + side(-1)


def _density(w: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    scale = scale.unsqueeze(-1)
    return (-0.5 * ((w - loc.unsqueeze(-1)) / scale).square()).exp() / (scale * math.sqrt(2 * math.pi))


def legendre_rule(num_nodes: int) -> Rule:
    """Gauss-Legendre nodes and weights on [0, 1]: numbers, which torch.compile takes as constants."""
    if num_nodes < 1:
        raise ValueError(f"num_nodes: expected at least 1, found {num_nodes}")
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
