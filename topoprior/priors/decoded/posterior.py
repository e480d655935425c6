"""The posterior of kernels that are decoded from latent points, fast and lean.

A training step with it costs about as much as one with plain weights: coordinates are stored as rows, the
decoder is a few products of waves and one matrix product, and the backward pass recomputes them from the
noise instead of keeping them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.kernels.nearest import amplitudes, nearest_kernels
from topoprior.priors.base import Shape, WeightPosterior, at_least_float32, draw_noise, narrow_, normal_kl
from topoprior.priors.decoded.draw import Decode
from topoprior.priors.decoded.kl import latent_kl
from topoprior.priors.decoded.network import hermite_grid
from topoprior.priors.decoded.pixels import Decoder
from topoprior.priors.empirical_bayes import BoundedScale
from topoprior.priors.mean_field.base import Gaussian, MeanFieldPosterior

_SMALL = 2**18  # numbers: below, copying them costs less than the operations it saves


class DecoderPosterior(WeightPosterior):
    r"""Mean-field posterior over the latents z (wrapped normal) and amplitudes alpha, beta (normal).

    Parameters ``loc`` and ``log_scale``, (dim + 2, out, in): rows are the coordinates of z, as lifts, then
    alpha and beta in units of their prior stds. With a residual, ``residual`` is a mean-field normal
    posterior over all pixels; with empirical Bayes, ``factors`` holds what is learned of the prior's scales.
    """

    matrix: Tensor
    kl_kind = "bound"
    prior_buffers = ("matrix",)
    #: Whether draws and KL are compiled: :func:`topoprior.compile_posteriors`.
    compiled: bool = False

    def __init__(
        self, prior: Any, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.prior, self.shape = prior, torch.Size(shape)
        self.waves = prior.waves
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        rows = (prior.covering.dim + 2, *self.shape[:2])
        self.loc = nn.Parameter(torch.empty(rows, **options))
        self.log_scale = nn.Parameter(torch.empty(rows, **options))
        scale = prior.scales(shape)
        pixels = math.prod(prior.kernel_size)
        self.scales = scale.alpha, scale.beta / math.sqrt(pixels)
        # alpha g(z) + beta / sqrt(k) as one matrix product, with the prior's scales in the matrix.
        self.register_buffer("matrix", torch.empty(len(self.waves.matrix) + 1, pixels, **options))
        self.decoder = Decoder(self.waves)
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

    def latent_mask(self) -> Tensor:
        mask = torch.zeros_like(self.loc, dtype=torch.bool)
        mask[: self.dim] = True
        return mask

    def compile_(self, on: bool = True) -> bool:
        self.compiled = on
        return True

    def fill_buffers(self) -> None:
        self.factors.fill_buffers()
        alpha_scale, beta_scale = self.scales
        self.matrix[:-1] = (self.waves.matrix.float() * alpha_scale).to(self.matrix)
        self.matrix[-1] = beta_scale

    def reset_parameters(self) -> None:
        """A draw from the prior, with z spread uniformly over the space."""
        self.fill_buffers()
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

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.loc.shape, self.loc, antithetic)
        # The compiler fuses the plain formula better than it can the blocks.
        if self.factors.rho is None and not torch.compiler.is_compiling():
            weight, _ = Decode.apply(
                self.loc, self.log_scale, noise, self.decoder, self.scales, self.compiled
            )
        else:
            *z, alpha, beta = (self.loc + self.log_scale.exp() * noise).unbind(-3)
            weight = self._decode([row * alpha for row in self.waves.rows(z)], beta)
        weight = weight.unflatten(-1, self.prior.kernel_size)
        if self.residual is not None:
            weight = weight + self.residual.rsample(sample_shape, antithetic=antithetic)
        return weight

    def _decode(self, rows: Sequence[Tensor], beta: Tensor) -> Tensor:
        """[rows, beta] @ matrix, with what empirical Bayes has learned, (..., out, in, k)."""
        alpha_factor, beta_factor = self.factors().unbind()
        return torch.stack([*(row * alpha_factor for row in rows), beta * beta_factor], -1) @ self.matrix

    def mean(self) -> Tensor:
        """E[w], exact: a wave under a normal law shrinks by a known factor, and alpha is independent of z."""
        alpha, beta = self.loc[self.dim :]
        decay = self.waves.decay(self.log_scale[: self.dim].exp().unbind())
        rows = [
            row * shrink * alpha
            for row, shrink in zip(self.waves.rows(self.loc[: self.dim]), decay, strict=True)
        ]
        mean = self._decode(rows, beta).unflatten(-1, self.prior.kernel_size)
        return mean if self.residual is None else mean + self.residual.mean()

    def kl(self) -> Tensor:
        """Cover bound for z plus the normal KL of the amplitudes (whose units are the prior's)."""
        return self.sum_kl([self])

    @classmethod
    def sum_kl(cls, posteriors: Sequence[WeightPosterior]) -> Tensor:
        """Small ones side by side: there the number of operations costs more than their size."""
        groups: dict[tuple, list[tuple[Tensor, Tensor]]] = {}
        kls = []
        for i, p in enumerate(posteriors):
            assert isinstance(p, DecoderPosterior)
            loc, log_scale = at_least_float32(p.loc), at_least_float32(p.log_scale)
            key = (tuple(p.waves.periods), p.compiled, loc.dtype, i if loc.numel() > _SMALL else None)
            groups.setdefault(key, []).append((loc.flatten(1), log_scale.flatten(1)))
            if p.residual is not None:
                kls.append(p.residual.kl())
        for (periods, compiled, *_), pairs in groups.items():
            loc, log_scale = (
                pairs[0] if len(pairs) == 1 else (torch.cat(t, 1) for t in zip(*pairs, strict=True))
            )
            kls.append(latent_kl(loc, log_scale, periods, compiled))
        return torch.stack([kl.to(kls[0]) for kl in kls]).sum() if len(kls) > 1 else kls[0]

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
        kernels = at_least_float32(weight.detach().to(self.loc)).flatten(2).flatten(0, 1)
        alpha_scale, beta_scale = self.scales
        z = nearest_kernels(self.waves, kernels, offset=beta_scale > 0, progress=True).T
        # Alpha and beta for the mean, whose waves are shorter than those at a point by known factors.
        decay = self.waves.decay(self.log_scale[: self.dim].to(z).flatten(1).exp().unbind())
        rows = [row * shrink for row, shrink in zip(self.waves.rows(z), decay, strict=True)]
        decoded = torch.stack(rows, -1) @ self.waves.matrix.to(z)
        alpha, level = amplitudes(kernels, decoded, offset=beta_scale > 0).unbind(-1)
        found = torch.stack([*z, alpha / alpha_scale, level / (beta_scale or 1.0)])
        self.loc.copy_(found.unflatten(1, self.shape[:2]))
        if self.residual is not None:
            self.residual.loc.zero_()
            self.residual.loc.copy_(weight - self.mean())
        return (weight - self.mean()).norm() / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny)

    def narrow_(self, std: float) -> None:
        """Amplitudes and residual; :meth:`project_` narrows the latents. E|g(z)|^2 = 1 over k pixels."""
        alpha_scale, beta_scale = self.scales
        narrow_(self.log_scale[self.dim], std, alpha_scale / math.sqrt(self.shape[2:].numel()))
        narrow_(self.log_scale[self.dim + 1], std, beta_scale)
        if self.residual is not None:
            self.residual.narrow_(std)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"


