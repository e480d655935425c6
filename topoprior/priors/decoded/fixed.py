"""Frozen filters, as in topological convolutional networks: only their amplitudes are random."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from topoprior.priors.coordinates import Coordinates
from topoprior.priors.decoded.coordinates import FixedCoordinates
from topoprior.priors.decoded.prior import DecoderPrior
from topoprior.priors.empirical_bayes import BoundedScale
from topoprior.priors.registry import register_prior


class FixedKernels(WeightPrior):
    r"""Kernels w_oi = alpha_oi g(z_oi) + beta_oi / sqrt(k) with every z_oi fixed.

    Love et al. (JMLR 2023) freeze the first layers' filters at points of the Klein bottle; with an
    amplitude a kernel the idea serves layers of any depth. z is a draw from its law, made when the
    layer is made and saved with it. Posterior: mean-field normal over alpha and beta, 4 numbers a kernel,
    with an exact KL.

    Args:
        decoder: whose kernels, and whose scales for alpha and beta; a name or folder works too.
        empirical_bayes: learn factors on the two scales.

    Raises:
        ValueError: a decoder with a residual, which is not fixed.

    Example:
        >>> FixedKernels("klein-3x3").posterior((8, 4, 3, 3)).rsample().shape
        torch.Size([8, 4, 3, 3])
    """

    def __init__(
        self, decoder: DecoderPrior | Path | str = "klein-3x3", *, empirical_bayes: bool = False
    ) -> None:
        if not isinstance(decoder, DecoderPrior):
            decoder = DecoderPrior.from_pretrained(decoder)
        if decoder.residual_fraction:
            raise ValueError(
                f"decoder: expected residual_fraction 0 for fixed kernels, found {decoder.residual_fraction}"
            )
        self.source = decoder
        self.name = f"fixed {decoder.name}" if decoder.name else None
        self.gain = decoder.gain
        self.empirical_bayes = empirical_bayes

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> FixedKernelsPosterior:
        return FixedKernelsPosterior(self, shape, device=device, dtype=dtype)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        return FixedCoordinates(self, shape, device=device, dtype=dtype)

    def kernel_covariance(self, shape: Shape) -> Tensor:
        """Before the filters are drawn."""
        return self.source.kernel_covariance(shape)

    def sample(self, shape: Shape) -> Tensor:
        return self.source.sample(shape)

    def serves(self, shape: Shape) -> bool:
        return self.source.serves(shape)

    def __repr__(self) -> str:
        return f"FixedKernels({self.source!r})"


class FixedKernelsPosterior(WeightPosterior):
    """Parameters ``loc`` and ``log_scale``, (2, out, in): alpha and beta in units of their prior stds.

    The numbers of the decoder are buffers only so that the state of another one is refused.
    """

    latents: Tensor
    scales: Tensor

    def __init__(
        self, prior: FixedKernels, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(dtype)
        self.prior, self.shape = prior, torch.Size(shape)
        self._scales = prior.source.scales(shape)[:2]
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.loc = nn.Parameter(torch.empty(2, *self.shape[:2], **options))
        self.log_scale = nn.Parameter(torch.empty(2, *self.shape[:2], **options))
        self.register_buffer("latents", torch.empty(*self.shape[:2], prior.source.dim, **options))
        numbers = prior.source.decoder.tensors()
        for name, tensor in numbers.items():
            self.register_buffer(name, torch.empty(tensor.shape, **options))
        self.register_buffer("scales", torch.empty(2, **options))
        self.prior_buffers = (*numbers, "scales")
        self.factors = BoundedScale(2, prior.empirical_bayes, **options)
        self.reset_parameters()

    def latent_parameters(self) -> Sequence[nn.Parameter]:
        return [self.loc]

    def fill_buffers(self) -> None:
        self.factors.fill_buffers()
        for name, tensor in self.prior.source.decoder.tensors().items():
            self.get_buffer(name).copy_(tensor)
        for i, scale in enumerate(self._scales):
            self.scales[i] = scale

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A draw from the prior, with new filters."""
        self.fill_buffers()
        self.latents.copy_(self.prior.source.decoder.law.sample(self.latents.shape, self.loc))
        self.loc.normal_()
        self.log_scale.fill_(self.prior.source.init_scale).log_()
        self.factors.reset_parameters()

    def _weights(self, amplitudes: Tensor) -> Tensor:
        """For amplitudes (..., 2, out, in)."""
        alpha, beta = (amplitudes * (self.scales * self.factors())[:, None, None]).unbind(-3)
        level = beta / self.shape[2:].numel() ** 0.5
        spread = (...,) + (None,) * len(self.shape[2:])
        return alpha[spread] * self.prior.source.decode(self.latents) + level[spread]

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        noise = draw_noise(sample_shape, self.loc.shape, self.loc, antithetic)
        return self._weights(torch.addcmul(self.loc, self.log_scale.exp(), noise))

    def mean(self) -> Tensor:
        return self._weights(self.loc)

    def kl(self) -> Tensor:
        return normal_kl(at_least_float32(self.loc), at_least_float32(self.log_scale), 1.0)

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        """Center alpha and beta on their least-squares values; the filters stay as they are."""
        check_weight(weight, self.shape)
        self.factors.reset_parameters()
        targets = weight.detach().double().flatten(2)[..., None]
        filters = self.prior.source.decode(self.latents.double()).flatten(2)
        constant = torch.full_like(filters, filters.shape[-1] ** -0.5)
        basis = torch.stack([filters, constant], -1) * self.scales.double()
        gram = basis.mT @ basis
        # A ridge for filters that are constant themselves, or a prior without a mean part.
        ridge = 1e-12 * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        solution = torch.linalg.solve(gram + ridge * torch.eye(2).to(gram), basis.mT @ targets)
        self.loc.copy_(solution.squeeze(-1).movedim(-1, 0))
        return left_over(weight, self.mean())

    def narrow_(self, std: float) -> None:
        """Both amplitudes give a kernel's k pixels a norm of 1 on average."""
        for row, scale in zip(self.log_scale, self.scales.tolist(), strict=True):
            narrow_(row, std, scale / math.sqrt(self.shape[2:].numel()))

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"


register_prior("klein-fixed", lambda: FixedKernels("klein-3x3"))
