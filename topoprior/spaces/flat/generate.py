"""The lattice and the cosets of the group that isometries generate."""

from __future__ import annotations

import torch
from torch import Tensor

from topoprior.spaces.flat.lattices import _TOL, lattice_basis


def generate_group(
    generators: list[tuple[Tensor, Tensor]], most: int = 200
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Lattice of translations and coset representatives of the group that isometries generate.

    Breadth-first search over the linear parts; every product that lands on a known linear part
    leaves a translation behind, and by Schreier's lemma these generate the whole lattice.

    Args:
        generators: pairs (A, t), A orthogonal (n, n), t (n,), float64.
        most: the largest number of linear parts.

    Returns:
        lattice (n, r) and the cosets, the identity first, each t in the centred cell of the lattice.

    Raises:
        ValueError: a generator is no isometry, the linear parts do not close, or the translations
            come arbitrarily close to 0.
    """
    if not generators:
        raise ValueError("generators: expected at least one, found none")
    n = generators[0][1].numel()
    for i, (a, t) in enumerate(generators):
        if a.shape != (n, n) or t.shape != (n,):
            raise ValueError(
                f"generator {i}: expected shapes ({n}, {n}) and ({n},), "
                f"found {tuple(a.shape)} and {tuple(t.shape)}"
            )
        if not torch.allclose(a @ a.T, torch.eye(n, dtype=a.dtype), atol=_TOL):
            raise ValueError(f"generator {i}: A is not orthogonal")
    cosets = [(torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))]
    translations: list[Tensor] = []
    for a, t in cosets:  # grows while it is read
        for b, s in generators:
            product, moved = a @ b, a @ s + t
            for known, origin in cosets:
                if torch.allclose(product, known, atol=_TOL):
                    translations.append(moved - origin)
                    break
            else:
                if len(cosets) == most:
                    raise ValueError(
                        f"generators: more than {most} linear parts, is one of infinite order?"
                    )
                cosets.append((product, moved))
    lattice = lattice_basis(translations)
    inverse = torch.linalg.pinv(lattice)
    return lattice, [(a, t - lattice @ (inverse @ t).round()) for a, t in cosets]
