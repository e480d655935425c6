"""The contrast norm of patches and its cosine basis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from topoprior.utils.checks import real_data, real_tensor
from topoprior.utils.plain import on_cpu

# The order of Lee et al., frequencies (across, down); larger patches: by degree.
_ORDER_3X3 = ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2))


@on_cpu
def contrast(patches: Tensor) -> Tensor:
    r"""The D-norm of patches, (..., k, k) -> (...):

    .. math:: \|x\|_D^2 = \sum_{i \sim j} (x_i - x_j)^2

    over all pairs of pixels side by side, horizontally and vertically.

    Example:
        >>> round(contrast(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).item() ** 2, 4)
        2.0
    """
    patches = real_tensor("patches", patches)
    return (
        patches.diff(dim=-1).square().sum((-1, -2)) + patches.diff(dim=-2).square().sum((-1, -2))
    ).sqrt()


@on_cpu
def dct_basis(size: int = 3) -> Tensor:
    r"""The discrete cosine basis of mean-free patches, (k^2 - 1, k, k) float64, of contrast 1 each.

    Products of cosines cos(pi m (i + 1/2) / k) across and down are the eigenvectors of the D-norm's
    matrix, with eigenvalues (2 - 2 cos(pi m / k)) + (2 - 2 cos(pi n / k)): so they are orthonormal in
    the D-norm, and the coordinates of a patch of contrast 1 are a point of the unit sphere. For 3x3 in the
    order of Lee et al.: e1, e2 linear, e3, e4, e5 quadratic, then e6, e7, e8.

    Raises:
        ValueError: fewer than 2 pixels a side.

    Example:
        >>> (dct_basis(3)[0] * 6**0.5).round(decimals=6)[0].tolist()
        [1.0, 0.0, -1.0]
    """
    waves, values = _cosines(size)
    frequencies = torch.tensor(_frequencies(size))
    across, down = frequencies.unbind(1)
    eigenvalues = values[across] + values[down]
    return waves[down, :, None] * waves[across, None, :] / eigenvalues.sqrt()[:, None, None]


@on_cpu
def dct_coordinates(patches: Tensor) -> Tensor:
    """Coordinates of patches (..., k, k) in :func:`dct_basis`, (..., k^2 - 1), the mean left out.

    Their Euclidean norm is the contrast.

    Example:
        >>> patch = torch.randn(3, 3)
        >>> torch.allclose(dct_coordinates(patch).norm(), contrast(patch))
        True
    """
    patches = real_tensor("patches", patches)
    size = patches.shape[-1] if patches.dim() else 0
    if patches.dim() < 2 or patches.shape[-2] != size:
        raise ValueError(f"patches: expected shape (..., k, k), found {tuple(patches.shape)}")
    basis = dct_basis(size)
    squared = basis.square().sum((1, 2))  # 1 / eigenvalue, orthogonal in pixels too
    return patches.flatten(-2) @ (basis.flatten(1) / squared[:, None]).T.to(patches)


@on_cpu
def from_dct(coordinates: Tensor) -> Tensor:
    """Patches (..., k, k) of given coordinates (..., k^2 - 1)."""
    coordinates = real_tensor("coordinates", coordinates)
    size = math.isqrt(coordinates.shape[-1] + 1)
    if size < 2 or size * size != coordinates.shape[-1] + 1:
        raise ValueError(f"coordinates: expected k^2 - 1 of them, such as 8, found {coordinates.shape[-1]}")
    return (coordinates @ dct_basis(size).flatten(1).to(coordinates)).unflatten(-1, (size, size))


def normalized_patches(patches: Tensor, keep: float = 1.0) -> Tensor:
    """Mean-free patches of contrast 1, of the fraction ``keep`` with the highest contrast, (M, k, k).

    Patches without any contrast are dropped.

    Raises:
        TypeError: no tensor of real numbers.
        ValueError: no patches, NaN or infinity among them, a fraction outside (0, 1].

    Example:
        >>> flat, edge = torch.zeros(3, 3), torch.tensor([[1.0, 0.0, -1.0]]).expand(3, 3)
        >>> contrast(normalized_patches(torch.stack([flat, 5 * edge]))).round(decimals=4)
        tensor([1.])
    """
    _check_fraction("keep", keep)
    patches = real_data("patches", patches)
    size = contrast(patches)
    count = max(1, round(keep * len(patches)))
    chosen = size.topk(count).indices.sort().values
    chosen = chosen[size[chosen] > 1e-6 * size.max()]
    patches = patches[chosen] / size[chosen, None, None]
    return patches - patches.mean((1, 2), keepdim=True)


def _cosines(size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal cosines (frequency, pixel) and the eigenvalues of a path's Laplacian."""
    if size < 2:
        raise ValueError(f"size: expected at least 2 pixels a side, found {size}")
    m, i = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    waves = (math.pi * m * (i + 0.5) / size).cos()
    values = 2 - 2 * (math.pi * torch.arange(size, dtype=torch.float64) / size).cos()
    return waves / waves.norm(dim=1, keepdim=True), values


def _frequencies(size: int) -> list[tuple[int, int]]:
    if size == 3:
        return list(_ORDER_3X3)
    pairs = [(m, n) for m in range(size) for n in range(size) if m or n]
    return sorted(pairs, key=lambda p: (p[0] + p[1], -abs(p[0] - p[1]), -p[0]))


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected a fraction in (0, 1], found {value}")
