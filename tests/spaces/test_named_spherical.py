"""Particular spherical spaces: against scipy, Procrustes, Molien's series, known formulas."""

import itertools
import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

import topoprior as tp
from tests.spaces.cases import left, quaternion_group
from tests.spaces.test_spherical import F64, SPACES, points
from topoprior.spaces.spherical.harmonics import invariant_harmonics
from topoprior.spaces.spherical.named import top_eigenvector


def poincare_sphere() -> tp.SphericalSpaceForm:
    """S^3 / binary icosahedral group, of order 120."""
    phi = (1 + math.sqrt(5)) / 2
    units = {tuple(s * float(i == j) for j in range(4)) for i in range(4) for s in (1, -1)}
    units |= set(itertools.product((0.5, -0.5), repeat=4))
    for order in itertools.permutations(range(4)):
        even = sum(order[i] > order[j] for i in range(4) for j in range(i + 1, 4)) % 2 == 0
        for signs in itertools.product((1, -1), repeat=3) if even else ():
            values = [signs[0] * phi / 2, signs[1] / 2, signs[2] / (2 * phi), 0.0]
            units.add(tuple(values[i] for i in order))
    return tp.SphericalSpaceForm([left(q) for q in sorted(units)])


# --- particular spaces -----------------------------------------------------------------------------


def test_rotations_agree_with_scipy() -> None:
    space = tp.RotationGroup()
    q = points(space, 100)
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).as_matrix()
    torch.testing.assert_close(space.matrix(q), torch.from_numpy(expected))
    torch.testing.assert_close(space.embed(q), torch.from_numpy(expected).flatten(1))
    angle = Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).magnitude()
    one = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=F64)
    torch.testing.assert_close(2 * space.distance(q, one), torch.from_numpy(angle))


def test_the_nearest_rotation_is_procrustes() -> None:
    space = tp.RotationGroup()
    torch.manual_seed(0)
    m = torch.randn(200, 3, 3, dtype=F64)
    u, s, vh = torch.linalg.svd(m)
    sign = torch.ones(200, 3, dtype=F64)
    sign[:, 2] = torch.linalg.det(u @ vh)
    nearest = u @ torch.diag_embed(sign) @ vh
    clear = (s[:, 1] + sign[:, 2] * s[:, 2]) > 0.05  # where the nearest rotation is unique
    torch.testing.assert_close(space.matrix(space.from_matrix(m))[clear], nearest[clear], rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"\(..., 3, 3\)"):
        space.from_matrix(torch.zeros(3, 4))


def test_half_turns_have_quaternions_in_all_quadrants() -> None:
    """Where formulas by the trace divide by 0."""
    space = tp.RotationGroup()
    axes = torch.nn.functional.normalize(
        torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)), dtype=F64), dim=-1
    )
    axes = axes[axes.norm(dim=-1) > 0]
    for angle in (math.pi, math.pi - 1e-9, math.pi + 1e-9, 1e-9):
        q = torch.cat(
            [torch.full((len(axes), 1), math.cos(angle / 2), dtype=F64), math.sin(angle / 2) * axes], 1
        )
        assert space.distance(space.from_matrix(space.matrix(q)), q).max() < 1e-12
        y = space.embed(q).requires_grad_()
        (gradient,) = torch.autograd.grad(space.retract(y).square().cumsum(-1).sum(), y)
        assert gradient.isfinite().all()


def test_top_eigenvector_gradient_agrees_with_torch_where_that_exists() -> None:
    torch.manual_seed(0)
    root = torch.randn(10, 4, 4, dtype=F64)
    a = (root + root.mT).requires_grad_()
    weight = torch.randn(4, 4, dtype=F64)
    grads = []
    for v in (top_eigenvector(a), torch.linalg.eigh(a).eigenvectors[..., -1]):
        (g,) = torch.autograd.grad(((v @ weight) * v).sum(), a)
        grads.append((g + g.mT) / 2)
    torch.testing.assert_close(grads[0], grads[1])


