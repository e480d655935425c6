"""What kernels look like: how near they are to the Klein bottle's, and what homology they have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.kernels.contrast import contrast, dct_coordinates, from_dct
from topoprior.kernels.klein import klein_energy, klein_subspace, nearest_klein
from topoprior.topology.homology import betti_numbers, betti_reading, persistence
from topoprior.utils.checks import check_values, real_tensor
from topoprior.utils.plain import on_cpu

FIELDS = (2, 3)
_NOISE = 2000  # kernels of noise to compare with
_MOST = 1_000_000  # whose quantiles are taken
_BARS = 8  # the longest


def unit_kernels(kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels (N, k, k) mean-free and of contrast 1, flat ones left out; and which were kept, (N,).

    Raises:
        ValueError: another shape, NaN or infinity, or all are flat.
    """
    kernels = real_tensor("kernels", kernels)
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2] or kernels.shape[1] < 2:
        raise ValueError(f"kernels: expected shape (N, k, k), found {tuple(kernels.shape)}")
    check_values("kernels", kernels)
    size = contrast(kernels)
    kept = size > 1e-6 * size.amax() if len(size) else size > 0
    if not kept.any():
        raise ValueError("kernels: expected some that are not flat, found none")
    kernels = kernels[kept] / size[kept, None, None]
    return kernels - kernels.mean((1, 2), keepdim=True), kept


@on_cpu
def describe_kernels(
    kernels: Tensor, *, homology: bool = False, points: int = 300, max_dim: int = 2, seed: int = 0
) -> dict[str, Any]:
    """How near kernels (N, k, k) are to the analytic Klein kernels, in plain numbers.

    Args:
        homology: persistent homology over Z/2 and Z/3 too, of ``points`` of them; needs ripser.
        max_dim: its highest degree; 1 is much faster.
        seed: of the noise that numbers are compared with.

    Returns:
        - kernels, size: how many that are not flat, pixels a side;
        - mean_energy_share: the share of the energy that is the means'; what follows is without them, contrasts 1;
        - klein_energy, klein_energy_pixels: the share in the span of the Klein kernels, in the metric of contrast and of
          pixels; klein_energy_of_noise: that of noise;
        - klein_distance, klein_distance_of_noise: to the nearest Klein kernel, norms 1; median and outer tenths;
        - homology, as of :func:`describe_homology`.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: another shape, NaN or infinity, or all kernels are flat.

    Example:
        >>> from topoprior.kernels import sample_klein_kernels
        >>> found = describe_kernels(sample_klein_kernels(500)[0])
        >>> round(found["klein_energy"], 3), found["klein_distance"]["90%"] < 0.01
        (1.0, True)
    """
    kernels = real_tensor("kernels", kernels)
    check_values("kernels", kernels)
    units, _ = unit_kernels(kernels)
    size = kernels.shape[-1]
    energy = kernels.square().sum().item()
    noise = from_dct(torch.randn(_NOISE, size**2 - 1, generator=torch.Generator().manual_seed(seed)))
    record = {
        "kernels": len(units),
        "size": size,
        "mean_energy_share": size**2 * kernels.mean((1, 2)).square().sum().item() / max(energy, 1e-300),
        "klein_energy": klein_energy(units).mean().item(),
        "klein_energy_pixels": klein_energy(units, "pixels").mean().item(),
        "klein_energy_of_noise": len(klein_subspace(size)) / (size**2 - 1),
        "klein_distance": _quantiles(nearest_klein(units)[0]),
        "klein_distance_of_noise": _quantiles(nearest_klein(noise)[0]),
    }
    if homology:
        diagrams = kernel_homology(dct_coordinates(units), points=points, max_dim=max_dim)
        record["homology"] = describe_homology(diagrams, points)
    return record


def kernel_homology(cloud: Tensor, *, points: int = 300, max_dim: int = 2) -> dict[int, list[Any]]:
    """Persistence diagrams of points (N, d) by field, Z/2 and Z/3: no single one tells a Klein bottle from a torus."""
    return {field: persistence(cloud, field=field, num_points=points, max_dim=max_dim) for field in FIELDS}


def describe_homology(diagrams: Mapping[int, Sequence[Any]], points: int) -> dict[str, Any]:
    """Betti numbers by field, spaces that have them, and the longest bars of every degree."""
    numbers = {field: betti_numbers(list(bars)) for field, bars in diagrams.items()}
    return {
        "points": points,
        "betti": {f"Z/{field}": list(found) for field, found in numbers.items()},
        "reading": betti_reading(numbers[2], numbers[3]),
        "longest_bars": {
            f"Z/{field}": [_longest(bars) for bars in parts] for field, parts in diagrams.items()
        },
    }


def _longest(bars: Any) -> list[tuple[float, float]]:
    finite = [(float(birth), float(death)) for birth, death in bars if math.isfinite(death)]
    return sorted(finite, key=lambda bar: bar[0] - bar[1])[:_BARS]


def _quantiles(x: Tensor) -> dict[str, float]:
    values = torch.quantile(x.double()[:_MOST], torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    return dict(zip(("10%", "median", "90%"), values.tolist(), strict=True))
