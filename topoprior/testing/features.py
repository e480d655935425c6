"""Laws of features: the embedding and its inverse, and calls of every shape and kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from topoprior.testing.trial import Trial


def embedding(t: Trial) -> None:
    space, expect = t.space, t.expect
    slopes = torch.linalg.svdvals(t.derivative(torch.cat([t.x, t.y, t.z])))
    least = 1e-3 * slopes.max().item() if t.least_slope is None else t.least_slope
    expect.at_least("embed is an immersion", slopes[:, -1], least)
    t.flattest = slopes[:, -1].min().item()
    i, j = torch.triu_indices(len(t.x), len(t.x), 1)
    near = space.geodesic(t.x, space.tangent(t.x, t.normal(*t.x.shape)), 1e-3 * t.unit)[0]
    a, b = torch.cat([t.x[i], t.x]), torch.cat([t.x[j], near])
    chord = (space.embed(a) - space.embed(b)).norm(dim=-1)
    expect.at_least(
        "embed is injective, chords no shorter than its slope", chord / space.distance(a, b), least
    )


def inverse(t: Trial) -> None:
    space, expect = t.space, t.expect
    x = torch.cat([t.x, t.y, t.z])
    y = space.embed(x)
    back = space.retract(y)
    expect.at_most("retract inverts embed", space.distance(back, x), 1e-6 * t.size)
    x, y = x[:5], y[:5]
    tangent = t.derivative(x)
    round_trip = torch.stack([torch.func.jacrev(lambda p: space.embed(space.retract(p)))(p) for p in y])
    law = "the derivative of embed after retract is the identity along the image"
    expect.close(law, round_trip @ tangent, tangent, 1e-5 * (1 + tangent.abs().max()))


def seams(t: Trial) -> None:
    """Along paths through many cells, a little off the image: the point moves in steps, the lift may jump."""
    space, expect = t.space, t.expect
    x = t.x[:2]
    v = space.tangent(x, t.normal(*x.shape))
    v = 2 * t.unit * v / v.norm(dim=-1, keepdim=True)
    time = torch.linspace(0, 1, 81, dtype=torch.float64)
    path = torch.stack([space.geodesic(x, v, t)[0] for t in time.tolist()], 1)
    off = (6 * time.unsqueeze(1) + torch.arange(space.num_features)).sin()
    off = 0.02 * t.unit * t.flattest * off / math.sqrt(space.num_features)
    point = space.retract(space.embed(path) + off)
    law = "retract is near the point where features are near"
    expect.at_most(law, space.distance(point, path), 0.1 * t.unit)
    steps, expected = (space.distance(p[:, 1:], p[:, :-1]) for p in (point, path))
    expect.close("retract is continuous across seams", steps, expected, 0.1 * t.unit)


def batches(t: Trial) -> None:
    space, expect = t.space, t.expect
    calls: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
        "project": (space.project, (space.cover_dim,)),
        "embed": (space.embed, (space.num_features,)),
        "retract after embed": (lambda x: space.retract(space.embed(x)), (space.cover_dim,)),
        "distance": (lambda x: space.distance(x, t.z[0]), ()),
        "lifts": (lambda x: space.lifts(x, 0.5 * t.unit).flatten(-2), (-1,)),
    }
    for name, (call, shape) in calls.items():
        all_of_them = call(t.x[:6])
        shape = all_of_them.shape[1:] if -1 in shape else shape
        expect.shape(f"{name} of a batch", all_of_them, (6, *shape))
        table = call(t.x[:6].view(2, 3, -1))
        expect.close(f"{name} of two batch dimensions", table, all_of_them.view(2, 3, *shape), 1e-7)
        expect.close(f"{name} of one point", call(t.x[0]), all_of_them[0], 1e-7)
        expect.shape(f"{name} of an empty batch", call(t.x[:0]), (0, *shape))
        if "retract" not in name:
            mapped = torch.func.vmap(call)(t.x[:6])
            expect.close(f"{name} inside vmap", mapped, all_of_them, 1e-7)
    table = space.distance(t.x[:4].unsqueeze(1), t.y[:3])
    expect.shape("distance broadcasts", table, (4, 3))


def dtypes(t: Trial) -> None:
    space, expect = t.space, t.expect
    x, y = t.x[:6].float(), t.y[:6].float()
    size = 1 + t.size
    for name, call in {
        "project": space.project,
        "embed": space.embed,
        "retract": lambda x: space.retract(space.embed(x)),
        "lifts": lambda x: space.lifts(x, 0.5 * t.unit),
        "distance": lambda x: space.distance(x, y.to(x)),
    }.items():
        found = call(x)
        expect.dtype(f"{name} keeps float32", found, torch.float32)
        expect.dtype(f"{name} keeps float64", call(x.double()), torch.float64)
        expect.finite(f"{name} of float32", found)
        with torch.autocast("cpu", torch.bfloat16):
            cast = call(x)
        expect.dtype(f"{name} under autocast", cast, torch.float32)
        expect.close(f"{name} under autocast", cast, found, 0)
    expect.close("embed in float32", space.embed(x), space.embed(x.double()), 1e-3)
    expect.close(
        "distance in float32", space.distance(x, y), space.distance(x.double(), y.double()), 1e-3 * size
    )
    back = space.distance(space.retract(space.embed(x)), x)
    expect.at_most("retract inverts embed in float32", back, 3e-3 * size)


def broken_rows(t: Trial) -> None:
    space, expect = t.space, t.expect
    x, whole = t.x[:3], [0, 2]
    for bad in (math.nan, math.inf, -math.inf):
        broken = x.clone()
        broken[1, -1] = bad
        for distance in (space.distance(broken, x), space.distance(x, broken)):
            lost = not distance[1].isfinite()
            expect.true("what is no point has no distance", lost, "no number", distance[1].item())
            expect.at_most("a broken row leaves other distances alone", distance[whole], 1e-7 * t.size)
        same = bool(space.same_point(broken, broken)[1])
        expect.true("what is no point is not the same point", not same, False, same)
        features = space.embed(broken)
        lost = not bool(features[1].isfinite().all())
        expect.true("what is no point has no features", lost, "no number", features[1].tolist())
        expected = space.embed(x)[whole]
        expect.close("a broken row leaves other features alone", features[whole], expected, 1e-9)
    y = space.embed(x)
    expected = space.retract(y)
    y[1] = math.nan
    found = space.retract(y)
    law = "features that are no numbers are no point"
    expect.true(law, found[1].isnan().any(), "nan", found[1].tolist())
    expect.close("broken features leave other points alone", found[whole], expected[whole], 1e-9)
