"""Densities, divergences and draws under autocast: in the dtype of their arguments, to the last bit."""

import pytest
import torch

import topoprior as tp
from tests.spaces.cases import points, space_named


def laws() -> dict[str, torch.Tensor]:
    found = {}
    for name in ("klein", "klein-generic", "hexagonal", "hantzsche-wendt"):
        space = space_named(name)
        x = points(space, 5, dtype=torch.float32)
        factor = 0.2 * torch.eye(space.dim) + 0.1 * torch.ones(space.dim, space.dim).tril(-1)
        laws = {
            "axes": tp.WrappedNormal(space, x, 0.2),
            "full": tp.WrappedNormal(space, x, scale_tril=factor),
        }
        for kind, q in laws.items():
            torch.manual_seed(0)
            found[f"{name}, {kind}: draws"] = q.rsample()
            found[f"{name}, {kind}: density"] = q.log_prob(x + 0.1)
            found[f"{name}, {kind}: cover_kl"] = tp.cover_kl(q, tp.UniformOn(space))
        found[f"{name}: harmonics"] = tp.spaces.Harmonics(space, 8)(x)
        found[f"{name}: mean of harmonics"] = tp.spaces.Harmonics(space, 8).mean(
            x, torch.full((space.dim,), 0.2)
        )
    x = points(tp.Sphere(2), 5, dtype=torch.float32)
    p = tp.PowerSpherical(x, torch.full((5,), 10.0))
    pushed = tp.Pushforward(tp.RealProjectiveSpace(2), p)
    for name, q in {"power spherical": p, "pushforward": pushed}.items():
        torch.manual_seed(0)
        found[f"{name}: draws"] = q.rsample()
        found[f"{name}: density"] = q.log_prob(x.flip(0))
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_laws_as_they_are(dtype: torch.dtype) -> None:
    expected = laws()
    with torch.autocast("cpu", dtype):
        found = laws()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
