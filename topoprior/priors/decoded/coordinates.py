"""Whitened coordinates of decoded kernels: latents, amplitudes, a residual."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from topoprior.kernels.nearest import amplitudes, nearest_kernels
from topoprior.priors.coordinates import Coordinates, Part, Shape, Uniform
from topoprior.utils.precision import at_least_float32


def check_fixed_scales(prior: Any) -> None:
    if prior.empirical_bayes:
        raise ValueError(
            "empirical_bayes: a delta posterior has no width to learn a prior's scales from; expected False, "
            "found True"
        )


class DecodedCoordinates(Coordinates):
    r"""w = s_a alpha g(z) + s_b beta / sqrt(k) (+ tau residual) from standard normal alpha, beta and residual.

    Parts "z" (out, in, dim), lifts of uniform points of a compact space; "alpha", "beta" (out, in); "residual"
    (*shape) where tau > 0. A deck transformation of z changes neither w nor p.
    """

    matrix: Tensor
    prior_buffers = ("scales", "matrix")

    def __init__(
        self, prior: Any, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        check_fixed_scales(prior)
        shape, scale = torch.Size(shape), prior.scales(shape)
        space = prior.covering
        parts = {
            "z": Part(torch.Size([*shape[:2], space.cover_dim]), Uniform(space)),
            "alpha": Part(shape[:2]),
            "beta": Part(shape[:2]),
        }
        if scale.residual > 0:
            parts["residual"] = Part(shape)
        scales = (scale.alpha, scale.beta / math.sqrt(math.prod(prior.kernel_size)), scale.residual)
        super().__init__(prior, shape, parts, scales, device=device, dtype=dtype)
        self.waves = prior.waves
        # alpha g(z) + beta / sqrt(k) as one matrix product, with the prior's scales in the matrix.
        size = (len(self.waves.matrix) + 1, math.prod(prior.kernel_size))
        self.register_buffer("matrix", torch.empty(size, device=device, dtype=dtype))
        self.fill_buffers()

    def fill_buffers(self) -> None:
        super().fill_buffers()
        alpha_scale, beta_scale, _ = self._scales
        self.matrix[:-1] = (self.waves.matrix.float() * alpha_scale).to(self.matrix)
        self.matrix[-1] = beta_scale

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        rows = self.waves.rows(x["z"].unbind(-1), x["alpha"])
        weight = (torch.stack([*rows, x["beta"]], -1) @ self.matrix).view(self.shape)
        return weight if "residual" not in x else weight + self.scales[2] * x["residual"]

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        """Least squares over z, alpha and beta; what is left over goes to the residual."""
        kernels = at_least_float32(weight.detach().to(self.matrix)).flatten(2).flatten(0, 1)
        alpha_scale, beta_scale, _ = self._scales
        z = nearest_kernels(self.waves, kernels, offset=beta_scale > 0, progress=True)
        decoded = torch.stack(self.waves.rows(z.T), -1) @ self.waves.matrix.to(z)
        found = amplitudes(kernels, decoded, offset=beta_scale > 0)
        alpha, beta = (
            (found / found.new_tensor([alpha_scale, beta_scale or 1.0])).to(self.matrix).unbind(-1)
        )
        x = {"z": z.to(self.matrix), "alpha": alpha, "beta": beta}
        x = {name: part.unflatten(0, self.shape[:2]) for name, part in x.items()}
        if "residual" in self.parts:
            x["residual"] = (weight.to(self.matrix) - self.weight(x)) / self.scales[2]
        return x


class EuclideanCoordinates(Coordinates):
    """The same with a network for g and standard normal latents: parts "z" (out, in, dim), "alpha", "beta" (out, in)."""

    def __init__(
        self, prior: Any, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        check_fixed_scales(prior)
        shape, (alpha_scale, beta_scale) = torch.Size(shape), prior.scales(shape)
        parts = {
            "z": Part(torch.Size([*shape[:2], prior.dim])),
            "alpha": Part(shape[:2]),
            "beta": Part(shape[:2]),
        }
        scales = (alpha_scale, beta_scale / math.sqrt(math.prod(prior.kernel_size)))
        super().__init__(prior, shape, parts, scales, device=device, dtype=dtype)
        # In the state_dict: the weights that it stands for must not depend on which decoder is installed.
        self.decoder = copy.deepcopy(prior.decoder).to(self.scales)
        self.fill_buffers()

    def fill_buffers(self) -> None:
        super().fill_buffers()
        for own, known in zip(self.decoder.buffers(), self.prior.decoder.buffers(), strict=True):
            own.copy_(known)

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        alpha, beta = x["alpha"][..., None] * self.scales[0], x["beta"][..., None] * self.scales[1]
        return (alpha * self.decoder(x["z"]) + beta).view(self.shape)

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        kernels, offset = weight.detach().float().flatten(2).flatten(0, 1), self.prior.mean_fraction > 0
        z = nearest_kernels(self.prior.decoder, kernels, offset=offset, progress=True)
        decoder = copy.deepcopy(self.prior.decoder).to(kernels)
        found = amplitudes(kernels, decoder(z), offset=offset)
        scales = self.scales.float()
        alpha, beta = (found / torch.where(scales > 0, scales, 1.0)).unflatten(0, self.shape[:2]).unbind(-1)
        return {"z": z.unflatten(0, self.shape[:2]), "alpha": alpha, "beta": beta}


class FixedCoordinates(Coordinates):
    """Frozen filters: parts "alpha" and "beta", (out, in). The filters' points are a buffer, drawn once."""

    latents: Tensor

    def __init__(
        self, prior: Any, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        check_fixed_scales(prior)
        shape, scale = torch.Size(shape), prior.decoder.scales(shape)
        parts = {"alpha": Part(shape[:2]), "beta": Part(shape[:2])}
        scales = (scale.alpha, scale.beta / math.sqrt(math.prod(shape[2:])))
        super().__init__(prior, shape, parts, scales, device=device, dtype=dtype)
        self._law = Uniform(prior.decoder.covering)
        latents = torch.empty(*shape[:2], prior.decoder.covering.cover_dim, device=device, dtype=dtype)
        self.register_buffer("latents", latents)
        self.fill_buffers()
        self.sample()

    def sample(self) -> dict[str, Tensor]:
        """A draw from the prior, with new filters."""
        self.latents.copy_(self._law.sample(self.latents.shape, self.latents))
        return super().sample()

    def weight(self, x: Mapping[str, Tensor]) -> Tensor:
        spread = (...,) + (None,) * (len(self.shape) - 2)
        alpha, beta = self.scales[0] * x["alpha"], self.scales[1] * x["beta"]
        return alpha[spread] * self.prior.decoder.decode(self.latents) + beta[spread]

    @torch.no_grad()
    def invert(self, weight: Tensor) -> dict[str, Tensor]:
        """Least squares over alpha and beta, filter by filter."""
        filters = self.prior.decoder.decode(self.latents.double()).flatten(2)
        basis = torch.stack([filters, torch.ones_like(filters)], -1) * self.scales.double()
        found = torch.linalg.pinv(basis) @ weight.detach().double().flatten(2)[..., None]
        alpha, beta = found.squeeze(-1).to(self.scales).unbind(-1)
        return {"alpha": alpha, "beta": beta}
