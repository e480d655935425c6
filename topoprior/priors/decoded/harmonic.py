"""Decoders that are linear in the harmonics of a closed space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topoprior.distributions.kappa import kappa
from topoprior.priors.coordinates import Uniform
from topoprior.priors.decoded.decoder import KernelDecoder, check_kernel_size, times
from topoprior.priors.decoded.described import describe, find
from topoprior.priors.decoded.distill import fewest_harmonics
from topoprior.priors.decoded.pixels import Decoder
from topoprior.spaces.config import covering_from_config, covering_to_config
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.waves import ProductWaves
from topoprior.utils.checks import check_int, real_tensor

if TYPE_CHECKING:
    from typing_extensions import Self


class HarmonicDecoder(KernelDecoder):
    r"""A decoder that is linear in harmonics: :math:`g(z) = h(z)\, C`, z uniform on a closed space.

    Any smooth decoder is, up to a small error. It has no seams, its mean under a normal law is exact, and a layer costs
    a few trigonometric functions and one matrix product.

    Args:
        harmonics: on a compact flat manifold whose lattice lies along axes.
        coefficients: C, (num_features, k); rescaled to E|g|^2 = 1.
        kernel_size: their product is k.

    Raises:
        ValueError: shapes that do not fit, a space that is not compact or not axis-aligned.

    Example:
        >>> from topoprior import Torus
        >>> decoder = HarmonicDecoder(Harmonics(Torus(2), 5), torch.eye(5, 9), (3, 3))
        >>> decoder(torch.rand(10, 2)).shape
        torch.Size([10, 9])
    """

    rows = True
    sharp = 0.005
    known_name = "matrix"
    format = "topoprior.DecoderPrior/1"

    def __init__(self, harmonics: Harmonics, coefficients: Tensor, kernel_size: Sequence[int]) -> None:
        space = harmonics.covering
        if not math.isfinite(space.volume) or space.periods is None:
            raise ValueError(
                f"harmonics: expected a compact space with periods along axes, found {space!r}"
            )
        self.space, self.law = space, Uniform(space)
        self.kernel_size = check_kernel_size(kernel_size)
        expected = (harmonics.num_features, math.prod(self.kernel_size))
        coefficients = real_tensor("coefficients", coefficients)
        if tuple(coefficients.shape) != expected:
            raise ValueError(f"coefficients: expected shape {expected}, found {tuple(coefficients.shape)}")
        norm = coefficients.double().norm()
        if not torch.isfinite(norm) or norm == 0:
            raise ValueError("coefficients: expected finite numbers, not all zero")
        self.harmonics = harmonics
        # The harmonics are orthonormal under the uniform law, so this is E|g(z)|^2 = 1.
        self.coefficients = (coefficients.detach().double() / norm).float().cpu()
        self.waves = self.search = ProductWaves(harmonics, self.coefficients)
        self.lengths = self.waves.periods
        self.kl_periods = tuple(self.waves.periods)
        self.pixels = Decoder(self.waves)

    def __call__(self, z: Tensor) -> Tensor:
        return self.harmonics(z) @ self.coefficients.to(z)

    def mean(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Exact: a wave under a normal law shrinks by a known factor."""
        return torch.stack(self._shrunk(loc, scale), -1) @ self.waves.matrix.to(loc)

    def second_moment(self) -> Tensor:
        """C^T C: harmonics are orthonormal."""
        return self.coefficients.double().T @ self.coefficients.double()

    def _shrunk(self, loc: Tensor, scale: Tensor) -> list[Tensor]:
        waves = self.waves.rows(loc.unbind(-1))
        return [row * decay for row, decay in zip(waves, self.waves.decay(scale.unbind(-1)), strict=True)]

    def latent_kl(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        """The cover bound, the KL on the torus over the space: a sum of kappa(scale / period)."""
        return kappa(log_scale.exp() / log_scale.new_tensor(self.lengths)).sum(-1)

    def describe(self) -> str:
        return f"{super().describe()}, num_harmonics={self.harmonics.num_features}"

    # --- in a layer: one matrix product, with the prior's scales in the matrix --------------------

    def known(self, scales: tuple[float, float]) -> Tensor:
        alpha_scale, beta_scale = scales
        of_waves = (self.waves.matrix.float() * alpha_scale).double()
        return torch.cat([of_waves, torch.full_like(of_waves[:1], beta_scale)])

    def weights(self, z: Tensor, alpha: Tensor, beta: Tensor, known: Tensor) -> Tensor:
        return torch.stack([*self.waves.rows(z.unbind(-1), alpha), beta], -1) @ known

    def mean_weights(
        self, loc: Tensor, scale: Tensor, alpha: Tensor, beta: Tensor, known: Tensor
    ) -> Tensor:
        return torch.stack([*(row * alpha for row in self._shrunk(loc, scale)), beta], -1) @ known

    # --- simpler decoders ------------------------------------------------------------------------

    @classmethod
    def fitted(
        cls,
        decode: Callable[[Tensor], Tensor],
        space: FlatManifold,
        kernel_size: Sequence[int],
        *,
        num_harmonics: int,
        tolerance: float,
    ) -> Self:
        """A smooth decoder projected on the lowest harmonics, those that it uses kept (`DecoderPrior.from_decoder`)."""
        harmonics = Harmonics(space, num_harmonics)
        line = torch.arange(48, dtype=torch.float64) / 48
        points = torch.cartesian_prod(*[line] * space.dim).reshape(-1, space.dim) @ space.lattice.T
        with torch.no_grad():
            kernels = decode(points.float()).double().flatten(1)
        coefficients = harmonics(points).T @ kernels / len(points)  # the trapezoid rule is exact here
        energy = coefficients.square().sum(1)
        order = energy.argsort()
        dropped = order[energy[order].cumsum(0) <= tolerance * energy.sum()].tolist()
        columns = [c for c in range(num_harmonics) if c not in dropped]
        return cls(harmonics.select(columns), coefficients[columns], kernel_size)

    def simplified(self, kernels: Tensor, *, tolerance: float) -> HarmonicDecoder:
        """The same kernels in the coordinates that need the fewest harmonics (`DecoderPrior.simplified`)."""
        if tuple(kernels.shape[1:]) != self.kernel_size:
            raise ValueError(
                f"kernels: expected shape (N, {times(self.kernel_size)}), found {tuple(kernels.shape)}"
            )
        flat = kernels.flatten(1).double()
        scale = flat.square().sum(1).mean().sqrt()
        found = fewest_harmonics(self.harmonics, self.coefficients, flat / scale, tolerance=tolerance)
        return HarmonicDecoder(found[0], found[1], self.kernel_size)

    # --- checkpoints -----------------------------------------------------------------------------

    def to_config(self) -> dict[str, Any]:
        return {
            "covering": covering_to_config(self.space),
            "kernel_size": list(self.kernel_size),
            "harmonics": describe(self.harmonics),
        }

    def tensors(self) -> dict[str, Tensor]:
        return {"coefficients": self.coefficients}

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        space = covering_from_config(config["covering"])
        if "harmonics" in config:
            harmonics, signs = find(space, config["harmonics"])
        else:  # from before they were written out: their numbers in the library's order
            columns = _check_columns(config["columns"])
            harmonics = Harmonics(space, max(columns) + 1).select(columns)
            signs = torch.ones(len(columns))
        if set(tensors) != {"coefficients"}:
            raise ValueError(f"expected one tensor, 'coefficients', found {sorted(tensors)}")
        coefficients = tensors["coefficients"]
        return cls(harmonics, coefficients * signs.to(coefficients)[:, None], config["kernel_size"])


_MOST_COLUMN = 2048  # more would be slow to build


def _check_columns(columns: Any) -> list[int]:
    found = [check_int("columns", column, least=0) for column in columns]
    if len(set(found)) < len(found) or max(found) > _MOST_COLUMN:
        raise ValueError(f"columns: expected different numbers of at most {_MOST_COLUMN}")
    return found
