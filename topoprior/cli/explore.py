"""`topoprior explore`: one page, without a server or a network, on which a prior's space is walked over.

The page is `page/explorer.html` with its style, its script and the decoders' numbers put in. A decoder on a circle, a
torus or a Klein bottle is a short sum of plane waves; they are read off its kernels on a grid of the torus that covers the space.
"""

from __future__ import annotations

import argparse
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topoprior.cli.options import add_common, say
from topoprior.kernels.networks import SUFFIXES, harvest_kernels, read_weights
from topoprior.priors.base import WeightPrior
from topoprior.priors.registry import get_prior, prior_names
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.utils.files import check_writable, write_atomically

MOST = 1_000_000  # bytes of the page
_SCRIPTS = ("space.js", "drawing.js", "posterior.js", "page.js")  # one scope, in this order
_OTHERS = (
    "klein-3x3",
    "klein-natural-3x3",
    "torus-3x3",
    "circle-3x3",
)  # to switch to, where their size is the prior's
_GRID = 64  # a side; orders from half of it on would be taken for lower ones
_POINTS = 4000  # of a network, on one page


def add_parser(commands: Any) -> None:
    explore = commands.add_parser(
        "explore",
        help="write a page on which a prior's space is walked over",
        description="Write one static page: drag over the space and see its kernels; a network's kernels as points on it.",
    )
    explore.add_argument(
        "subject",
        nargs="?",
        default="klein-3x3",
        metavar="PRIOR_OR_WEIGHTS",
        help="name or folder of a prior on a circle, torus or Klein bottle; or a network's weights (.safetensors, .pt)",
    )
    explore.add_argument(
        "--prior", default="klein-3x3", help="prior on whose space a network's kernels are shown"
    )
    explore.add_argument("--output", type=Path, required=True, help="page to write, .html")
    add_common(explore, seed=False)
    explore.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.output.is_dir():
        raise ValueError(f"--output: expected a file such as page.html, found the folder {args.output}")
    check_writable(args.output.absolute().parent, "--output")
    weights = Path(args.subject).suffix.lower() in SUFFIXES and args.subject not in prior_names()
    name = args.prior if weights else args.subject
    prior = get_prior(name)
    network = describe_network(args.subject, prior) if weights else None
    page = make_page(name, prior, network)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, page)
    say(args, f"{args.output}: {len(page) / 1000:.0f} kB, open it in a browser")


