"""Convolution kernels whose neighbouring pixels are alike: a Gaussian with spatial covariance."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.base import Shape, at_least_float32
from topoprior.priors.coordinates import Coordinates, ScaledCoordinates, StandardNormal
from topoprior.priors.mean_field.base import MeanFieldPrior
from topoprior.priors.mean_field.posterior import MeanFieldPosterior
from topoprior.priors.registry import priors_serving, register_prior
from topoprior.utils.checks import check_positive


class CorrelatedGaussian(MeanFieldPrior):
    r"""Kernels :math:`w_{oi} \sim N(0, s^2 C)`, :math:`C_{pq} = \exp(-|p - q| / \ell)` between pixels p, q.

    For kernels of any size of 2 pixels and more, in one, two and three dimensions; kernels are independent
    of one another. The posterior is a mean-field normal, and its KL is exact:

    .. math:: \tfrac12 \sum_{oi} \Big[ \big(m^T C^{-1} m + \textstyle\sum_p (C^{-1})_{pp} \sigma_p^2\big) / s^2
              - k + \log\det C + k \log s^2 - \textstyle\sum_p \log \sigma_p^2 \Big]

    Args:
        scale: s; by default k s^2 = gain^2 / in.
        lengthscale: l, in pixels.
        gain, init_scale, empirical_bayes: as for :class:`~topoprior.MeanFieldPrior`.

    Raises:
        ValueError: a shape without kernels of at least 2 pixels.

    Source: Fortuin et al. 2022 (Bayesian neural network priors revisited), section 4.2.

    Example:
        >>> CorrelatedGaussian(lengthscale=2.0).posterior((4, 3, 5, 5)).kl().shape
        torch.Size([])
    """

    kl_kind = "exact"

    def __init__(self, scale: float | None = None, *, lengthscale: float = 1.0, **options: Any) -> None:
        self.lengthscale = check_positive("lengthscale", lengthscale)
        super().__init__(scale, **options)

    def covariance(self, kernel_size: Sequence[int]) -> Tensor:
        """C in float64, (k, k), pixels in the order of ``flatten``."""
        axes = [torch.arange(n, dtype=torch.float64, device="cpu") for n in kernel_size]
        pixels = torch.cartesian_prod(*axes).reshape(-1, len(kernel_size))
        return (-torch.cdist(pixels, pixels) / self.lengthscale).exp()

    def kernel_covariance(self, shape: Shape) -> Tensor:
        self._check_shape(shape)
        return self.scale_of(shape) ** 2 * self.covariance(shape[2:])

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> MeanFieldPosterior:
        self._check_shape(shape)
        return CorrelatedPosterior(self, shape, device=device, dtype=dtype)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        """w = s L u for every kernel, L L^T = C."""
        self._check_shape(shape)
        self._check_coordinates()
        return CorrelatedCoordinates(
            self, shape, StandardNormal(), self.scale_of(shape), device=device, dtype=dtype
        )

    def sample(self, shape: Shape) -> Tensor:
        self._check_shape(shape)
        factor = torch.linalg.cholesky(self.covariance(shape[2:])).to(torch.get_default_dtype())
        noise = torch.randn(*shape).flatten(2)
        return self.scale_of(shape) * (noise @ factor.T).reshape(*shape)

    def serves(self, shape: Shape) -> bool:
        return len(shape) > 2 and math.prod(shape[2:]) > 1

    def _check_shape(self, shape: Shape) -> None:
        if not self.serves(shape):
            raise ValueError(
                f"kernel_size: this prior correlates the pixels of a kernel, at least 2, found weights of "
                f"shape {tuple(shape)}; priors that fit: {', '.join(priors_serving(shape))}"
            )

    def _describe(self) -> str:
        return f"lengthscale={self.lengthscale:.3g}, "


class CorrelatedPosterior(MeanFieldPosterior):
    """Mean-field normal over the pixels of kernels whose prior correlates them."""

    precision: Tensor
    prior: CorrelatedGaussian

    def __init__(
        self,
        prior: CorrelatedGaussian,
        shape: Shape,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(prior, shape, device=device, dtype=dtype)
        covariance = prior.covariance(self.shape[2:])
        self.log_det = torch.logdet(covariance).item()
        precision = torch.empty(covariance.shape, dtype=self.loc.dtype, device=self.loc.device)
        self.register_buffer("precision", precision, persistent=False)  # known from the prior
        self.fill_buffers()

    def fill_buffers(self) -> None:
        super().fill_buffers()
        if hasattr(self, "precision"):  # not while the base class is made
            self.precision.copy_(torch.linalg.inv(self.prior.covariance(self.shape[2:])))

    def kl(self) -> Tensor:
        scale = self.scale()
        loc, log_scale, precision = map(at_least_float32, (self.loc, self.log_scale, self.precision))
        num_kernels, pixels = math.prod(self.shape[:2]), len(precision)
        log_dets = num_kernels * (self.log_det + 2 * pixels * scale.log()) - 2 * log_scale.sum()
        device = loc.device.type
        # The one KL with matrix products, which autocast would round to half precision.
        with contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            energy = _MeanEnergy.apply(loc, log_scale, precision)[0]
        return 0.5 * (energy / scale.square() + log_dets - loc.numel())


class CorrelatedCoordinates(ScaledCoordinates):
    """Kernels w = s L u from standard normal u, (out, in, ...); C = L L^T by Cholesky."""

    factor: Tensor
    prior: CorrelatedGaussian

    def fill_buffers(self) -> None:
        super().fill_buffers()
        factor = torch.linalg.cholesky(self.prior.covariance(self.shape[2:]))
        if not hasattr(self, "factor"):
            self.register_buffer("factor", torch.empty_like(factor).to(self.scales), persistent=False)
        self.factor.copy_(factor)

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        return ((x["u"].flatten(2) @ self.factor.T) * self.scales).view(self.shape)

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        kernels = weight.detach().double().flatten(2) / self.scales.double()
        u = torch.linalg.solve_triangular(self.factor.double().T, kernels, upper=True, left=False)
        return {"u": u.view(self.shape).to(self.scales)}


def _weighted(loc: Tensor, log_scale: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """C^-1 m, and the variances times the diagonal of C^-1: half the energy's slopes in loc and log_scale."""
    weighted = (loc.flatten(2) @ precision).view_as(loc)
    variance = (2 * log_scale).exp()
    return weighted, variance * precision.diagonal().view(variance.shape[2:])


class _MeanEnergy(torch.autograd.Function):
    """Sum over kernels of E w^T C^-1 w, and with it at once half its slopes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loc: Tensor, log_scale: Tensor, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weighted, variance = _weighted(loc, log_scale, precision)
        return (weighted.flatten() @ loc.flatten()) + variance.sum(), weighted, variance

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
        *inputs, weighted, variance = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: as functions of the parameters
            weighted, variance = _weighted(*inputs)
        return (2 * grad) * weighted, (2 * grad) * variance, None


register_prior("correlated-gaussian", CorrelatedGaussian)