def test_projective_features_keep_the_frobenius_norm() -> None:
    space = tp.RealProjectiveSpace(4)
    x, y = points(space, 20), points(space, 20, 1)
    matrices = x.unsqueeze(-1) * x.unsqueeze(-2) - y.unsqueeze(-1) * y.unsqueeze(-2)
    torch.testing.assert_close(
        (space.embed(x) - space.embed(y)).norm(dim=-1), matrices.flatten(1).norm(dim=-1)
    )


def test_lens_features_follow_the_formula() -> None:
    space = tp.LensSpace(7, 3)  # 3 * 5 = 1 mod 7
    x = points(space, 10)
    z1, z2 = torch.view_as_complex(x.unflatten(-1, (2, 2))).unbind(-1)
    expected = torch.stack([z1**7, z2**7, z1**3 * z2.conj(), z1 * z2.conj() ** 5], -1)
    torch.testing.assert_close(space.embed(x), torch.view_as_real(expected).flatten(-2))
    zero = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=F64, requires_grad=True)
    for y in (space.embed(zero), torch.zeros(8, dtype=F64, requires_grad=True)):
        (gradient,) = torch.autograd.grad(space.retract(y).sum(), zero if y.grad_fn else y)
        assert gradient.isfinite().all()


def test_numbers_of_invariants_follow_molien() -> None:
    """dim of the invariants of degree d: the mean over the group of the character of H_d."""
    for space in (quaternion_group(), tp.LensSpace(5, 2), tp.RealProjectiveSpace(2)):
        for degree in range(1, 6):
            count = 0.0
            for a in space.elements:
                # characters of the symmetric powers from power sums (Newton)
                sums = [torch.linalg.matrix_power(a, k).trace().item() for k in range(degree + 1)]
                h = [1.0]
                for d in range(1, degree + 1):
                    h.append(sum(sums[k] * h[d - k] for k in range(1, d + 1)) / d)
                count += (h[degree] - (h[degree - 2] if degree > 1 else 0)) / space.num_sheets
            found = invariant_harmonics(space.elements, degree)
            assert (found.num_features if found else 0) == round(count)


def test_invariants_are_orthonormal_and_harmonic() -> None:
    space = quaternion_group()
    f = invariant_harmonics(space.elements, 4)
    assert f is not None
    x = points(space, 200_000)
    gram = f(x).T @ f(x) / len(x)  # entries have standard errors below 0.01: five of them
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=F64), rtol=0, atol=0.05)
    hessian = torch.vmap(torch.func.hessian(f))(torch.randn(5, 4, dtype=F64))
    assert hessian.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max() < 1e-9


@pytest.mark.slow
def test_the_poincare_sphere() -> None:
    space = poincare_sphere()
    assert space.num_sheets == 120
    assert all(invariant_harmonics(space.elements, d) is None for d in (2, 4, 6))
    x = points(space, 50)
    assert space.num_features <= 13
    assert space.distance(space.retract(space.embed(x)), x).max() < 1e-6


@pytest.mark.parametrize("name", ["RP2", "SO(3)", "L(5,2)"])
def test_compile(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 8), points(space, 8, 1)

    def f(a: Tensor, b: Tensor) -> Tensor:
        return space.distance(a, b) + space.embed(a).sum(-1)

    compiled = torch.compile(f, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), f(x, y))


@pytest.mark.slow
def test_compiled_features_that_were_found_by_search() -> None:
    space = SPACES["RP2 generic"]
    x = points(space, 4)
    y = space.embed(x)  # the search itself cannot be traced
    torch.testing.assert_close(torch.compile(space.embed, backend="eager", fullgraph=True)(x), y)
    lift = torch.compile(space.retract, backend="eager", fullgraph=True)(y)
    assert space.same_point(lift, x).all()
