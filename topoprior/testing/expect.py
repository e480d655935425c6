"""What a law says when it does not hold: whose law, which, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Expect:
    """Raises AssertionErrors that name ``subject``, the law, what was expected and what was found.

    Numbers that are no numbers keep no law.

    Example:
        >>> import topoprior as tp
        >>> Expect(tp.Sphere(2)).at_most("embed is constant on fibres", torch.tensor([0.0, 0.5]), 1e-6)
        Traceback (most recent call last):
        AssertionError: Sphere(2): embed is constant on fibres: expected at most 1e-06, found 0.5
    """

    def __init__(self, subject: Any) -> None:
        self.subject = repr(subject)

    def true(self, law: str, holds: Any, expected: Any, found: Any) -> None:
        if not bool(holds):
            raise AssertionError(f"{self.subject}: {law}: expected {expected}, found {found}")

    def at_most(self, law: str, values: Tensor, most: float | Tensor) -> None:
        self._compare(law, values, most, values <= most, "at most")

    def at_least(self, law: str, values: Tensor, least: float | Tensor) -> None:
        self._compare(law, values, least, values >= least, "at least")

    def close(self, law: str, found: Tensor, expected: Tensor, atol: float | Tensor) -> None:
        self.shape(law, found, expected.shape)
        gap = (found.double() - expected.double()).abs()
        if not bool((gap <= atol).all()):
            worst = int(torch.where(gap <= atol, 0.0, gap.nan_to_num(torch.inf)).argmax())
            values = expected.flatten()[worst].item(), found.flatten()[worst].item()
            self.true(law, False, f"{values[0]:.6g}", f"{values[1]:.6g}")

    def shape(self, law: str, found: Tensor, shape: Any) -> None:
        self.true(law, tuple(found.shape) == tuple(shape), f"shape {tuple(shape)}", tuple(found.shape))

    def dtype(self, law: str, found: Tensor, dtype: torch.dtype) -> None:
        self.true(law, found.dtype == dtype, dtype, found.dtype)

    def finite(self, law: str, found: Tensor) -> None:
        self.true(law, found.isfinite().all(), "finite numbers", found[~found.isfinite()][:3].tolist())

    def raises(self, law: str, error: type[Exception], call: Callable[[], Any]) -> None:
        try:
            call()
        except error:
            return
        self.true(law, False, f"a {error.__name__}", "none")

    def _compare(self, law: str, values: Tensor, bound: float | Tensor, holds: Tensor, how: str) -> None:
        if not bool(holds.all()):
            bounds = torch.as_tensor(bound).expand(holds.shape)
            worst = int((~holds).flatten().to(torch.uint8).argmax())
            found, limit = values.expand(holds.shape).flatten()[worst], bounds.flatten()[worst]
            self.true(law, False, f"{how} {limit.item():.6g}", f"{found.item():.6g}")