_MEAN_NODES = 7  # a dimension, of the quadrature for the mean


class EuclideanDecoderPosterior(WeightPosterior):
    """Mean-field normal over z, alpha and beta of every kernel, side by side: (out, in, dim + 2).

    Parameters ``loc`` and ``log_scale``; alpha and beta are in units of their prior stds.
    """

    amplitude_scales: Tensor
    nodes: Tensor
    node_weights: Tensor
    kl_kind = "bound"
    prior_buffers = ("amplitude_scales",)

    def __init__(
        self,
        prior: Any,
        shape: Shape,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.prior, self.shape = prior, torch.Size(shape)
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        alpha_scale, beta_scale = prior.scales(shape)
        self._scales = alpha_scale, beta_scale / math.sqrt(math.prod(prior.kernel_size))
        self.loc = nn.Parameter(torch.empty(*self.shape[:2], prior.dim + 2, **options))
        self.log_scale = nn.Parameter(torch.empty_like(self.loc))
        self.register_buffer("amplitude_scales", torch.empty(2, **options))
        for name, size in (
            ("nodes", (_MEAN_NODES**prior.dim, prior.dim)),
            ("node_weights", (_MEAN_NODES**prior.dim,)),
        ):
            self.register_buffer(name, torch.empty(size, **options), persistent=False)
        # In the state_dict: the weights that it stands for must not depend on which decoder is installed.
        self.decoder = copy.deepcopy(prior.decoder).to(self.loc)
        self.factors = BoundedScale(2, prior.empirical_bayes, **options)
        self.reset_parameters()

    def latent_mask(self) -> Tensor:
        mask = torch.zeros_like(self.loc, dtype=torch.bool)
        mask[..., : self.prior.dim] = True
        return mask

    def fill_buffers(self) -> None:
        self.factors.fill_buffers()
        for i, scale in enumerate(self._scales):
            self.amplitude_scales[i] = scale
        nodes, weights = hermite_grid(self.prior.dim, _MEAN_NODES)
        self.nodes.copy_(nodes)
        self.node_weights.copy_(weights)
        for own, known in zip(self.decoder.buffers(), self.prior.decoder.buffers(), strict=True):
            own.copy_(known)

    def reset_parameters(self) -> None:
        self.fill_buffers()
        with torch.no_grad():
            self.loc.normal_()
            self.log_scale[..., : self.prior.dim].fill_(math.log(self.prior.init_latent_scale))
            self.log_scale[..., self.prior.dim :].fill_(math.log(self.prior.init_scale))
        self.factors.reset_parameters()

    def _weights(self, kernels: Tensor, amplitudes: Tensor) -> Tensor:
        alpha, beta = (amplitudes * self.amplitude_scales * self.factors()).split(1, -1)
        return (alpha * kernels + beta).unflatten(-1, self.prior.kernel_size)

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.loc.shape, self.loc, antithetic)
        latents = torch.addcmul(self.loc, self.log_scale.exp(), noise)
        z, amplitudes = latents.split([self.prior.dim, 2], -1)
        return self._weights(self.decoder(z), amplitudes)

    def mean(self) -> Tensor:
        """E[w] = E[alpha] E[g(z)] + E[beta] / sqrt(k), by Gauss-Hermite quadrature over z, 7 nodes a dimension.

        Error a pixel of g, for "euclidean-3x3": 4e-7 for latent scales up to .1, 2e-4 at .3, .04 at 1.
        """
        z_loc, amplitudes = self.loc.split([self.prior.dim, 2], -1)
        z_scale = self.log_scale[..., : self.prior.dim].exp()
        # One node at a time: all of them at once would not fit in memory.
        kernels = sum(
            w * self.decoder(z_loc + z_scale * x)
            for x, w in zip(self.nodes, self.node_weights, strict=True)
        )
        assert isinstance(kernels, Tensor)
        return self._weights(kernels, amplitudes)

    def kl(self) -> Tensor:
        """KL of the latents and amplitudes, whose units are the prior's: normal to standard normal."""
        return normal_kl(at_least_float32(self.loc), at_least_float32(self.log_scale), 1.0)

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        """Center every kernel on the nearest decoded one: least squares over z, alpha and beta.

        The latent scales shrink to at most .01, so that the mean is sharp; the factors of empirical Bayes
        start afresh.
        """
        if weight.shape != self.shape:
            raise ValueError(f"weight: expected shape {tuple(self.shape)}, found {tuple(weight.shape)}")
        self.factors.reset_parameters()
        dim = self.prior.dim
        self.log_scale[..., :dim].clamp_(max=math.log(min(0.01, self.prior.init_latent_scale)))
        kernels = at_least_float32(weight.detach().to(self.loc)).flatten(2).flatten(0, 1)
        alpha_scale, beta_scale = self._scales
        z = nearest_kernels(self.prior.decoder, kernels, offset=beta_scale > 0, progress=True)
        # Alpha and beta for the mean, which is a little blunter than the kernel at its center.
        decoder = copy.deepcopy(self.prior.decoder).to(kernels)
        scale = self.log_scale[..., :dim].to(z).flatten(0, 1).exp()
        decoded = sum(
            w * decoder(z + scale * x)
            for x, w in zip(*(t.to(z) for t in hermite_grid(dim, _MEAN_NODES)), strict=True)
        )
        assert isinstance(decoded, Tensor)
        found = amplitudes(kernels, decoded, offset=beta_scale > 0)
        found = torch.cat([z, found / found.new_tensor([alpha_scale, beta_scale or 1.0])], -1)
        self.loc.copy_(found.unflatten(0, self.shape[:2]))
        left = (weight - self.mean().to(weight)).norm()
        return left / weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)

    def narrow_(self, std: float) -> None:
        """The amplitudes; :meth:`project_` narrows the latents. E|g(z)|^2 = 1 over k pixels."""
        alpha_scale, beta_scale = self.amplitude_scales.tolist()
        narrow_(self.log_scale[..., -2], std, alpha_scale / math.sqrt(self.shape[2:].numel()))
        narrow_(self.log_scale[..., -1], std, beta_scale)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"
