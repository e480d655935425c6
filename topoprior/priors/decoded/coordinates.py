"""Whitened coordinates of decoded kernels: latents, amplitudes, a residual."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from topoprior.kernels.nearest import amplitudes
from topoprior.priors.coordinates import Coordinates, Part, Shape
from topoprior.priors.decoded.decoder import KernelDecoder, Scales
from topoprior.priors.decoded.point import DecodePoint
from topoprior.utils.precision import at_least_float32
from topoprior.utils.tracing import functions_work


def check_fixed_scales(empirical_bayes: bool) -> None:
    if empirical_bayes:
        raise ValueError(
            "empirical_bayes: a delta posterior has no width to learn a prior's scales from; expected False, "
            "found True"
        )


class DecodedCoordinates(Coordinates):
    r"""w = s_a alpha g(z) + s_b beta / sqrt(k) (+ tau residual) from standard normal alpha, beta and residual.

    Parts "z" (out, in, dim), under the decoder's law; "alpha", "beta" (out, in); "residual" (*shape) where tau > 0. On a
    closed space z are lifts: a deck transformation changes neither w nor p.
    """

    def __init__(
        self,
        decoder: KernelDecoder,
        scale: Scales,
        shape: Shape,
        *,
        prior: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = torch.Size(shape)
        parts = {
            "z": Part(torch.Size([*shape[:2], decoder.space.dim]), decoder.law),
            "alpha": Part(shape[:2]),
            "beta": Part(shape[:2]),
        }
        if scale.residual > 0:
            parts["residual"] = Part(shape)
        amplitude_scales = scale.alpha, scale.beta / math.sqrt(math.prod(shape[2:]))
        third = (scale.residual,) if scale.residual > 0 or decoder.rows else ()
        super().__init__(prior, shape, parts, amplitude_scales + third, device=device, dtype=dtype)
        self._given = (
            decoder,
        )  # as it came; in a tuple, as it may be a module that is not part of this one
        self._amplitude_scales = amplitude_scales
        if decoder.known_name == "amplitude_scales":  # they are in `scales`
            self._known_name = "scales"
        else:
            self._known_name = decoder.known_name
            self.prior_buffers = ("scales", decoder.known_name)
            size = decoder.known(self._amplitude_scales).shape
            self.register_buffer(decoder.known_name, torch.empty(size, device=device, dtype=dtype))
        self.decoder = decoder.installed(self.scales)
        self.fill_buffers()

    def fill_buffers(self) -> None:
        super().fill_buffers()
        (decoder,) = self._given
        if self._known_name != "scales":
            self.get_buffer(self._known_name).copy_(decoder.known(self._amplitude_scales))
        self.decoder.refill_(decoder)

    @property
    def known(self) -> Tensor:
        """What the layer keeps of the decoder and the prior's scales (:meth:`KernelDecoder.known`)."""
        return self.get_buffer(self._known_name)

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        weight = self._decoded(x["z"], x["alpha"], x["beta"]).view(self.shape)
        return weight if "residual" not in x else weight + self.scales[2] * x["residual"]

    def _decoded(self, z: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        pixels = self.decoder.pixels
        if pixels is not None and functions_work(z, alpha, beta) and not torch.jit.is_tracing():
            return DecodePoint.apply(z, alpha, beta, pixels.waves, self.known)
        return self.decoder.weights(z, alpha, beta, self.known)

    @property
    def alike(self) -> Hashable:
        """Equal for layers whose kernels can be decoded together: one decoder, the same amplitudes in use."""
        assert self.decoder.pixels is not None
        return self.decoder.pixels.key, *(scale > 0 for scale in self._amplitude_scales)

    def amplitudes_in(self, other: DecodedCoordinates) -> list[float]:
        """Units of alpha and beta in those of another layer."""
        pairs = zip(self._amplitude_scales, other._amplitude_scales, strict=True)
        return [mine / (its or 1.0) for mine, its in pairs]

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        """Least squares over z, alpha and beta; what is left over goes to the residual."""
        (decoder,) = self._given
        kernels = at_least_float32(weight.detach().to(self.scales)).flatten(2).flatten(0, 1)
        alpha_scale, beta_scale = self._amplitude_scales
        offset = beta_scale > 0
        z = decoder.nearest(kernels, offset=offset)
        found = amplitudes(kernels, decoder(z), offset=offset)
        found = found / found.new_tensor([alpha_scale, beta_scale or 1.0])
        x = {"z": z, "alpha": found[:, 0], "beta": found[:, 1]}
        x = {name: part.to(self.scales).unflatten(0, self.shape[:2]) for name, part in x.items()}
        if "residual" in self.parts:
            x["residual"] = (weight.to(self.scales) - self.weight(x)) / self.scales[2]
        return x


class FixedCoordinates(Coordinates):
    """Frozen filters: parts "alpha" and "beta", (out, in). The filters' points are a buffer, drawn once."""

    latents: Tensor

    def __init__(
        self, prior: Any, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        check_fixed_scales(prior.empirical_bayes)
        shape, scale = torch.Size(shape), prior.source.scales(shape)
        parts = {"alpha": Part(shape[:2]), "beta": Part(shape[:2])}
        scales = (scale.alpha, scale.beta / math.sqrt(math.prod(shape[2:])))
        super().__init__(prior, shape, parts, scales, device=device, dtype=dtype)
        self._law = prior.source.decoder.law
        latents = torch.empty(*shape[:2], prior.source.dim, device=device, dtype=dtype)
        self.register_buffer("latents", latents)
        # As in a posterior: so that the state of another decoder is refused.
        self._numbers = prior.source.decoder.tensors()
        for name, tensor in self._numbers.items():
            self.register_buffer(name, torch.empty(tensor.shape, device=device, dtype=dtype))
        self.newer_buffers = tuple(self._numbers)
        self.prior_buffers = ("scales", *self._numbers)
        self.fill_buffers()
        self.sample()

    def fill_buffers(self) -> None:
        super().fill_buffers()
        for name, tensor in self._numbers.items():
            self.get_buffer(name).copy_(tensor)

    def sample(self) -> dict[str, Tensor]:
        """A draw from the prior, with new filters."""
        self.latents.copy_(self._law.sample(self.latents.shape, self.latents))
        return super().sample()

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        spread = (...,) + (None,) * (len(self.shape) - 2)
        alpha, beta = self.scales[0] * x["alpha"], self.scales[1] * x["beta"]
        return alpha[spread] * self.prior.source.decode(self.latents) + beta[spread]

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        """Least squares over alpha and beta, filter by filter."""
        filters = self.prior.source.decode(self.latents.double()).flatten(2)
        basis = torch.stack([filters, torch.ones_like(filters)], -1) * self.scales.double()
        found = torch.linalg.pinv(basis) @ weight.detach().double().flatten(2)[..., None]
        alpha, beta = found.squeeze(-1).to(self.scales).unbind(-1)
        return {"alpha": alpha, "beta": beta}
