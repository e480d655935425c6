"""Laws of lifts, distances, geodesics and the deck group."""

from __future__ import annotations

import torch

from topoprior.spaces import deck
from topoprior.testing.trial import Trial


def numbers(t: Trial) -> None:
    for name, least in (
        ("dim", 1),
        ("cover_dim", t.space.dim),
        ("num_features", 1),
        ("num_sheets", 1),
    ):
        value = getattr(t.space, name)
        law = f"{name} is a whole number"
        t.expect.true(law, isinstance(value, int) and value >= least, f"at least {least}", value)
    for name in ("volume", "shortest_loop"):
        value = getattr(t.space, name)
        t.expect.true(f"{name} is positive", value > 0, "a positive number or inf", value)
    axes = sorted(axis for group in t.space.metric_axes() for axis in group)
    every = list(range(t.space.cover_dim))
    t.expect.true("metric_axes lists every coordinate once", axes == every, every, axes)


def cover(t: Trial) -> None:
    """Tangent vectors, geodesics, paths."""
    space, expect, x = t.space, t.expect, t.x
    v = space.tangent(x, t.normal(*x.shape))
    expect.close("tangent is a projection", space.tangent(x, v), v, 1e-9)
    rank = torch.linalg.matrix_rank(t.basis(x) @ t.basis(x).mT)
    expect.close(
        "tangent spaces have the dimension of the space", rank, torch.full_like(rank, space.dim), 0
    )
    h = 1e-5
    expect.close("a step leads along its tangent vector", (space._move(x, h * v) - x) / h, v, 1e-3)
    speed = v.norm(dim=-1, keepdim=True)
    v = v / speed
    time = 0.3 * t.unit
    end, velocity = space.geodesic(x, v, time)
    expect.close("geodesics keep their speed", velocity.norm(dim=-1), torch.ones_like(x[:, 0]), 1e-7)
    length = torch.full_like(x[:, 0], time)
    expect.close("short geodesics are shortest", space.distance(x, end), length, 1e-7 * t.size)
    back, turned = space.geodesic(end, -velocity, time)
    expect.close("geodesics run backwards", back, x, 1e-7 * t.size)
    expect.close("geodesics run backwards", turned, -v, 1e-7)
    half = space.geodesic(*space.geodesic(x, v, time / 2), time / 2)[0]
    expect.close("two halves of a geodesic are the whole", half, end, 1e-7 * t.size)
    expect.close("velocities are tangent vectors", space.tangent(end, velocity), velocity, 1e-7)
    s = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    paths = torch.stack([space.cover_path(a, b, s) for a, b in zip(x, end, strict=True)])
    expected = torch.stack([x, space.geodesic(x, v, 0.25 * time)[0], end], 1)
    expect.close("cover_path is the geodesic between its ends", paths, expected, 1e-7 * t.size)


def deck_group(t: Trial) -> None:
    group, expect = t.space.deck_group, t.expect
    generators = group.generators
    turned = generators[:, :-1, :-1]
    eye = torch.eye(t.space.cover_dim, dtype=torch.float64).expand_as(turned)
    expect.close("deck transformations are isometries", turned @ turned.mT, eye, 1e-6)
    broken = group.broken_relations(generators)
    expect.true("generators keep the relations of the deck group", broken == 0, "0 broken", broken)
    spread = torch.zeros(t.space.cover_dim, dtype=torch.float64)
    for number, axes in enumerate(t.space.metric_axes()):
        spread[axes] = 1.0 + number
    metric = torch.diag(spread).expand_as(turned)
    law = "a metric that is one number on each group of metric_axes is the same on all sheets"
    expect.close(law, turned.mT @ metric @ turned, metric, 1e-6)
    x = t.x[:3]
    v = t.space.tangent(x, t.normal(*x.shape))
    end = t.space.geodesic(x, v, 0.7)[0]
    for element in t.words()[1:]:
        moved = deck.apply(element, x)
        length = t.cover_length(x, moved) * (1 + 1e-7)
        expect.at_least("deck transformations move points by shortest_loop", length, t.space.shortest_loop)
        turn = v @ element[:-1, :-1].mT
        law = "deck transformations carry geodesics to geodesics"
        expect.close(law, t.space.geodesic(moved, turn, 0.7)[0], deck.apply(element, end), 1e-7 * t.size)


