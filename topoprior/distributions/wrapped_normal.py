"""Distributions on the base of a covering: reparameterize upstairs, push the sample down.

Values are lifts: any lift of a point has the same `log_prob`, and samples come as whatever lift the
reparameterization produced (``covering.project`` gives the canonical one).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from topoprior.distributions.arguments import (
    at_least_single,
    finite_vector,
    lower_cholesky,
    positive_vector,
    real_vector,
    tensors,
)
from topoprior.distributions.lattice_sums import log_lattice_normal_of_sum
from topoprior.distributions.quadrature import wrapped_normal_nodes
from topoprior.distributions.theta import log_wrapped_normal
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.checks import real_tensor
from topoprior.utils.precision import without_autocast

_LOG_2PI = math.log(2 * math.pi)
_TERMS = 1 << 20  # evaluated at a time in a quadrature, to bound memory


class WrappedNormal(Distribution):
    r"""Law of pi(x), x ~ N(loc, L L^T) on R^n, pi: R^n -> R^n / Gamma a flat manifold.

    .. math:: q(x) = \sum_{\gamma \in \Gamma} N(\gamma x; \mu, L L^T)

    Deck transformations are isometries, so there is no Jacobian. The sum runs over lifts where the
    normal is narrow and over Fourier modes where it is wide, with a constant number of terms.

    For stds from 1e-3 to 1e3 periods, along the axes or tilted, the density is exact to 1e-12 of its peak
    (or of 1, where the peak is lower) in float64 and to 1e-6 in float32, the arguments taken as they are
    stored. Differences, and all of it with a ``scale_tril``, are computed in float64 for that.

    Args:
        covering: a :class:`~topoprior.spaces.flat.manifold.FlatManifold`.
        loc: any lift of the center, (..., n), or one number for all coordinates.
        scale: stds along the axes, (..., n), or one number for all; or
        scale_tril: lower triangular with positive diagonal, (..., n, n).

    Raises:
        TypeError: covering is not flat; an argument is neither a tensor nor a number.
        ValueError: both or neither of ``scale`` and ``scale_tril``, wrong shapes, values out of range.

    Example:
        >>> import topoprior as tp
        >>> q = tp.WrappedNormal(tp.KleinBottle(), torch.tensor([0.3, 0.2]), torch.tensor([0.2, 0.2]))
        >>> x = torch.tensor([0.5, 0.1])
        >>> torch.allclose(q.log_prob(x), q.log_prob(torch.tensor([1.5, -0.1])))
        True
    """

    has_rsample = True
    scale: Tensor

    def __init__(
        self,
        covering: FlatManifold,
        loc: Tensor | float,
        scale: Tensor | float | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(covering, FlatManifold):
            raise TypeError(f"covering: expected a FlatManifold, found {type(covering).__name__}")
        if (scale is None) == (scale_tril is None):
            raise ValueError("scale, scale_tril: expected exactly one of the two")
        self.covering = covering
        n = covering.cover_dim
        if scale is not None:
            loc, scale = tensors(loc=loc, scale=scale)
            loc, scale = (x if x.dim() else x.expand(n) for x in (loc, scale))
            _check_tail("loc", loc, (n,))
            _check_tail("scale", scale, (n,))
            batch = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1])
            self.scale = scale.expand(*batch, n)
        else:
            loc, scale_tril = tensors(loc=loc, scale_tril=scale_tril)
            loc = loc if loc.dim() else loc.expand(n)
            _check_tail("loc", loc, (n,))
            _check_tail("scale_tril", scale_tril, (n, n))
            batch = torch.broadcast_shapes(loc.shape[:-1], scale_tril.shape[:-2])
            self._scale_tril = scale_tril.expand(*batch, n, n)
        self.is_diagonal = scale is not None
        self.loc = loc.expand(*batch, n)
        if loc.is_meta:  # no values to check
            validate_args = False
        super().__init__(batch, torch.Size([n]), validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, Any]:
        if self.is_diagonal:
            return {
                "loc": finite_vector,
                "scale": positive_vector,
            }
        return {"loc": finite_vector, "scale_tril": lower_cholesky}

    @property
    def support(self) -> Any:
        return real_vector  # any lift

    @property
    def scale_tril(self) -> Tensor:
        return torch.diag_embed(self.scale) if self.is_diagonal else self._scale_tril

    def expand(self, batch_shape: Any, _instance: Any = None) -> WrappedNormal:
        new = self._get_checked_instance(WrappedNormal, _instance)
        batch_shape = torch.Size(batch_shape)
        new.covering, new.is_diagonal = self.covering, self.is_diagonal
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        if self.is_diagonal:
            new.scale = self.scale.expand(batch_shape + self.event_shape)
        else:
            new._scale_tril = self.scale_tril.expand(batch_shape + self.event_shape * 2)
        super(WrappedNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"WrappedNormal({self.covering!r}{batch})"

    @without_autocast
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Lifts of reparameterized samples, (*sample_shape, *batch_shape, n)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        if self.is_diagonal:
            return self.loc + self.scale * noise
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)

    @without_autocast
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        value = real_tensor("value", value)
        if self.is_diagonal and self.covering.periods is not None:
            total, *sheets = self._axis_sheets(value)
            for other in sheets:
                total = torch.logaddexp(total, other)
            return total.to(torch.promote_types(value.dtype, self.loc.dtype))
        space = self.covering
        turned = torch.einsum("jab,...b->...ja", space.linear.to(value.device), value.double())
        centre = self.loc.double().unsqueeze(-2)
        terms = torch.broadcast_tensors(turned, space.shift.to(value.device), -centre)
        log_density = log_lattice_normal_of_sum(
            torch.stack(terms, -1), self.scale_tril.unsqueeze(-3), space.lattice.to(value.device)
        )
        return log_density.logsumexp(-1).to(torch.promote_types(value.dtype, self.loc.dtype))

    def _axis_sheets(self, value: Tensor) -> list[Tensor]:
        """Sheet by sheet, the log density on the torus: a sum of one-dimensional ones.

        Differences are taken in float64, and only then rounded: beside a std of 1e-3 a lift known to
        1e-7 would cost the density four digits.
        """
        periods = self.covering._periods
        assert periods is not None
        dtype = at_least_single(torch.promote_types(value.dtype, self.loc.dtype))
        coordinates, centers = value.double().unbind(-1), self.loc.double().unbind(-1)
        scales = self.scale.to(at_least_single(self.scale.dtype)).unbind(-1)
        sheets = []
        for a, t in self.covering._cosets:
            total: Tensor | None = None
            for i, period in enumerate(periods):
                moved = sum(w * coordinates[k] for k, w in enumerate(a[i]) if w) + (t[i] - centers[i])
                if period == math.inf:
                    z = moved.to(dtype) / scales[i]
                    term = -0.5 * z.square() - scales[i].log() - 0.5 * _LOG_2PI
                else:
                    turns = moved / period
                    turns = (turns - turns.round()).to(dtype)
                    term = log_wrapped_normal(turns, scales[i] / period) - math.log(period)
                total = term if total is None else total + term
            assert total is not None
            sheets.append(total)
        return sheets

    @without_autocast
    def entropy(self) -> Tensor:
        """Entropy on the base in nats, by quadrature (n <= 3); smaller than that of the normal upstairs."""
        scale_tril = self.scale_tril.double().reshape(-1, *self.event_shape * 2)
        loc = self.loc.double().reshape(-1, *self.event_shape)
        parts = [self._entropy_of_one(*pair) for pair in zip(loc, scale_tril, strict=True)]
        if not parts:
            return self.loc.new_zeros(self.batch_shape)
        return torch.stack(parts).reshape(self.batch_shape).to(self.loc.dtype)

    def _entropy_of_one(self, loc: Tensor, scale_tril: Tensor) -> Tensor:
        on_axes = self.is_diagonal and self.covering.periods is not None
        if on_axes:
            here = WrappedNormal(self.covering, loc, scale_tril.diagonal(), validate_args=False)
        else:
            here = WrappedNormal(self.covering, loc, None, scale_tril, validate_args=False)

        def share(x: Tensor, weight: Tensor) -> Tensor:
            return (weight * here.log_prob(loc + x)).sum()

        nodes, weights = wrapped_normal_nodes(scale_tril, self.covering.lattice.to(loc))
        terms = 1 if on_axes else self.covering.num_sheets * 9**self.covering.rank
        size = max(1, _TERMS // terms)
        chunks = list(zip(nodes.split(size), weights.split(size), strict=True))
        if len(chunks) == 1:
            return -share(nodes, weights)
        # A chunk's intermediate values are computed again when it is differentiated, not kept.
        return -torch.stack([checkpoint(share, x, w, use_reentrant=False) for x, w in chunks]).sum()


def _check_tail(name: str, value: Tensor, tail: tuple[int, ...]) -> None:
    if value.shape[-len(tail) :] != tail:
        raise ValueError(
            f"{name}: expected shape (..., {', '.join(map(str, tail))}), found {tuple(value.shape)}"
        )
