"""Kernels in a span, with Gaussian weights: a decoder without topology, to compare with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.coordinates import StandardNormal
from topoprior.priors.decoded.checkpoints import register_decoder
from topoprior.priors.decoded.decoder import KernelDecoder, check_kernel_size
from topoprior.priors.decoded.harmonic import HarmonicDecoder
from topoprior.priors.decoded.prior import DecoderPrior
from topoprior.priors.registry import get_prior
from topoprior.spaces.flat.named import Euclidean


class LinearDecoder(KernelDecoder):
    r"""g(z) = z B with standard normal z: all of a span of kernels, on the plane of its weights.

    Args:
        basis: B, (r, k), rescaled to E|g(z)|^2 = |B|^2 = 1.
        kernel_size: of the kernels, k pixels together.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite or all zero.

    Example:
        >>> LinearDecoder(torch.eye(5, 9), (3, 3))(torch.randn(10, 5)).shape
        torch.Size([10, 9])
    """

    kl_periods = ()  # latents and amplitudes have one law
    format = "topoprior.LinearDecoder/1"

    def __init__(self, basis: Tensor, kernel_size: Sequence[int]) -> None:
        self.kernel_size = check_kernel_size(kernel_size)
        pixels = math.prod(self.kernel_size)
        if basis.dim() != 2 or basis.shape[1] != pixels or not 0 < len(basis) <= pixels:
            raise ValueError(
                f"basis: expected 1 to {pixels} rows of {pixels} numbers, found {tuple(basis.shape)}"
            )
        norm = basis.double().norm()
        if not torch.isfinite(norm) or norm == 0:
            raise ValueError("basis: expected finite numbers, not all zero")
        self.basis = (basis.detach().double() / norm).float().cpu()
        self.space, self.law, self.lengths = Euclidean(len(basis)), StandardNormal(), [1.0] * len(basis)

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self.basis.to(z)

    def mean(self, loc: Tensor, scale: Tensor) -> Tensor:
        return self(loc)

    def latent_kl(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        return (0.5 * ((2 * log_scale).exp() + loc.square() - 1) - log_scale).sum(-1)

    def second_moment(self) -> Tensor:
        return self.basis.double().T @ self.basis.double()

    def nearest(self, kernels: Tensor, *, offset: bool) -> Tensor:
        """Least squares over z and b; z as long as its law makes it, for the amplitude has the length."""
        rows = self.basis.double().to(kernels.device)
        if offset:
            rows = torch.cat([rows, torch.ones_like(rows[:1])])
        z = (kernels.double() @ torch.linalg.pinv(rows, rtol=1e-5))[:, : self.space.dim]
        length = z.norm(dim=-1, keepdim=True)
        z = torch.where(length > 0, z / length.clamp_min(1e-300), self.space.dim**-0.5)
        return (math.sqrt(self.space.dim) * z).to(kernels)

    def describe(self) -> str:
        return f"linear, {self.space.dim} basis kernels, kernel_size={self.kernel_size}"

    def known(self, scales: tuple[float, float]) -> Tensor:
        """The basis and the scales: a state of another basis is refused."""
        alpha_scale, beta_scale = scales
        basis = self.basis.double() * alpha_scale
        return torch.cat([basis, torch.full_like(basis[:1], beta_scale)])

    known_name = "matrix"

    def weights(self, z: Tensor, alpha: Tensor, beta: Tensor, known: Tensor) -> Tensor:
        return torch.cat([z * alpha[..., None], beta[..., None]], -1) @ known

    def mean_weights(
        self, loc: Tensor, scale: Tensor, alpha: Tensor, beta: Tensor, known: Tensor
    ) -> Tensor:
        return self.weights(loc, alpha, beta, known)

    # --- checkpoints -----------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {"kernel_size": list(self.kernel_size)}

    def tensors(self) -> dict[str, Tensor]:
        return {"basis": self.basis}

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LinearDecoder:
        if set(tensors) != {"basis"}:
            raise ValueError(f"expected one tensor, 'basis', found {sorted(tensors)}")
        return cls(tensors["basis"], config["kernel_size"])


def linear_decoder(prior: DecoderPrior | Path | str) -> DecoderPrior:
    r"""The control of a decoder prior that keeps its product and its second moments and drops its space:

    .. math:: w_{oi} = \alpha_{oi} \textstyle\sum_j z_{oij} b_j + \beta_{oi}\, 1 / \sqrt{k}, \quad z \sim N(0, I)

    The decoder g(z) = h(z) C is linear in harmonics h of a closed space, which are orthonormal: E h h^T = I. Here
    independent standard normal weights stand in their place, on the same basis kernels b_j, the rows of C. Amplitude times shape, scales,
    mean, covariance and the span of kernels are those of ``prior``; what is gone is that the shapes are a closed surface in the span, of
    less dimension than it, and the law of their lengths: the squared coefficient of variation of |g|^2 is .15 for "klein-3x3", .50 here. So ``prior``
    beside this control says what that surface and its lengths do, and this control beside :func:`topoprior.moment_matched`
    (Gaussian weights without the common factor alpha) what one amplitude for a whole kernel does: it makes small kernels, and large ones, likelier.

    For a decoder of another kind, or with more harmonics than pixels, the b_j are the rows of the symmetric root of E g g^T.

    Args:
        prior: with a decoder; a name or folder works too. Its gain and fractions are taken over.

    Raises:
        ValueError: a prior without a decoder.

    Example:
        >>> control = linear_decoder("klein-3x3")
        >>> control.dim, control.sample((16, 3, 3, 3)).shape
        (5, torch.Size([16, 3, 3, 3]))
    """
    known = get_prior(prior)
    if not isinstance(known, DecoderPrior):
        raise ValueError(f"prior: expected one with a decoder, such as 'klein-3x3', found {known!r}")
    decoder = known.decoder
    pixels = math.prod(decoder.kernel_size)
    if isinstance(decoder, HarmonicDecoder) and len(decoder.coefficients) <= pixels:
        basis = decoder.coefficients
    else:
        values, vectors = torch.linalg.eigh(decoder.second_moment())
        basis = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    options = known._options() | {"init_latent_scale": known.init_scale}
    control = DecoderPrior(LinearDecoder(basis, decoder.kernel_size), **options)
    control.name = f"linear {known.name or type(known).__name__}"
    return control


register_decoder(LinearDecoder, DecoderPrior)
