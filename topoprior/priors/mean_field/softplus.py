r"""E softplus(a - b w^2) of a normal variable: what a mixture of two normals has beyond its wide part."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.utils.autograd import BLOCK, in_blocks, then, with_slopes

_REACH = 6.5  # a normal holds 8e-11 beyond 6.5 std
_NEGLIGIBLE = 14.0  # softplus(-14) = 8e-7 at the end of an interval, 6e-8 of the mean beyond it
_LOG2_E = math.log2(math.e)


def mean_softplus(loc: Tensor, log_scale: Tensor, a: Tensor, b: Tensor, num_nodes: int = 20) -> Tensor:
    r"""E softplus(a - b w^2) for w ~ N(loc, exp(log_scale)^2), elementwise, with its gradients.

    By the midpoint rule over the w >= 0 that the normal reaches and on which the function does not vanish;
    the other half is folded onto it. Even at one end and negligible at the other, the integrand makes the
    rule converge exponentially: below 1e-7 for a up to 8 with 24 nodes, 2e-9 with 32, 2e-7 for a = 16.
    Time is proportional to the nodes, memory is not.

    The slopes are those of f(w) = softplus(a - b w^2): E f'(w) in the mean, E f'(w) (w - m) in log s.

    Args:
        a, b: scalars, b >= 0.

    Example:
        >>> one = torch.ones(1)
        >>> mean_softplus(0 * one, 0 * one, torch.tensor(2.0), torch.tensor(0.5))
        tensor([1.7475])
    """
    a, b = a.expand_as(loc), b.expand_as(loc)
    return _mean_softplus(loc, log_scale, a, b, num_nodes=num_nodes)


@with_slopes
@in_blocks
def _mean_softplus(
    loc: Tensor, log_scale: Tensor, a: Tensor, b: Tensor, *, num_nodes: int
) -> tuple[Tensor, ...]:
    """The expectation and its derivatives in loc, log_scale, a and b.

    In v = c w, c = sqrt(log2(e) / 2) / s, so that densities are 2^-d^2, d = v - c m: a CPU takes 4 times as long
    over exp as over exp2, and 30 times where it underflows.
    """
    # A narrower normal than e^-40 is a point: its c squared would be past the largest float32.
    c = then(log_scale.neg().clamp_max(40).exp(), "mul", math.sqrt(0.5 * _LOG2_E))
    sign = 1 - 2 * (loc < 0).to(loc.dtype)
    mean = c * (loc * sign)
    center = mean.detach()
    minus_four_means, bend, top = -4 * mean, -_LOG2_E * b / (c * c), _LOG2_E * a
    with torch.no_grad():  # nodes are constants: they stay where they are when the parameters move
        reach = _REACH * math.sqrt(0.5 * _LOG2_E)
        end = c * ((a + _NEGLIGIBLE).clamp_min(0) / b.clamp_min(torch.finfo(b.dtype).tiny)).sqrt()
        end = end - mean
        first = torch.minimum((-mean).clamp_min(-reach), end)
        step = (end.clamp_max(reach) - first) / num_nodes
    rows = _rows(num_nodes, loc)
    offsets = torch.arange(num_nodes, dtype=loc.dtype, device=loc.device) + 0.5
    values, sigmoids, linear, squares = (first.new_zeros(rows, *first.shape) for _ in range(4))
    for offset in offsets.reshape(-1, rows, *[1] * first.dim()).unbind():
        d = then(step * offset, "add", first)
        v = d + center
        if torch.is_grad_enabled():  # d = v - mean, with no digits lost
            d = d + (center - mean)
        exponent = then(then(d, "mul", d), "neg")
        minus = then(torch.addcmul(exponent, v, minus_four_means), "exp2")  # density at -v
        plus = then(exponent, "exp2")
        even, odd = plus + minus, then(plus, "sub", minus)
        square = v * v
        e = then(torch.addcmul(top, bend, square), "exp2")
        values = then(values, "addcmul", e.log1p(), even)
        sigmoid = then(e, "div", 1 + e)
        even, odd = then(even, "mul", sigmoid), then(odd, "mul", sigmoid)
        sigmoids = then(sigmoids, "add", even)
        squares = then(squares, "addcmul", even, square)
        linear = then(linear, "addcmul", odd, v)
    step = step / math.sqrt(math.pi * _LOG2_E)
    value, of_a = step * values.sum(0), step * sigmoids.sum(0)
    step = step / c
    moment, second_moment = step * linear.sum(0), step / c * squares.sum(0)  # E w sigmoid, E w^2 sigmoid
    slope, moment = -2 * b, moment * sign
    return value, slope * moment, slope * (second_moment - loc * moment), of_a, -second_moment


def _rows(num_nodes: int, like: Tensor) -> int:
    """How many nodes to work on at once, a divisor of their number: all of them in compiled code, which
    keeps no temporaries."""
    if torch.compiler.is_compiling():
        return num_nodes
    size = BLOCK if like.device.type == "cpu" else 2**22
    most = max(1, size // max(1, like.numel()))
    return max(n for n in range(1, num_nodes + 1) if n <= most and num_nodes % n == 0)
