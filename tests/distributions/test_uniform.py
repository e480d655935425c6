"""The uniform law of a compact space."""

import math

import pytest
import torch

from tests.distributions.test_wrapped_normal import DTYPES, close
from tests.spaces.cases import (
    COMPACT,
    FLAT,
    space_named,
)
from topoprior import KleinBottle, UniformOn

# --- the uniform law ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPACT)
def test_uniform_contract(name: str, dtype: torch.dtype) -> None:
    space = space_named(name)
    p = UniformOn(space, dtype=dtype)
    assert p.batch_shape == ()
    assert p.event_shape == (space.cover_dim,)
    x = p.sample((7, 2))
    assert x.shape == (7, 2, space.cover_dim)
    assert x.dtype == dtype
    close(p.log_prob(x), torch.full((7, 2), -math.log(space.volume), dtype=dtype), 1e-6)
    assert p.entropy().item() == pytest.approx(math.log(space.volume), abs=1e-6)
    wide = p.expand((3, 2))
    assert wide.batch_shape == (3, 2)
    assert wide.rsample((4,)).shape == (4, 3, 2, space.cover_dim)
    assert wide.rsample().dtype == dtype
    assert wide.entropy().shape == (3, 2)
    assert wide.log_prob(x[:1]).shape == (3, 2)
    assert wide.log_prob(torch.zeros(5, 1, 1, space.cover_dim, dtype=dtype)).shape == (5, 3, 2)
    with pytest.raises(ValueError, match="support|size"):
        UniformOn(space, validate_args=True).log_prob(torch.zeros(space.cover_dim + 1))


@pytest.mark.parametrize("name", [n for n in FLAT if n not in COMPACT])
def test_no_uniform_law_where_not_compact(name: str) -> None:
    with pytest.raises(ValueError, match="not compact"):
        UniformOn(space_named(name))


def test_uniform_follows_the_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert UniformOn(KleinBottle()).sample().dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