def make_page(name: str, prior: WeightPrior, network: dict[str, Any] | None = None) -> bytes:
    """The page, UTF-8.

    Args:
        name: how the prior is called; others of its kernel size that are shipped can be switched to.
        network: of :func:`describe_network`.

    Raises:
        ValueError: a prior that is not on a circle, a torus or a Klein bottle, or decodes no square kernels.

    Example:
        >>> make_page("klein-3x3", get_prior("klein-3x3"))[:15]
        b'<!doctype html>'
    """
    priors = [describe_prior(Path(name).name, prior)]
    for other in _OTHERS:
        if other != name:
            described = describe_prior(other, get_prior(other))
            if described["size"] == priors[0]["size"]:
                priors.append(described)
    data = json.dumps({"priors": priors, "network": network}, separators=(",", ":"))
    folder = resources.files("topoprior.cli") / "page"

    def read(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    page = read("explorer.html")
    for mark, text in (
        ("/*STYLE*/", read("explorer.css")),
        ("/*SCRIPT*/", "".join(map(read, _SCRIPTS))),
        # Nothing in the data, such as a layer's name, ends the script.
        ("/*DATA*/", data.replace("<", "\\u003c")),
    ):
        page = page.replace(mark, text)
    found = page.encode()
    if len(found) > MOST:
        raise ValueError(f"expected a page of at most {MOST:,} bytes, found {len(found):,}")
    return found


def describe_prior(name: str, prior: WeightPrior) -> dict[str, Any]:
    """Name, space, kernel size, and the decoder as waves: ``[[frequency, cosine, sine], ...]`` with

        g(z) = sum of cosine * cos(2 pi frequency . z) + sine * sin(2 pi frequency . z),

    frequencies in turns per unit of the cover's coordinates, cosine and sine one number a pixel.
    """
    space = getattr(prior, "covering", None)
    kind = _kind(space)
    if kind is None or not hasattr(prior, "decode"):
        raise ValueError(
            f"prior: expected one whose kernels are decoded from a circle, a torus or a Klein bottle, found {prior!r}"
        )
    assert space is not None
    periods = [float(p) for p in space.periods]
    axes = [torch.arange(_GRID, dtype=torch.float64) / _GRID * period for period in periods]
    points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    with torch.no_grad():
        kernels = prior.decode(points).double()
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"prior: expected square kernels, found {tuple(kernels.shape[1:])}")
    grid = kernels.reshape(*[_GRID] * len(axes), -1)
    waves = torch.fft.rfftn(grid, dim=list(range(len(axes))), norm="forward")
    size = waves.abs().amax(-1)
    found = []
    for index in (size > 1e-6 * size.max()).nonzero().tolist():
        order = [k if k <= _GRID // 2 else k - _GRID for k in index]
        # rfft keeps one of k and -k in its last axis, but both where that order is 0 or the highest.
        twice = 2.0 if 0 < order[-1] < _GRID // 2 else 1.0
        value = twice * waves[tuple(index)]
        frequency = [k / period for k, period in zip(order, periods, strict=True)]
        found.append([frequency, _rounded(value.real), _rounded(-value.imag)])
    return {"name": name, "space": kind, "size": kernels.shape[1], "waves": found}


def _kind(space: Any) -> str | None:
    """What the page can draw: spaces of area 1 with u in [0, 1), whose glide, if any, is (u, v) -> (u + 1, -v)."""
    if not isinstance(space, FlatManifold) or not math.isfinite(space.volume) or space.periods is None:
        return None
    periods, sheets = [round(float(p), 9) for p in space.periods], space.num_sheets
    if sheets == 1 and periods in ([1.0], [1.0, 1.0]):
        return "circle" if space.dim == 1 else "torus"
    if sheets == 2 and periods == [2.0, 1.0]:
        moved = space.sheets(torch.tensor([0.3, 0.2], dtype=torch.float64))[..., 1, :]
        glide = torch.tensor([1.3, -0.2], dtype=torch.float64)
        if torch.allclose(
            (moved - glide) / torch.tensor(periods), ((moved - glide) / torch.tensor(periods)).round()
        ):
            return "klein"
    return None


def describe_network(path: str, prior: WeightPrior) -> dict[str, Any]:
    """A network's kernels as points of the prior's space, a list a layer.

    A Bayesian layer of such a prior has its points, and their stds, in its state; kernels of other layers are projected
    on the decoder's image.

    Raises:
        ValueError: a file that is damaged, or has no kernels of the prior's size.
    """
    space: Any = getattr(prior, "covering", None)
    if _kind(space) is None:
        raise ValueError(f"--prior: expected one on a circle, a torus or a Klein bottle, found {prior!r}")
    weights = read_weights(path)
    dim, name = space.dim, Path(path).name
    ending = "weight_posterior.loc"
    places = [
        key for key in sorted(weights) if key.endswith(ending) and weights[key].shape[:1] == (dim + 2,)
    ]
    places = [key for key in places if key.removesuffix("loc") + "log_scale" in weights]
    each = max(1, _POINTS // max(1, len(places)))
    layers = []
    for key in places:
        loc = weights[key][:dim].flatten(1).double()
        scale = weights[key.removesuffix("loc") + "log_scale"][:dim].flatten(1).double().exp()
        chosen = _some(loc.shape[1], each)
        rows = torch.cat([space.project(loc.T), scale.T], 1)[chosen]
        order = [0, dim] if dim == 1 else list(range(2 * dim))
        points = [
            [row[0], 0.0, row[1], 0.0] if dim == 1 else [row[i] for i in order]
            for row in map(_rounded, rows)
        ]
        spread = _rounded(scale.median(1).values)
        layers.append(
            {
                "name": key.removesuffix("." + ending) or "layer",
                "count": loc.shape[1],
                "points": points,
                "spread": spread,
            }
        )
    if layers:
        return {"name": name, "posterior": True, "layers": layers}
    return {"name": name, "posterior": False, "layers": _projected(path, weights, prior)}


def _projected(path: str, weights: dict[str, Tensor], prior: Any) -> list[dict[str, Any]]:
    height, width = prior.kernel_size
    held = harvest_kernels(path, height).layers if height == width else {}
    each = max(1, _POINTS // max(1, len(held)))
    layers = []
    for key in held:
        kernels = weights[key].detach().double().flatten(0, 1)
        chosen = kernels[_some(len(kernels), each)][:, None]
        posterior = prior.posterior(chosen.shape, dtype=torch.float64)
        with torch.no_grad():
            residual = float(posterior.project_(chosen))
        at = prior.covering.project(posterior.loc[: prior.covering.dim].flatten(1).T.detach())
        points = [[*_rounded(row), 0.0][:2] for row in at]
        layers.append(
            {
                "name": key.removesuffix(".weight"),
                "count": len(kernels),
                "points": points,
                "residual": round(residual, 4),
            }
        )
    return layers


def _some(count: int, most: int) -> Tensor:
    """Indices of at most ``most`` of ``count``, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
