"""The posterior of kernels that are decoded from latent points, fast and lean.

A training step with it costs about as much as one with plain weights: coordinates are stored as rows, the
decoder is a few products of waves and one matrix product, and the backward pass recomputes them from the
noise instead of keeping them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from topoprior.divergences import kappa
from topoprior.mean_field import Gaussian, MeanFieldPosterior
from topoprior.priors import BoundedScale, Shape, WeightPosterior, draw_noise, normal_kl
from topoprior.projection import nearest_kernels
from topoprior.trigonometric import ProductWaves

if TYPE_CHECKING:
    from topoprior.decoder_prior import DecoderPrior

# Kernels in one block of work: its rows stay in the processor's cache, and its temporaries small.
_BLOCK = 32768


class DecoderPosterior(WeightPosterior):
    r"""Mean-field posterior over the latents z (wrapped normal) and amplitudes alpha, beta (normal).

    Parameters ``loc`` and ``log_scale``, (dim + 2, out, in): rows are the coordinates of z, as lifts, then
    alpha and beta in units of their prior stds. With a residual, ``residual`` is a mean-field normal
    posterior over all pixels; with empirical Bayes, ``factors`` holds what is learned of the prior's scales.
    """

    matrix: Tensor
    kl_kind = "bound"

    def __init__(
        self, prior: DecoderPrior, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.prior, self.shape = prior, torch.Size(shape)
        self.waves = prior.waves
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        rows = (prior.covering.dim + 2, *self.shape[:2])
        self.loc = nn.Parameter(torch.empty(rows, **options))
        self.log_scale = nn.Parameter(torch.empty(rows, **options))
        # alpha g(z) + beta / sqrt(k) as one matrix product, with the prior's scales in the matrix.
        scale = prior.scales(shape)
        pixels = math.prod(prior.kernel_size)
        constant = torch.full((1, pixels), scale.beta / math.sqrt(pixels))
        matrix = torch.cat([self.waves.matrix.float() * scale.alpha, constant])
        self.register_buffer("matrix", matrix.to(**options))
        self.residual: MeanFieldPosterior | None = None
        if scale.residual > 0:
            pixelwise = Gaussian(
                scale.residual, init_scale=prior.init_scale, empirical_bayes=prior.empirical_bayes
            )
            self.residual = pixelwise.posterior(shape, **options)
        self.factors = BoundedScale(2, prior.empirical_bayes, **options)
        self.reset_parameters()

    @property
    def dim(self) -> int:
        return self.prior.covering.dim

    @property
    def latent_loc(self) -> Tensor:
        """Centers of z, lifts (out, in, dim)."""
        return self.loc[: self.dim].movedim(0, -1)

    @property
    def latent_scale(self) -> Tensor:
        """Stds of z, (out, in, dim)."""
        return self.log_scale[: self.dim].exp().movedim(0, -1)

    def reset_parameters(self) -> None:
        """A draw from the prior, with z spread uniformly over the space."""
        space, loc = self.prior.covering, self.loc
        with torch.no_grad():
            z = space.sample_uniform(loc.shape[1:], loc.dtype, loc.device)
            loc[: self.dim] = z.movedim(-1, 0)
            loc[self.dim :].normal_()
            for row, period in zip(self.log_scale[: self.dim], self.waves.periods, strict=True):
                row.fill_(math.log(period * self.prior.init_latent_scale))
            self.log_scale[self.dim :].fill_(math.log(self.prior.init_scale))
            self.factors.reset_parameters()
            if self.residual is not None:
                self.residual.reset_parameters()

    def _scaled_matrix(self) -> Tensor:
        if self.factors.rho is None:
            return self.matrix
        alpha, beta = self.factors().unbind()
        return torch.cat([self.matrix[:-1] * alpha, self.matrix[-1:] * beta])

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.loc.shape, self.loc, antithetic)
        weight = _Decode.apply(self.loc, self.log_scale, noise, self._scaled_matrix(), self.waves)
        weight = weight.unflatten(-1, self.prior.kernel_size)
        if self.residual is not None:
            weight = weight + self.residual.rsample(sample_shape, antithetic=antithetic)
        return weight

    def mean(self) -> Tensor:
        """E[w], exact: a wave under a normal law shrinks by a known factor, and alpha is independent of z."""
        *z, alpha, beta = self.loc.unbind()
        decay = self.waves.decay(self.log_scale[: self.dim].exp().unbind())
        rows = [row * shrink * alpha for row, shrink in zip(self.waves.rows(z), decay, strict=True)]
        mean = (torch.stack([*rows, beta], -1) @ self._scaled_matrix()).unflatten(
            -1, self.prior.kernel_size
        )
        return mean if self.residual is None else mean + self.residual.mean()

    def kl(self) -> Tensor:
        """Cover bound for z plus the normal KL of the amplitudes (whose units are the prior's)."""
        loc, log_scale = self.loc, self.log_scale
        if loc.dtype in (torch.float16, torch.bfloat16):  # too few digits for sums of squares
            loc, log_scale = loc.float(), log_scale.float()
        latent = sum(
            kappa((row - math.log(period)).exp()).sum()
            for row, period in zip(log_scale[: self.dim].unbind(), self.waves.periods, strict=True)
        )
        kl = latent + normal_kl(loc[self.dim :], log_scale[self.dim :], 1.0)
        return kl if self.residual is None else kl + self.residual.kl()

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        """Center every kernel on the decoder's nearest one: least squares over z, alpha and beta.

        The latent scales shrink to at most 1 / 200 of a period, so that the mean is sharp; what cannot
        be decoded goes to the residual, where there is one.
        """
        if weight.shape != self.shape:
            raise ValueError(f"weight: expected shape {tuple(self.shape)}, found {tuple(weight.shape)}")
        self.factors.reset_parameters()
        for row, period in zip(self.log_scale[: self.dim], self.waves.periods, strict=True):
            row.clamp_(max=math.log(period * min(0.005, self.prior.init_latent_scale)))
        kernels = weight.detach().to(self.loc).flatten(2).flatten(0, 1)
        self.loc.copy_(
            nearest_kernels(self.waves, self.matrix, self.log_scale[: self.dim].flatten(1), kernels)
            .T.unflatten(1, self.shape[:2])
        )  # fmt: skip
        if self.residual is not None:
            self.residual.loc.zero_()
            self.residual.loc.copy_(weight - self.mean())
        return (weight - self.mean()).norm() / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"


class _Decode(torch.autograd.Function):
    """weights (..., out, in, k) = [alpha products(z), beta] @ matrix at (z, alpha, beta) = loc + e^log_scale noise.

    Keeps the noise alone for the backward pass. Works in blocks of output channels.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        loc: Tensor, log_scale: Tensor, noise: Tensor, matrix: Tensor, waves: ProductWaves
    ) -> Tensor:
        parts = []
        for block in _blocks(noise):
            *z, alpha, beta = _sample(loc, log_scale, noise, block)
            rows = [row * alpha for row in waves.rows(z)]
            features = torch.stack([*rows, beta]).flatten(1)
            # Pixels first, then transposed: faster than the product of the transposed features.
            parts.append((matrix.T @ features).T.unflatten(0, beta.shape))
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, -3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.waves = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        loc, log_scale, noise, matrix = ctx.saved_tensors
        waves: ProductWaves = ctx.waves
        grad = grad.to(matrix.dtype)
        parts, of_matrix = [], None
        for block in _blocks(noise):
            *z, alpha, beta = _sample(loc, log_scale, noise, block)
            part = grad[..., block, :, :]
            *of_rows, of_beta = (matrix @ part.reshape(-1, part.shape[-1]).T).view(-1, *beta.shape).unbind()
            of_alpha, slopes = waves.gradient(z, of_rows)
            parts.append(torch.stack([*(slope * alpha for slope in slopes), of_alpha, of_beta], -3))
            if ctx.needs_input_grad[3]:
                rows = torch.stack([*(row * alpha for row in waves.rows(z)), beta])
                product = rows.flatten(1) @ part.reshape(-1, part.shape[-1])
                of_matrix = product if of_matrix is None else of_matrix + product
        of_loc = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
        of_scale = of_loc * noise * log_scale.exp()
        return _to_shape(of_loc, loc), _to_shape(of_scale, log_scale), None, of_matrix, None


def _blocks(noise: Tensor) -> list[slice]:
    """Slices of the output channels, (..., rows, out, in)."""
    out = noise.shape[-2]
    step = max(1, _BLOCK * out * noise.shape[-3] // max(1, noise.numel()))
    return [slice(i, i + step) for i in range(0, out, step)]


def _sample(loc: Tensor, log_scale: Tensor, noise: Tensor, block: slice) -> tuple[Tensor, ...]:
    """Rows (z, alpha, beta) of the block, each (..., out, in)."""
    scale = log_scale[:, block].exp()
    return torch.addcmul(loc[:, block], scale, noise[..., block, :]).unbind(-3)


def _to_shape(grad: Tensor, like: Tensor) -> Tensor:
    """Summed over the sample dimensions."""
    return grad if grad.dim() == like.dim() else grad.sum(tuple(range(grad.dim() - like.dim())))
