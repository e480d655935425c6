"""Arguments of laws: numbers stand beside tensors as in torch.distributions, all else is named."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from topoprior.utils.checks import real_tensor


def tensors(**values: Any) -> list[Tensor]:
    """Tensors of one real dtype, numbers as tensors like the others; integers count as the default dtype.

    Raises:
        TypeError: neither a real tensor nor a number: a list, an array, ...; the message names it.
    """
    known = [real_tensor(name, x) for name, x in values.items() if isinstance(x, Tensor)]
    dtype = known[0].dtype if known else torch.get_default_dtype()
    for x in known[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    device = known[0].device if known else None
    found = []
    for name, x in values.items():
        if isinstance(x, Tensor):
            found.append(real_tensor(name, x))
        else:
            if not isinstance(x, Real) or isinstance(x, bool):
                raise TypeError(f"{name}: expected a torch.Tensor or a number, found {type(x).__name__}")
            found.append(torch.tensor(float(x), dtype=dtype, device=device))
    return found


class _Vector(constraints.Constraint):
    """Vectors all of whose entries keep a constraint: unlike torch's own, also where the batch is empty."""

    event_dim = 1

    def __init__(self, entry: constraints.Constraint) -> None:
        self.entry = entry
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self.entry.check(value).all(-1)

    def __repr__(self) -> str:
        return f"Vector({self.entry!r})"


class _Finite(constraints.Constraint):
    """Numbers that are finite, and positive if asked: a normal about infinity, or infinitely wide, wrapped is no law."""

    def __init__(self, positive: bool) -> None:
        self.positive = positive
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return value.isfinite() & (value > 0) if self.positive else value.isfinite()

    def __repr__(self) -> str:
        return "FinitePositive()" if self.positive else "Finite()"


finite_positive = _Finite(positive=True)
real_vector = _Vector(constraints.real)
finite_vector, positive_vector = _Vector(_Finite(positive=False)), _Vector(finite_positive)


class _LowerCholesky(constraints.Constraint):
    """torch's own, of finite numbers, also where the batch is empty."""

    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        triangular = ((value.tril() == value) & value.isfinite()).all(-1).all(-1)
        return triangular & (value.diagonal(dim1=-2, dim2=-1) > 0).all(-1)

    def __repr__(self) -> str:
        return "LowerCholesky()"


lower_cholesky = _LowerCholesky()


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """What a law with parameters of ``dtype`` is computed in: half precision has too few digits and exponents."""
    return torch.promote_types(dtype, torch.float32)
