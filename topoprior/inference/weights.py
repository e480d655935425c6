"""All weights of a network from one vector of coordinates, and the gradient back: the inner loop of a chain.

What costs in a small network is the number of operations. So plain weights are one product, and decoded kernels are those of one layer, whatever
layer they belong to; the gradient is written by hand.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from topoprior.inference.geometry import StateSpace
from topoprior.priors.coordinates import ScaledCoordinates
from topoprior.priors.decoded.coordinates import DecodedCoordinates
from topoprior.priors.delta import DeltaPosterior

_SMALL = 2**18  # numbers: below, copying them costs less than the operations it saves


class NetworkWeights:
    """Weights of every delta posterior as functions of a state (size,).

    Args:
        posteriors: by their name in the network.
        space: of the state, with parts "name.part".
    """

    def __init__(self, posteriors: Mapping[str, DeltaPosterior], space: StateSpace) -> None:
        self.space = space
        where = {block.name: block.where for block in space.blocks}
        scales = [posterior.coordinates.scales for posterior in posteriors.values()]
        self.like = torch.cat([s[:0] for s in scales])  # dtype and device of a state
        self.units = self.like.new_zeros(space.size)
        self.plain: list[tuple[DeltaPosterior, slice]] = []
        self.others: list[tuple[DeltaPosterior, str]] = []
        groups: dict[Hashable, list[tuple[DeltaPosterior, Mapping[str, slice]]]] = {}
        for name, posterior in posteriors.items():
            c = posterior.coordinates
            of_parts = {part: where[f"{name}.{part}"] for part in c.parts}
            if type(c) is ScaledCoordinates:
                self.units[of_parts["u"]] = c.scales.item()
                self.plain.append((posterior, of_parts["u"]))
            elif isinstance(c, DecodedCoordinates) and self._by_hand(c):
                groups.setdefault(c.alike, []).append((posterior, of_parts))
            else:
                self.others.append((posterior, name))
        self.decoded = [_Decoded(members) for members in groups.values()]

    def _by_hand(self, c: DecodedCoordinates) -> bool:
        small = c.parts["z"].shape.numel() <= _SMALL
        return (
            small
            and c.decoder.pixels is not None
            and "residual" not in c.parts
            and c.scales.dtype == self.like.dtype
        )

    def hold(self, q: Tensor) -> None:
        """The posteriors' weights are those at ``q``, until :meth:`release`."""
        x = self.space.unflatten(q) if self.others else {}
        for posterior, name in self.others:
            c = posterior.coordinates
            posterior.held = c.weight({part: x[f"{name}.{part}"] for part in c.parts})
        mine = [posterior for posterior, _ in self.plain] + [p for d in self.decoded for p in d.posteriors]
        for posterior, weight in zip(mine, _Weights.apply(q, self), strict=True):
            posterior.held = weight

    def release(self) -> None:
        for posterior, _ in self.plain + self.others:
            posterior.held = None
        for decoded in self.decoded:
            for posterior in decoded.posteriors:
                posterior.held = None


class _Decoded:
    """Layers of one decoder side by side, in the units of the first: x = (z, alpha, beta) as rows (dim + 2, n)."""

    def __init__(self, members: list[tuple[DeltaPosterior, Mapping[str, slice]]]) -> None:
        self.posteriors = [posterior for posterior, _ in members]
        first: Any = self.posteriors[0].coordinates
        self.waves, self.known = first.decoder.pixels.waves, first.known.detach()
        dim = len(self.waves.periods)
        index, units = [], []
        for posterior, where in members:
            c: Any = posterior.coordinates
            z, alpha, beta = (
                torch.arange(s.start, s.stop) for s in map(where.__getitem__, ("z", "alpha", "beta"))
            )
            index.append(torch.cat([z.view(-1, dim).T, alpha[None], beta[None]]).to(self.known.device))
            unit = self.known.new_tensor([*[1.0] * dim, *c.amplitudes_in(first)])
            units.append(unit[:, None].expand(-1, len(alpha)))
        self.index, self.units = torch.cat(index, 1), torch.cat(units, 1)
        self.sizes = [indices.shape[1] for indices in index]

    def coordinates(self, q: Tensor) -> Tensor:
        return q[self.index].mul_(self.units)

    def weights(self, x: Tensor) -> list[Tensor]:
        rows = torch.stack([*self.waves.rows(x[:-2], x[-2]), x[-1]])
        kernels = (rows.T @ self.known).split(self.sizes)
        return [k.view(p.shape) for k, p in zip(kernels, self.posteriors, strict=True)]

    def gradient(self, x: Tensor, of_weights: list[Tensor]) -> Tensor:
        """In the rows of the state that ``index`` says."""
        of_kernels = torch.cat([g.reshape(n, -1) for g, n in zip(of_weights, self.sizes, strict=True)])
        of_rows = self.known @ of_kernels.T.to(x.dtype)
        *of_products, of_beta = of_rows.unbind()
        of_alpha, slopes = self.waves.gradient(x[:-2], of_products)
        return torch.stack([*(slope * x[-2] for slope in slopes), of_alpha, of_beta]).mul_(self.units)


class _Weights(torch.autograd.Function):
    """(size,) to the plain weights and those of each group of decoded layers."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, plan: NetworkWeights) -> tuple[Tensor, ...]:
        scaled = q * plan.units
        x = [decoded.coordinates(q) for decoded in plan.decoded]
        ctx.save_for_backward(*x)
        ctx.plan = plan
        found = [scaled[where].view(p.shape) for p, where in plan.plain]
        for decoded, coordinates in zip(plan.decoded, x, strict=True):
            found += decoded.weights(coordinates)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        plan: NetworkWeights = ctx.plan
        gradient = torch.zeros_like(plan.units)
        of_plain, of_decoded = grads[: len(plan.plain)], list(grads[len(plan.plain) :])
        for (_, where), grad in zip(plan.plain, of_plain, strict=True):
            gradient[where] = grad.reshape(-1)
        gradient.mul_(plan.units)
        for decoded, x in zip(plan.decoded, ctx.saved_tensors, strict=True):
            count = len(decoded.posteriors)
            gradient[decoded.index] = decoded.gradient(x, of_decoded[:count])
            del of_decoded[:count]
        return gradient, None