def fibres(t: Trial) -> None:
    """All that is said of a point is the same for all its lifts."""
    space, expect, tol = t.space, t.expect, 1e-6
    x, y = t.x[:6], t.y[:6]
    words = t.words()
    moved = deck.apply(words.unsqueeze(1), x)
    radius = 1.3 * (space.shortest_loop if space.shortest_loop < torch.inf else t.size)
    lifts = space.lifts(x, radius)
    expect.shape(
        "lifts are listed along the last dimension but one", lifts[..., :1, :], (6, 1, space.cover_dim)
    )
    gap = (moved.movedim(0, 1).unsqueeze(-2) - lifts.unsqueeze(-3)).norm(dim=-1).amin(-1)
    near = radius >= (moved - x).norm(dim=-1).T
    expect.at_most("lifts finds every lift within the radius", gap * near, tol * t.size)
    apart = (lifts.unsqueeze(-2) - lifts.unsqueeze(-3)).norm(dim=-1)
    apart = apart + t.size * torch.eye(lifts.shape[-2], dtype=torch.float64)
    expect.at_least("lifts lists every lift once", apart, tol * t.size)
    shaken = space._move(x, space.tangent(x, torch.full_like(x, tol)))
    steady = (space.project(shaken) - space.project(x)).norm(dim=-1) < 100 * tol  # not on a seam
    for some in (moved.movedim(0, 1), lifts, space.project(x).unsqueeze(-2)):
        features = space.embed(some) - space.embed(x).unsqueeze(-2)
        expect.at_most("embed is constant on fibres", features.abs(), tol)
        zero = space.distance(some, x.unsqueeze(-2))
        expect.at_most("lifts of one point have distance 0", zero, tol * t.size)
        expect.true(
            "same_point knows lifts",
            space.same_point(some, x.unsqueeze(-2), tol * t.size).all(),
            True,
            False,
        )
        for one, other in ((some, y.unsqueeze(-2)), (y.unsqueeze(-2), some)):
            expected = space.distance(x, y).unsqueeze(-1).expand(some.shape[:-1])
            expect.close(
                "distance is the same for all lifts",
                space.distance(one, other),
                expected,
                tol * t.size,
            )
        canonical = space.project(some)
        expected = space.project(x).unsqueeze(-2).expand_as(canonical)
        expect.close("project is the same for all lifts", canonical[steady], expected[steady], tol * t.size)
    expect.close("project is idempotent", space.project(space.project(x)), space.project(x), tol * t.size)


def metric(t: Trial) -> None:
    space, expect, tol = t.space, t.expect, 1e-7 * t.size
    x, y, z = t.x, t.y, t.z
    xy, yz, xz = space.distance(x, y), space.distance(y, z), space.distance(x, z)
    expect.at_least("distance is positive", xy, 1e-6 * t.size)
    expect.close("distance is symmetric", space.distance(y, x), xy, tol)
    expect.at_most("distance is 0 at one point", space.distance(x, x).abs(), tol)
    expect.at_most("distance keeps the triangle inequality", xz, xy + yz + tol)
    here = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(space.distance(here, x).sum(), here)
    expect.finite("distance has a finite gradient at 0", slope)
    (slope,) = torch.autograd.grad(space.distance(here, y).sum(), here)
    slope = (slope.unsqueeze(-2) @ t.basis(x)).norm(dim=(-2, -1))
    expect.close("distance has slope 1", slope, torch.ones_like(slope), 1e-6)


def nearest(t: Trial) -> None:
    space, expect = t.space, t.expect
    x, y = t.x[:20], t.y[:20]
    distance = space.distance(x, y)
    element = space.nearest_deck(x, y)
    nearest = deck.apply(element, y)
    same = (space.embed(nearest) - space.embed(y)).abs()
    expect.at_most("nearest_deck is a deck transformation", same, 1e-6)
    expect.close(
        "nearest_deck leads to the nearest lift",
        t.cover_length(x, nearest),
        distance,
        1e-6 * t.size,
    )
    for a, b, found in zip(x, nearest, distance, strict=True):
        lifts = space.lifts(b, 2 * (a - b).norm().item())  # those nearer to a than b are among them
        least = t.cover_length(a.expand_as(lifts), lifts).min()
        expect.close("distance is that of the nearest lift", found, least, 1e-6 * t.size)
