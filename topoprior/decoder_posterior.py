"""The posterior of kernels that are decoded from latent points, fast and lean.

A training step with it costs about as much as one with plain weights: coordinates are stored as rows, the
decoder is a few products of waves and one matrix product, and the backward pass recomputes them from the
noise instead of keeping them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from topoprior.latent_kl import latent_kl
from topoprior.mean_field import Gaussian, MeanFieldPosterior
from topoprior.priors import BoundedScale, Shape, WeightPosterior, draw_noise
from topoprior.projection import nearest_kernels
from topoprior.trigonometric import ProductWaves

if TYPE_CHECKING:
    from topoprior.decoder_prior import DecoderPrior

# Kernels in one block of work: its rows stay in the processor's cache, and its temporaries small.
_BLOCK = 16384


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
        weight, _ = _Decode.apply(self.loc, self.log_scale, noise, self._scaled_matrix(), self.waves)
        weight = weight.unflatten(-1, self.prior.kernel_size)
        if self.residual is not None:
            weight = weight + self.residual.rsample(sample_shape, antithetic=antithetic)
        return weight

    def mean(self) -> Tensor:
        """E[w], exact: a wave under a normal law shrinks by a known factor, and alpha is independent of z."""
        alpha, beta = self.loc[self.dim :]
        decay = self.waves.decay(self.log_scale[: self.dim].exp().unbind())
        rows = [
            row * shrink * alpha
            for row, shrink in zip(self.waves.rows(self.loc[: self.dim]), decay, strict=True)
        ]
        mean = (torch.stack([*rows, beta], -1) @ self._scaled_matrix()).unflatten(
            -1, self.prior.kernel_size
        )
        return mean if self.residual is None else mean + self.residual.mean()

    def kl(self) -> Tensor:
        """Cover bound for z plus the normal KL of the amplitudes (whose units are the prior's)."""
        return self.sum_kl([self])

    @classmethod
    def sum_kl(cls, posteriors: Sequence[WeightPosterior]) -> Tensor:
        """All at once: for small layers the number of operations costs more than their size."""
        parts, rest = [], []
        for p in posteriors:
            assert isinstance(p, DecoderPosterior)
            loc, log_scale = p.loc, p.log_scale
            if loc.dtype in (torch.float16, torch.bfloat16):  # too few digits for sums of squares
                loc, log_scale = loc.float(), log_scale.float()
            parts.append((loc, log_scale, p.waves.periods))
            if p.residual is not None:
                rest.append(p.residual.kl())
        return sum(rest, latent_kl(parts))

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

    The second output, e^log_scale noise, is what the backward pass keeps. Works in blocks of output
    channels, into memory that is allocated once: fresh pages cost more than the arithmetic.
    """

    @staticmethod
    def forward(
        loc: Tensor, log_scale: Tensor, noise: Tensor, matrix: Tensor, waves: ProductWaves
    ) -> tuple[Tensor, Tensor]:
        out, inputs = loc.shape[1:]
        step = noise * log_scale.exp()
        steps = step.view(-1, *loc.shape)
        weights = matrix.new_empty(len(steps), out, inputs, matrix.shape[1])
        blocks = _blocks(out, inputs)
        room = matrix.new_empty(matrix.shape[0] * blocks[0].stop * inputs)
        for block in blocks:
            features = room[: matrix.shape[0] * len(range(out)[block]) * inputs].view(
                len(matrix), -1, inputs
            )
            for sample, weight in zip(steps, weights, strict=True):
                x = loc[:, block] + sample[:, block]
                for feature, row in zip(features, waves.rows(x[:-2]), strict=False):
                    torch.mul(row, x[-2], out=feature)
                features[-1] = x[-1]
                torch.mm(features.flatten(1).T, matrix, out=weight[block].view(-1, matrix.shape[1]))
        return weights.view(*noise.shape[:-3], out, inputs, -1), step

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        *tensors, waves = args
        if in_dims[:4] == (None, None, in_dims[2], None):  # many draws from one posterior: as it stands
            loc, log_scale, noise, matrix = tensors
            return _Decode.apply(loc, log_scale, noise.movedim(in_dims[2], 0), matrix, waves), (0, 0)
        rows = [
            [t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=False)]
            for i in range(info.batch_size)
        ]
        found = [_Decode.apply(*row, waves) for row in rows]
        return (torch.stack([w for w, _ in found]), torch.stack([s for _, s in found])), (0, 0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
        loc, log_scale, _, matrix, ctx.waves = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(loc, log_scale, output[1], matrix)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        loc, log_scale, steps, matrix = ctx.saved_tensors
        waves: ProductWaves = ctx.waves
        if torch.is_grad_enabled():  # to be differentiated again: as a function of the scales
            scale = log_scale.exp()
            steps = (steps / scale).detach() * scale
        grad = grad.to(matrix.dtype)
        of_loc, of_scale, of_matrix = [], [], None
        for block in _blocks(*loc.shape[1:], samples=steps.numel() // loc.numel()):
            step = steps[..., block, :]
            x = (loc[:, block] + step).movedim(-3, 0)
            alpha = x[-2]
            part = grad[..., block, :, :].reshape(-1, grad.shape[-1])
            *of_rows, of_beta = (matrix @ part.T).view(-1, *alpha.shape).unbind()
            of_alpha, slopes = waves.gradient(x[:-2], of_rows)
            of_sample = torch.stack([*(slope * alpha for slope in slopes), of_alpha, of_beta], -3)
            of_loc.append(_to_shape(of_sample, loc))
            of_scale.append(_to_shape(of_sample * step, loc))
            if ctx.needs_input_grad[3]:
                rows = torch.stack([*(row * alpha for row in waves.rows(x[:-2])), x[-1]])
                product = rows.flatten(1) @ part
                of_matrix = product if of_matrix is None else of_matrix + product
        return _joined(of_loc), _joined(of_scale), None, of_matrix, None


def _joined(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, -2)


def _blocks(out: int, inputs: int, samples: int = 1) -> list[slice]:
    """Slices of the output channels, with about ``_BLOCK`` kernels in each."""
    step = min(out, max(1, _BLOCK // (inputs * max(1, samples))))
    return [slice(i, min(i + step, out)) for i in range(0, out, step)]


def _to_shape(grad: Tensor, like: Tensor) -> Tensor:
    """Summed over the sample dimensions."""
    return grad if grad.dim() == like.dim() else grad.sum(tuple(range(grad.dim() - like.dim())))
