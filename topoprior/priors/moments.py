"""A Gaussian with the moments of another prior: what is left of a prior when only its covariance is kept."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.priors.base import (
    Shape,
    WeightPosterior,
    WeightPrior,
    at_least_float32,
    check_weight,
    draw_noise,
    left_over,
    narrow_,
    normal_kl,
)
from topoprior.priors.coordinates import ScaledCoordinates, StandardNormal
from topoprior.priors.registry import get_prior
from topoprior.utils.checks import check_positive


def moment_matched(prior: WeightPrior | Path | str) -> MomentMatched:
    """The Gaussian prior with exactly the first and second moments of ``prior``: :class:`MomentMatched`.

    Args:
        prior: a name, a folder or a prior.

    Raises:
        ValueError: an unknown name; in its methods, weights that ``prior`` does not serve or that have no variance.

    Example:
        >>> import topoprior as tp
        >>> twin = tp.moment_matched("klein-3x3")
        >>> layer = tp.BayesConv2d(3, 16, 3, prior=twin, posterior="delta")
        >>> torch.allclose(twin.kernel_covariance((16, 3, 3, 3)), tp.get_prior("klein-3x3").kernel_covariance((16, 3, 3, 3)))
        True
    """
    return MomentMatched(prior)


class MomentMatched(WeightPrior):
    r"""Kernels :math:`w_{oi} \sim N(0, S)`, S the covariance of another prior's kernels, which all have mean 0.

    Beside that other prior it isolates what lies beyond second moments: curved families, heavy tails, sparsity. Drawn as
    :math:`w = S^{1/2} u` with standard normal u and the symmetric root, which is unique: a state means the same on every
    machine. S may be singular; the weights then stay in its span (of "klein-3x3": six of nine dimensions).

    S is in closed form for the priors here (:meth:`~topoprior.WeightPrior.kernel_covariance`). The posterior is a mean-field normal over u,
    its KL exact, two numbers a weight.

    Args:
        prior: a name, a folder or a prior.
        init_scale: posterior std of u at the start.

    Raises:
        ValueError: an unknown name, a number that is not positive; in its methods, weights that ``prior`` does not serve or that
            have no variance.

    Example:
        >>> MomentMatched("torus-3x3").sample((16, 3, 3, 3)).shape
        torch.Size([16, 3, 3, 3])
    """

    def __init__(self, prior: WeightPrior | Path | str, *, init_scale: float = 0.01) -> None:
        self.prior = get_prior(prior)
        self.init_scale = check_positive("init_scale", init_scale)
        self.name = f"moments of {self.prior.name or type(self.prior).__name__}"
        self.gain = getattr(self.prior, "gain", None)

    def kernel_covariance(self, shape: Shape) -> Tensor:
        return self.prior.kernel_covariance(shape)

    def root(self, shape: Shape) -> tuple[float, Tensor]:
        """The root mean variance s of a pixel, and (S / s^2)^(1/2), (k, k), float64."""
        covariance = self.kernel_covariance(shape)
        if not bool(covariance.isfinite().all()):
            raise ValueError(f"prior: {self.prior!r} has no finite variance to match")
        scale = math.sqrt(covariance.diagonal().mean())
        values, vectors = torch.linalg.eigh(covariance / scale**2)
        return scale, vectors * values.clamp_min(0).sqrt() @ vectors.T

    def serves(self, shape: Shape) -> bool:
        return len(shape) > 1 and self.prior.serves(shape)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> RootCoordinates:
        return RootCoordinates(self, shape, device=device, dtype=dtype)

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> RootPosterior:
        return RootPosterior(self, shape, device=device, dtype=dtype)

    def sample(self, shape: Shape) -> Tensor:
        scale, root = self.root(shape)
        noise = torch.randn(*shape, device="cpu")
        kernels = noise.reshape(*shape[:2], len(root)).double() @ (scale * root)
        return kernels.view(*shape).to(torch.empty(0))  # torch's default device and dtype

    def identity(self, shape: Shape) -> str:
        """Which law of weights of ``shape`` this is: its scale, and its covariance to three digits."""
        scale, root = self.root(shape)
        numbers = " ".join(f"{x:.3f}" for x in ((root @ root).flatten() + 0.0).tolist())
        return f"MomentMatched({numbers.replace('-0.000', '0.000')}) * {scale:.4g}"

    def __repr__(self) -> str:
        return f"MomentMatched({self.prior!r})"


class RootCoordinates(ScaledCoordinates):
    """Kernels w = S^(1/2) u from standard normal u, of the weights' shape. Directions without variance change nothing."""

    factor: Tensor
    prior: MomentMatched

    def __init__(
        self, prior: MomentMatched, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        scale, self._root = prior.root(shape)
        super().__init__(prior, shape, StandardNormal(), scale, device=device, dtype=dtype)

    def fill_buffers(self) -> None:
        super().fill_buffers()
        if not hasattr(self, "factor"):
            self.register_buffer("factor", torch.empty_like(self._root).to(self.scales), persistent=False)
        self.factor.copy_(self._root)

    def decode(self, u: Tensor) -> Tensor:
        """Weights at u, (..., *shape)."""
        rows = u.reshape(*u.shape[: u.dim() - len(self.shape) + 2], len(self.factor))
        return ((rows @ self.factor) * self.scales).view(u.shape)

    def weight(self, x: Any) -> Tensor:
        return self.decode(x["u"])

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        """The shortest u of the nearest weights."""
        kernels = weight.detach().double().reshape(*self.shape[:2], len(self._root)) / self.scales.double()
        inverse = torch.linalg.pinv(self._root, rtol=1e-5, hermitian=True).to(kernels.device)
        return {"u": (kernels @ inverse).view(self.shape).to(self.scales)}


class RootPosterior(WeightPosterior):
    """Mean-field normal over u, of which weights are a linear function: parameters ``loc`` and ``log_scale``."""

    kl_kind = "exact"

    def __init__(
        self, prior: MomentMatched, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(dtype)
        self.prior, self.shape = prior, torch.Size(shape)
        self.coordinates = prior.coordinates(shape, device=device, dtype=dtype)
        self.loc = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A draw from the prior."""
        self.coordinates.fill_buffers()
        self.loc.normal_()
        self.log_scale.fill_(math.log(self.prior.init_scale))

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.shape, self.loc, antithetic)
        return self.coordinates.decode(torch.addcmul(self.loc, self.log_scale.exp(), noise))

    def mean(self) -> Tensor:
        return self.coordinates.decode(self.loc)

    def kl(self) -> Tensor:
        return normal_kl(at_least_float32(self.loc), at_least_float32(self.log_scale), 1.0)

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        check_weight(weight, self.shape)
        self.loc.copy_(self.coordinates.invert(weight)["u"])
        return left_over(weight, self.mean())

    def narrow_(self, std: float) -> None:
        """In units of the mean std of a weight."""
        narrow_(self.log_scale, std, float(self.coordinates.scales))

    def latent_parameters(self) -> list[nn.Parameter]:
        return [self.loc]

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"
