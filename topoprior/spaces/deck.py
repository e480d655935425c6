"""Deck groups: generators, relations, and which elements generate all of it.

Elements are isometries x -> A x + t of the cover, written as matrices [[A, t], [0, 1]], so that composition
is a matrix product; also where the cover is a sphere (t = 0) or a product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from topoprior.utils.plain import found_once

_TOL = 1e-6
Word = tuple[tuple[int, int], ...]  # (generator, power), ...: their product, first factor first


def affine(linear: Tensor, shift: Tensor) -> Tensor:
    """Matrices of x -> A x + t: A (..., d, d) and t (..., d) to (..., d + 1, d + 1)."""
    top = torch.cat([linear, shift.unsqueeze(-1)], -1)
    last = torch.zeros_like(top[..., :1, :])
    last[..., -1] = 1
    return torch.cat([top, last], -2)


def apply(element: Tensor, x: Tensor) -> Tensor:
    """A x + t of matrices (..., d + 1, d + 1) and points (..., d)."""
    element = element.to(x)
    return (element[..., :-1, :-1] @ x.unsqueeze(-1)).squeeze(-1) + element[..., :-1, -1]


def inverse(element: Tensor) -> Tensor:
    """Of isometries: x -> A^T (x - t)."""
    turned = element[..., :-1, :-1].mT
    return affine(turned, -(turned @ element[..., :-1, -1:]).squeeze(-1))


def block_diagonal(parts: list[Tensor]) -> Tensor:
    """Isometries of the factors of a product, (..., d_i + 1, d_i + 1) each, side by side."""
    size = sum(part.shape[-1] - 1 for part in parts)
    found = torch.zeros(*parts[0].shape[:-2], size + 1, size + 1, dtype=parts[0].dtype)
    found[..., -1, -1] = 1
    start = 0
    for part in parts:
        end = start + part.shape[-1] - 1
        found[..., start:end, start:end] = part[..., :-1, :-1]
        found[..., start:end, -1] = part[..., :-1, -1]
        start = end
    return found


class DeckGroup:
    """The group { x -> A_j x + t_j + B k : k in Z^r }.

    Args:
        lattice: B, (d, r).
        linear, shift: A_j (m, d, d) and t_j (m, d), one a coset of the lattice, the identity first.

    Example:
        >>> import topoprior as tp
        >>> group = tp.KleinBottle().deck_group
        >>> group.generators[:2, :2, 2].tolist()  # the glide, and once round v
        [[1.0, 0.0], [0.0, 1.0]]
        >>> a, b = group.generators[:2]
        >>> torch.equal(a @ b @ inverse(a) @ b, torch.eye(3).double())  # the Klein bottle's relation
        True
        >>> group.generated_by([a, b]), group.generated_by([a @ a, b])
        (True, False)
    """

    def __init__(self, lattice: Tensor, linear: Tensor, shift: Tensor) -> None:
        self.lattice, self.linear, self.shift = lattice, linear, shift

    @found_once
    def generators(self) -> Tensor:
        """All cosets but the first, then the translations, last first, (m - 1 + r, d + 1, d + 1)."""
        columns = self.lattice.T.flip(0)
        eye = torch.eye(len(self.lattice), dtype=torch.float64).expand(len(columns), -1, -1)
        return torch.cat([affine(self.linear[1:], self.shift[1:]), affine(eye, columns)])

    @found_once
    def relations(self) -> list[Word]:
        """Products of the generators that are the identity, and from which all others follow.

        The group is an extension of the lattice by finitely many cosets: translations commute, a coset
        moves them by its linear part, and the product of two cosets is a third and a translation.
        """
        cosets, rank = len(self.linear), self.lattice.shape[1]
        place = [cosets - 2 + rank - i for i in range(rank)]
        words: list[Word] = [
            ((place[i], 1), (place[k], 1), (place[i], -1), (place[k], -1))
            for i in range(rank)
            for k in range(i)
        ]
        dual = torch.linalg.pinv(self.lattice)

        def undone(coordinates: Tensor) -> Word:
            counts = zip(place, coordinates.round().long().tolist(), strict=True)
            return tuple((at, -count) for at, count in counts if count)

        for j in range(1, cosets):
            moved = (dual @ self.linear[j] @ self.lattice).T  # of every translation, a row each
            words += [
                ((j - 1, 1), (at, 1), (j - 1, -1), *undone(row))
                for at, row in zip(place, moved, strict=True)
            ]
            products = self.linear[j] @ self.linear
            shifts = self.shift @ self.linear[j].T + self.shift[j]
            for k in range(1, cosets):
                coset, rest = self._coset(products[k], shifts[k])
                back = ((coset - 1, -1),) if coset else ()
                words.append(((j - 1, 1), (k - 1, 1), *back, *undone(dual @ rest)))
        return words

    def _coset(self, linear: Tensor, shift: Tensor) -> tuple[int, Tensor]:
        """The coset of an element, and the translation that comes before it."""
        rest = shift - self.shift
        off = rest - (rest @ torch.linalg.pinv(self.lattice).T).round() @ self.lattice.T
        gap = (self.linear - linear).abs().amax((-2, -1)) + off.abs().amax(-1)
        return int(gap.argmin()), rest[gap.argmin()]

    def broken_relations(self, images: Tensor) -> int:
        """How many relations do not hold for ``images`` of the generators: 0 for a map of groups.

        Example:
            >>> import topoprior as tp
            >>> group = tp.KleinBottle().deck_group
            >>> a, b, c = group.generators
            >>> [group.broken_relations(torch.stack(images)) for images in ([a, b, c], [b, a, c])]
            [0, 2]
        """
        eye, broken = torch.eye(images.shape[-1], dtype=images.dtype), 0
        for word in self.relations:
            product = eye
            for place, power in word:
                factor = images[place] if power > 0 else inverse(images[place])
                product = product @ torch.linalg.matrix_power(factor, abs(power))
            broken += int((product - eye).abs().max() > _TOL * (1 + images.abs().max()))
        return broken

    def generated_by(self, elements: Sequence[Tensor] | Tensor) -> bool:
        """Whether elements of the group generate all of it.

        They do if they reach every coset of the lattice and generate the lattice; by Schreier's lemma, the
        translations left behind where products reach a coset again generate all that there are.

        Example:
            >>> import topoprior as tp
            >>> group = tp.Circle().deck_group
            >>> [group.generated_by([torch.linalg.matrix_power(group.generators[0], n)]) for n in (-1, 2)]
            [True, False]
        """
        eye = torch.eye(len(self.lattice) + 1, dtype=torch.float64)
        reached, dual = {0: eye}, torch.linalg.pinv(self.lattice)
        translations: set[tuple[int, ...]] = set()
        waiting = [eye]
        for element in waiting:  # grows while it is read
            for product in element @ torch.stack([eye, *elements]):
                coset, _ = self._coset(product[:-1, :-1], product[:-1, -1])
                if coset in reached:
                    rest = (product @ inverse(reached[coset]))[:-1, -1]
                    translations.add(tuple((dual @ rest).round().long().tolist()))
                else:
                    reached[coset] = product
                    waiting.append(product)
        return len(reached) == len(self.linear) and _span_everything(translations, self.lattice.shape[1])


def _span_everything(rows: set[tuple[int, ...]], rank: int) -> bool:
    """Whether integer vectors generate Z^rank: by Euclid's algorithm on one column after the other."""
    left = [list(row) for row in rows]
    for column in range(rank):
        active = [row for row in left if row[column]]
        while len(active) > 1:
            pivot = min(active, key=lambda row: abs(row[column]))
            for row in active:
                if row is not pivot:
                    times = row[column] // pivot[column]
                    row[:] = [a - times * b for a, b in zip(row, pivot, strict=True)]
            active = [row for row in active if row[column]]
        if not active or abs(active[0][column]) != 1:
            return False
        left = [row for row in left if row is not active[0] and any(row)]
    return True
