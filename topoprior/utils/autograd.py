"""Helpers of functions that compute their gradient with their value."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

_F = TypeVar("_F", bound=Callable[..., Any])

BLOCK = 2**15  # elements


def then(x: Tensor, operation: str, *arguments: Any, **options: Any) -> Tensor:
    """x.operation(...), in place where nothing is differentiated. For tensors that the caller has made."""
    return getattr(x, operation if torch.is_grad_enabled() else operation + "_")(*arguments, **options)


def with_signature(function: _F) -> _F:
    """The function, which knows its signature: autograd asks for it at every call, and finding it takes 40 microseconds."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def in_blocks(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """An elementwise function of tensors of one shape. A CPU takes pieces that stay in its cache."""

    @functools.wraps(function)
    def pieced(*tensors: Tensor, **constants: Any) -> tuple[Tensor, ...]:
        like = tensors[0]
        small = like.numel() <= BLOCK or like.device.type != "cpu"
        if small or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return function(*tensors, **constants)
        pieces = zip(*(x.reshape(-1).split(BLOCK) for x in tensors), strict=True)
        results = zip(*(function(*piece, **constants) for piece in pieces), strict=True)
        return tuple(torch.cat(parts).view(like.shape) for parts in results)

    return pieced


def with_slopes(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """An elementwise function that returns its value and its slopes, as one whose value is differentiable.

    The slopes are computed with the value, where intermediate results are there already and nothing has to be
    kept, and again as differentiable functions where they are themselves to be differentiated.

    Args:
        function: tensors of one shape -> (value, slope in each of them); keywords are constants.

    Example:
        >>> square = with_slopes(lambda x: (x * x, 2 * x))
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> torch.autograd.grad(square(x).sum(), x)
        (tensor([6.]),)
    """

    @functools.wraps(function)
    def value(*tensors: Tensor, **constants: Any) -> Tensor:
        bound = functools.partial(function, **constants) if constants else function
        return _WithSlopes.apply(bound, *tensors)[0]

    return value


class _WithSlopes(torch.autograd.Function):
    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(*tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.function, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        half = len(ctx.saved_tensors) // 2
        tensors, slopes = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        if torch.is_grad_enabled():  # to be differentiated again: as functions of the tensors
            slopes = ctx.function(*tensors)[1:]
        needed = zip(slopes, ctx.needs_input_grad[1:], strict=True)
        return None, *(grad * slope if need else None for slope, need in needed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, function: Callable, *tensors: Tensor) -> tuple[Any, Any]:
        # An elementwise function takes the batch as one more dimension.
        pairs = zip(tensors, in_dims[1:], strict=True)
        first = [x.unsqueeze(0) if d is None else x.movedim(d, 0) for x, d in pairs]
        return _WithSlopes.apply(function, *torch.broadcast_tensors(*first)), (0,) * (1 + len(tensors))
