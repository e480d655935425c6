"""Harmonics: orthonormal, deck-invariant, Laplace eigenfunctions, complete."""

import math

import pytest
import torch
from torch import Tensor

from tests.spaces.cases import COMPACT_FLAT, PERIODIC, REFLECTION, cell_grid, orbit, points, space_named
from topoprior import Euclidean, FlatManifold, KleinBottle, Sphere
from topoprior.spaces.flat.harmonics import Harmonics

SIDE = {1: 64, 2: 32, 3: 14}  # exact for the waves below
CHARACTERS = {
    "klein": (1, -1), "klein-generic": (1, -1), "moebius": (1, -1), "hantzsche-wendt": (1, 1, -1, -1),
}  # fmt: skip


def close(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("name", COMPACT_FLAT)
def test_orthonormal(name: str) -> None:
    space = space_named(name)
    grid, weight = cell_grid(space, SIDE[space.dim])
    values = Harmonics(space, 20)(grid)
    close(values.T @ values * weight / space.volume, eye(20), 1e-12)


@pytest.mark.parametrize("name", CHARACTERS)
def test_orthonormal_with_a_character(name: str) -> None:
    space = space_named(name)
    grid, _ = cell_grid(space, SIDE[space.dim])
    values = Harmonics(space, 12, character=CHARACTERS[name])(grid)
    close(values.T @ values / len(grid), eye(12), 1e-12)
    if math.isfinite(space.volume):  # and orthogonal to the invariant ones
        close(
            values.T @ Harmonics(space, 12)(grid) / len(grid),
            torch.zeros(12, 12, dtype=torch.float64),
            1e-12,
        )


@pytest.mark.parametrize("name", PERIODIC)
@pytest.mark.parametrize("coordinates", [False, True])
def test_deck_invariant(name: str, coordinates: bool) -> None:
    space = space_named(name)
    harmonics = Harmonics(space, 15, coordinates=coordinates)
    for x in points(space, 5):
        values = harmonics(orbit(space, x, reach=2))
        close(values, harmonics(x).expand_as(values))


@pytest.mark.parametrize("name", CHARACTERS)
def test_characters_change_sign_with_the_sheet(name: str) -> None:
    space, character = space_named(name), CHARACTERS[name]
    harmonics = Harmonics(space, 15, character=character)
    x = points(space, 30)
    sign = torch.tensor(character, dtype=torch.float64)[:, None]
    close(harmonics(space.sheets(x)), sign * harmonics(x).unsqueeze(-2))
    assert harmonics(x).abs().amax(0).min() > 0.1  # none of them vanishes


@pytest.mark.parametrize("name", PERIODIC)
@pytest.mark.parametrize("coordinates", [False, True])
def test_laplace_eigenfunctions(name: str, coordinates: bool) -> None:
    space = space_named(name)
    harmonics = Harmonics(space, 15, coordinates=coordinates)
    x = points(space, 8)
    laplacian = torch.func.vmap(torch.func.hessian(harmonics))(x).diagonal(dim1=-2, dim2=-1).sum(-1)
    close(laplacian, -harmonics.eigenvalues * harmonics(x), 1e-8 * harmonics.eigenvalues.max().item())
    assert harmonics.eigenvalues.diff().min() >= -1e-9
    assert harmonics.eigenvalues[0] == 0


def klein_list(most: float) -> list:
    """e^{imb} cos(na), m even, and e^{imb} sin(na), m odd, up to a Laplace eigenvalue: real functions of (b, a)."""
    found: list = []
    for m in range(20):
        for n in range(20):
            if math.pi**2 * (m**2 + 4 * n**2) > most or (m % 2 and not n):
                continue
            wave = torch.sin if m % 2 else torch.cos
            found.append(lambda b, a, m=m, n=n, wave=wave: (m * b).cos() * wave(n * a))
            if m:
                found.append(lambda b, a, m=m, n=n, wave=wave: (m * b).sin() * wave(n * a))
    return found


def test_klein_harmonics_are_the_closed_list() -> None:
    K = KleinBottle()
    most = 40 * math.pi**2 + 1e-6
    functions = klein_list(most)
    harmonics = Harmonics(K, len(functions) + 1)
    assert harmonics.eigenvalues[-2] <= most < harmonics.eigenvalues[-1]  # exactly as many
    grid, weight = cell_grid(K, 48)
    closed = torch.stack([f(math.pi * grid[:, 0], 2 * math.pi * grid[:, 1]) for f in functions], -1)
    closed = closed / closed.square().mean(0).sqrt()
    overlap = weight * closed.T @ harmonics(grid)[:, :-1]
    close(overlap @ overlap.T, eye(len(functions)), 1e-12)


def test_klein_bottle_embedding_is_linear_in_harmonics() -> None:
    """embed = the waves cos a, sin a e^{ib}, cos a e^{2ib}: none of them of eigenvalue above 8 pi^2."""
    K = KleinBottle()
    grid, weight = cell_grid(K, 32)
    values = Harmonics(K, 8)(grid)
    close(values @ (weight * values.T @ K.embed(grid)), K.embed(grid), 1e-10)


@pytest.mark.parametrize("name", COMPACT_FLAT)
def test_complete(name: str) -> None:
    """An invariant trigonometric polynomial is reproduced by its projection; with fewer modes it is not."""
    space = space_named(name)

    def f(x: Tensor) -> Tensor:
        t = 2 * math.pi * space.group.lattice_coordinates(space.sheets(x))
        g = (t[..., 0] + 0.4).cos() + 0.7 * (t.sum(-1) + 0.9).cos() + 0.5 * (2 * t[..., -1]).sin()
        g = g + (t[..., 0] - t[..., -1]).cos() * (t[..., 0] + 0.2).sin()
        return g.mean(-1) + 0.3

    grid, weight = cell_grid(space, SIDE[space.dim])
    harmonics = Harmonics(space, {1: 9, 2: 80, 3: 200}[space.dim])
    values = harmonics(grid)
    weights = weight / space.volume * f(grid) @ values
    x = points(space, 50)
    close(harmonics(x) @ weights, f(x), 1e-9)
    assert (harmonics.select(slice(0, 2))(x) @ weights[:2] - f(x)).abs().max() > 0.05


def test_select_keeps_values_and_drops_waves() -> None:
    harmonics = Harmonics(KleinBottle(), 20)
    x = points(KleinBottle(), 10)
    for columns in (slice(1, 6), [3, 0, 7], torch.tensor([2, 5])):
        chosen = harmonics.select(columns)
        close(chosen(x), harmonics(x)[:, columns], 1e-12)
        close(chosen.eigenvalues, harmonics.eigenvalues[columns])
        assert chosen.num_features == harmonics(x)[:, columns].shape[-1]
    assert harmonics.num_features == 20  # the original is left as it was


def test_dtypes_shapes_vmap_and_grad() -> None:
    harmonics = Harmonics(KleinBottle(), 6)
    assert harmonics(torch.zeros(3, 4, 2)).shape == (3, 4, 6)
    assert harmonics(torch.zeros(0, 2)).shape == (0, 6)
    assert harmonics(torch.zeros(2)).dtype == torch.float32
    x = points(KleinBottle(), 5)
    close(harmonics(x.float()).double(), harmonics(x), 1e-5)
    close(torch.func.vmap(harmonics)(x), harmonics(x))
    assert torch.autograd.gradcheck(harmonics, (x.requires_grad_(),))


def test_the_first_harmonic_is_one() -> None:
    for name in PERIODIC:
        x = points(space_named(name), 4)
        close(Harmonics(space_named(name), 1)(x), torch.ones(4, 1, dtype=torch.float64), 1e-12)


def test_errors() -> None:
    K = KleinBottle()
    with pytest.raises(ValueError, match="num_features: expected at least 1, found 0"):
        Harmonics(K, 0)
    for count in (math.nan, math.inf, 2.5, True, "3"):  # NaN was never enough
        with pytest.raises(TypeError, match="num_features: expected an int"):
            Harmonics(K, count)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no periodic direction"):
        Harmonics(Euclidean(2), 3)
    with pytest.raises(ValueError, match="character: expected 2 signs, one a coset, found 3"):
        Harmonics(K, 3, character=[1, -1, 1])


def test_sign_lists_that_are_no_characters_are_named() -> None:
    K, wendt = KleinBottle(), space_named("hantzsche-wendt")
    with pytest.raises(ValueError, match=r"coset 0 times coset 0 is coset 0.*no character"):
        Harmonics(K, 3, character=[-1, 1])
    with pytest.raises(ValueError, match=r"coset 1 times coset 2 is coset 3.*1, -1 and 1"):
        Harmonics(wendt, 3, character=[1, 1, -1, 1])
    with pytest.raises(ValueError, match=r"coset 1 times coset 1 is coset 2.*-1, -1 and -1"):
        Harmonics(space_named("third-turn"), 3, character=[1, -1, -1])  # Z/3 has none but the trivial one
    with pytest.raises(ValueError, match=r"expected \+1 or -1, found 0 for coset 1"):
        Harmonics(K, 3, character=[1, 0])
    for character in ([1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]):  # those of Z/2 x Z/2
        assert Harmonics(wendt, 3, character=character).character == tuple(character)


def test_a_long_thin_lattice_is_searched_far_enough() -> None:
    """Periods 20 and 1: the lowest 12 harmonics all vary along the long one alone."""
    space = FlatManifold([[20.0, 0.0], [0.0, 1.0]], [(REFLECTION, [10.0, 0.0])])
    eigenvalues = Harmonics(space, 13).eigenvalues
    expected = [0.0] + [(2 * math.pi * k / 10) ** 2 for k in range(1, 7) for _ in range(2)]
    close(eigenvalues, torch.tensor(expected, dtype=torch.float64), 1e-8)


@pytest.mark.parametrize("count", [math.nan, math.inf, 2.5, "3", True])
def test_numbers_of_harmonics_are_whole(count: object) -> None:
    """NaN used to go on for ever: no number of harmonics found is at least NaN."""
    with pytest.raises(TypeError, match="num_features: expected an int"):
        Harmonics(KleinBottle(), count)  # type: ignore[arg-type]


def test_harmonics_of_a_sphere_are_of_another_kind() -> None:
    with pytest.raises(TypeError, match=r"covering: expected a flat manifold, found Sphere\(2\)"):
        Harmonics(Sphere(2), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("period", [(0.5, 0.0), (0.5, 0.5), (0.3, 0.7), (0.3, 0.7, 0.1)])
def test_cylinders_of_any_direction_embed_in_few_features(period: tuple[float, ...]) -> None:
    """A line that closes, along an axis or not: a circle and straight lines, so 2 n + 1 features are enough."""
    space = FlatManifold([[x] for x in period])
    assert space.num_features <= 2 * len(period) + 1
    x = torch.randn(20, len(period), dtype=torch.float64)
    lifts = x + torch.tensor(period, dtype=torch.float64)
    close(space.embed(lifts), space.embed(x))
    close(space.distance(space.retract(space.embed(x)), x), torch.zeros(20, dtype=torch.float64), 1e-6)
