"""The laws of a space."""

from __future__ import annotations

import torch

from topoprior.spaces.covering import Covering
from topoprior.testing import features, geometry, uniform
from topoprior.testing.trial import Trial

_LAWS = (
    geometry.numbers, features.batches, geometry.cover, geometry.deck_group, geometry.fibres, geometry.metric, geometry.nearest,
    features.embedding, features.inverse, features.seams, features.dtypes, features.broken_rows,
    uniform.uniform, uniform.ball_volumes,
)  # fmt: skip


def check_covering(space: Covering, *, least_slope: float | None = None) -> None:
    """Whether a space keeps the laws that distributions, autoencoders and priors count on.

    Points are compared through the methods of the space alone, in float64 on the CPU:

    - `project` stays on the point and forgets which lift it was given; `lifts` lists lifts, each once, and all
      that two generators of the deck group lead to within the radius;
    - `embed` is the same on all lifts, an immersion, and injective; `retract` is its inverse on the image, with
      the right derivative, and continuous across the seams of a fundamental domain;
    - `distance` is a metric, that of the nearest lift, with slope 1; `nearest_deck` leads there;
    - deck transformations are isometries that move every point by `shortest_loop` at least, and keep the relations
      of their group; geodesics run at constant speed, and deck transformations carry them to geodesics;
    - `sample_uniform` is uniform: the mean of a Laplacian is 0 under the uniform law, and under no other; `volume`
      is what balls say of which radius and size are known;
    - batches of every shape, of one and of none; `vmap`; float32; a row that is no number spoils no other.

    Random numbers come from generators of its own, always the same: a space passes always or never. Over seeds a
    right space would fail one of the statistical laws (uniform, volume) with a probability below 1e-5.

    Args:
        space: any covering.
        least_slope: how many times a step on the space has to be as long in features; by default a thousandth of
            the longest.

    Raises:
        AssertionError: names the law, what was expected and what was found.

    Example:
        >>> import topoprior as tp
        >>> tp.testing.check_covering(tp.KleinBottle())
        >>> class Forgetful(tp.KleinBottle):
        ...     def embed(self, x):
        ...         return super().embed(x) + x[..., :1]
        >>> tp.testing.check_covering(Forgetful())
        Traceback (most recent call last):
        AssertionError: KleinBottle(): embed is constant on fibres: expected at most 1e-06, found 1
    """
    if not isinstance(space, Covering):
        raise TypeError(f"space: expected a Covering, found {type(space).__name__}")
    before = torch.get_rng_state()
    trial = Trial(space, least_slope)
    for law in _LAWS:
        law(trial)
    name = "the global random numbers are left alone"
    trial.expect.true(name, torch.equal(torch.get_rng_state(), before), "the state of before", "another")
