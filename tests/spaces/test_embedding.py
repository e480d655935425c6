"""The nearest point off the embedded space: its derivative by finite differences."""

import pytest
import torch

from tests.spaces.cases import points, space_named


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(
    "name",
    [
        "hantzsche-wendt",
        "klein-generic",
        "third-turn",
        "moebius",
        "projective-plane-generic",
        "quaternions",
    ],
)
def test_retract_off_the_image_is_differentiated_right(name: str, distance: float) -> None:
    """One step of Gauss and Newton is wrong by the curvature times the distance: 2% at .05, 11% at .3."""
    space = space_named(name)
    x = points(space, 6)
    jacobian = torch.func.vmap(torch.func.jacrev(space.embed))(x)
    off = torch.randn(6, space.num_features, dtype=torch.float64)
    off = off - (jacobian @ torch.linalg.pinv(jacobian) @ off.unsqueeze(-1)).squeeze(-1)  # across the image
    y = space.embed(x) + distance * off / off.norm(dim=-1, keepdim=True)
    nearest = space.retract(y)
    gap = (space.embed(nearest) - y).norm(dim=-1)
    assert (gap <= distance + 1e-6).all()  # as near as the point it was made from, at least
    direction = torch.randn_like(y)
    found = torch.stack(
        [
            torch.func.jacrev(lambda y: space.embed(space.retract(y)))(row) @ v
            for row, v in zip(y, direction, strict=True)
        ]
    )
    h = 1e-5
    ahead, behind = (space.embed(space.retract(y + step * direction)) for step in (h, -h))
    expected = (ahead - behind) / (2 * h)
    assert ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 1e-3
