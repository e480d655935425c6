"""The posterior of kernels that are decoded from latent points, fast and lean.

A training step with it costs about as much as one with plain weights: coordinates of harmonic decoders are stored as
rows, the decoder is a few products of waves and one matrix product, and the backward pass recomputes them from the
noise instead of keeping them. That arithmetic is in pixels.py, draw.py, compiled.py and priors/kl.py; here is the plain formula.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.kernels.nearest import amplitudes
from topoprior.priors.base import (
    Shape,
    WeightPosterior,
    WeightPrior,
    at_least_float32,
    check_weight,
    draw_noise,
    left_over,
    narrow_,
)
from topoprior.priors.decoded.decoder import KernelDecoder, Scales
from topoprior.priors.decoded.draw import Decode
from topoprior.priors.decoded.pixels import How
from topoprior.priors.empirical_bayes import BoundedScale
from topoprior.priors.joint import joined
from topoprior.priors.kl import Part, total
from topoprior.priors.mean_field.base import Gaussian
from topoprior.priors.mean_field.posterior import MeanFieldPosterior
from topoprior.utils.precision import autocast_dtype

_LAST = torch.channels_last


class DecoderPosterior(WeightPosterior):
    r"""Mean-field posterior over the latents z (normal, pushed to the space) and amplitudes alpha, beta (normal).

    Parameters ``loc`` and ``log_scale``: the coordinates of z, as lifts, then alpha and beta in units of their prior
    stds; (dim + 2, out, in) for harmonic decoders, (out, in, dim + 2) for others. With a residual, ``residual`` is a
    mean-field normal posterior over all pixels; with empirical Bayes, ``factors`` holds what is learned of the scales.

    Args:
        decoder: g.
        scale: prior stds of alpha, beta and the residual's pixels.
        shape: of the weights.
        init_scale: std of alpha and beta at the start, in prior stds.
        init_latent_scale: std of z at the start, in the decoder's ``lengths``.
        empirical_bayes: learn factors on ``scale``.
        prior: whose posterior this is, for what it says of itself.
    """

    kl_kind = "bound"
    #: Whether draws are compiled: :func:`topoprior.compile_posteriors`.
    compiled: bool = False

    def __init__(
        self,
        decoder: KernelDecoder,
        scale: Scales,
        shape: Shape,
        *,
        init_scale: float = 0.01,
        init_latent_scale: float = 0.003,
        empirical_bayes: bool = False,
        prior: WeightPrior | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(dtype)
        self.prior, self.shape = prior, torch.Size(shape)
        self.dim, self.axis = decoder.space.dim, -3 if decoder.rows else -1
        self.scales = scale.alpha, scale.beta / math.sqrt(math.prod(decoder.kernel_size))
        self.init_scale, self.init_latent_scale = init_scale, init_latent_scale
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        count = (self.dim + 2,)
        size = (*count, *self.shape[:2]) if decoder.rows else (*self.shape[:2], *count)
        self.loc = nn.Parameter(torch.empty(size, **options))
        self.log_scale = nn.Parameter(torch.empty(size, **options))
        self.prior_buffers = (decoder.known_name,)
        self.register_buffer(decoder.known_name, torch.empty(decoder.known(self.scales).shape, **options))
        self._given = (
            decoder,
        )  # as it came; in a tuple, as it may be a module that is not part of this one
        self.decoder = decoder.installed(self.loc)
        self.residual: MeanFieldPosterior | None = None
        if scale.residual > 0:
            pixelwise = Gaussian(scale.residual, init_scale=init_scale, empirical_bayes=empirical_bayes)
            self.residual = pixelwise.posterior(shape, **options)
        self.factors = BoundedScale(2, empirical_bayes, **options)
        self.reset_parameters()

    @property
    def known(self) -> Tensor:
        return self.get_buffer(self.decoder.known_name)

    @property
    def latent_loc(self) -> Tensor:
        """Centers of z, lifts (out, in, dim)."""
        return self._coordinates(self.loc)[0]

    @property
    def latent_scale(self) -> Tensor:
        """Stds of z, (out, in, dim)."""
        return self._coordinates(self.log_scale)[0].exp()

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., out, in, dim), (..., out, in), (..., out, in): what parameters say of z, alpha and beta."""
        x = x.movedim(self.axis, -1)
        return x[..., : self.dim], x[..., self.dim], x[..., self.dim + 1]

    def latent_mask(self) -> Tensor:
        mask = torch.zeros_like(self.loc, dtype=torch.bool)
        self._coordinates(mask)[0].fill_(True)
        return mask

    def latent_parameters(self) -> Sequence[nn.Parameter]:
        return [self.loc]

    def compile_(self, on: bool = True) -> bool:
        if self.decoder.pixels is None:
            return False
        self.compiled = on
        return True

    def fill_buffers(self) -> None:
        (decoder,) = self._given
        self.factors.fill_buffers()
        self.known.copy_(decoder.known(self.scales))
        self.decoder.refill_(decoder)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A draw from the prior."""
        self.fill_buffers()
        self.decoder.draw_(self.loc)
        latents, alpha, beta = self._coordinates(self.log_scale)
        for latent, length in zip(latents.unbind(-1), self.decoder.lengths, strict=True):
            latent.fill_(math.log(length * self.init_latent_scale))
        alpha.fill_(math.log(self.init_scale))
        beta.fill_(math.log(self.init_scale))
        self.factors.reset_parameters()
        if self.residual is not None:
            self.residual.reset_parameters()

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        return self._rsample(sample_shape, antithetic)

    def rsample_for(self, input: Tensor) -> Tensor:
        last = input.dim() == 4 and not input.is_contiguous() and input.is_contiguous(memory_format=_LAST)
        alone = self.residual is None
        return self._rsample(
            channels_last=alone and last, dtype=autocast_dtype(self.loc) if alone else None
        )

    def _rsample(self, sample_shape: Shape = (), antithetic: bool = False, **kept: Any) -> Tensor:
        noise = draw_noise(sample_shape, self.loc.shape, self.loc, antithetic)
        pixels = self.decoder.pixels
        if pixels is not None and self.factors.rho is None and not _traced():
            weight, _ = Decode.apply(
                self.loc, self.log_scale, noise, How(pixels, self.scales, self.compiled, **kept)
            )
        else:
            x = torch.addcmul(self.loc, self.log_scale.exp(), noise)
            z, alpha, beta = self._coordinates(x)
            alpha_factor, beta_factor = self.factors().unbind()
            weight = self.decoder.weights(z, alpha * alpha_factor, beta * beta_factor, self.known)
        weight = weight.unflatten(-1, self.shape[2:])
        if self.residual is not None:
            weight = weight + self.residual.rsample(sample_shape, antithetic=antithetic)
        return weight

    def joint_key(self) -> Hashable:
        pixels, alone = self.decoder.pixels, self.compiled or self.residual is not None
        if pixels is None or alone or self.factors.rho is not None or _traced():
            return None
        return DecoderPosterior, pixels.key, self.loc.dtype, self.loc.device

    @classmethod
    def rsample_jointly(cls, posteriors: Sequence[Any]) -> list[Tensor]:
        """As of one layer with one output channel, whose kernels have scales of their own."""
        pixels, counts = posteriors[0].decoder.pixels, [p.loc[0].numel() for p in posteriors]
        loc, log_scale = (
            joined([getattr(p, name) for p in posteriors], 1).unsqueeze(1) for name in ("loc", "log_scale")
        )
        scales = loc.new_tensor([p.scales for p in posteriors]).repeat_interleave(
            torch.tensor(counts, device=loc.device), 0, output_size=sum(counts)
        )
        how = How(pixels, (scales[:, 0], scales[:, 1]))
        weights, _ = Decode.apply(loc, log_scale, torch.randn_like(loc), how)
        return [w.view(p.shape) for w, p in zip(weights[0].split(counts), posteriors, strict=True)]

    def mean(self) -> Tensor:
        """E[w]: alpha is independent of z."""
        z, alpha, beta = self._coordinates(self.loc)
        alpha_factor, beta_factor = self.factors().unbind()
        mean = self.decoder.mean_weights(
            z, self.latent_scale, alpha * alpha_factor, beta * beta_factor, self.known
        ).unflatten(-1, self.shape[2:])
        return mean if self.residual is None else mean + self.residual.mean()

    def kl(self) -> Tensor:
        """That of the latents plus the normal KL of the amplitudes (whose units are the prior's) and the residual."""
        return total(*DecoderPosterior.kl_parts(self))

    def kl_parts(self) -> tuple[list[Tensor], list[Part]]:
        loc, log_scale = at_least_float32(self.loc), at_least_float32(self.log_scale)
        # A decoder with a KL of its own has no part in closed form.
        periods = self.decoder.kl_periods if type(self.decoder).kl is KernelDecoder.kl else None
        own: tuple[list[Tensor], list[Part]] = [], []
        if periods is None:
            own[0].append(self.decoder.kl(loc, log_scale))
        else:
            own[1].append(Part(loc, log_scale, periods))
        if self.residual is None:
            return own
        kls, parts = self.residual.kl_parts()
        return own[0] + kls, own[1] + parts

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        """Center every kernel on the decoder's nearest one: least squares over z, alpha and beta.

        The latent scales shrink to at most 1/200 of a period (on Euclidean space .01), so that the mean is sharp; what
        cannot be decoded goes to the residual, where there is one. The factors of empirical Bayes start afresh.
        """
        check_weight(weight, self.shape)
        (decoder,) = self._given
        self.factors.reset_parameters()
        narrow = min(decoder.sharp, self.init_latent_scale)
        latents = self._coordinates(self.log_scale)[0]
        for latent, length in zip(latents.unbind(-1), decoder.lengths, strict=True):
            latent.clamp_(max=math.log(length * narrow))
        kernels = at_least_float32(weight.detach().to(self.loc)).flatten(2).flatten(0, 1)
        alpha_scale, beta_scale = self.scales
        offset = beta_scale > 0
        z = decoder.nearest(kernels, offset=offset)
        # Alpha and beta for the mean, which is a little blunter than the kernel at its center.
        decoded = decoder.mean(z, latents.flatten(0, 1).to(z).exp())
        found = amplitudes(kernels, decoded, offset=offset)
        x = torch.cat([z, found / found.new_tensor([alpha_scale, beta_scale or 1.0])], -1)
        self.loc.copy_(x.unflatten(0, self.shape[:2]).movedim(-1, self.axis))
        if self.residual is not None:
            self.residual.loc.zero_()
            self.residual.loc.copy_(weight - self.mean())
        return left_over(weight, self.mean())

    def narrow_(self, std: float) -> None:
        """Amplitudes and residual; :meth:`project_` narrows the latents. E|g(z)|^2 = 1 over k pixels."""
        (alpha_scale, beta_scale), (_, alpha, beta) = self.scales, self._coordinates(self.log_scale)
        narrow_(alpha, std, alpha_scale / math.sqrt(self.shape[2:].numel()))
        narrow_(beta, std, beta_scale)
        if self.residual is not None:
            self.residual.narrow_(std)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"


def _traced() -> bool:
    """The compiler fuses the plain formula better than it can the blocks; TorchScript saves no function of Python."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


#: From when there were two classes.
EuclideanDecoderPosterior = DecoderPosterior
