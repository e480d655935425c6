"""All weights of a network from one vector of coordinates, and the gradient back: the inner loop of a chain.

What costs in a small network is the number of operations. So plain weights are one product, and decoded kernels are those of one layer, whatever
layer they belong to; the gradient is written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from topoprior.inference.geometry import StateSpace
from topoprior.priors.coordinates import ScaledCoordinates
from topoprior.priors.decoded.coordinates import DecodedCoordinates
from topoprior.priors.delta import DeltaPosterior
from topoprior.spaces.flat.waves import ProductWaves

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
    """Layers of one decoder side by side, in the units of the first: x = (z, alpha, beta) as rows (dim + 2, n).

    Kernels are (alpha products(z), beta) @ known, every product one wave an axis. Waves of all axes and orders are made at a time, and
    products pick theirs: a third of the operations of :class:`ProductWaves`, which spares large layers the copies.
    """

    def __init__(self, members: list[tuple[DeltaPosterior, Mapping[str, slice]]]) -> None:
        self.posteriors = [posterior for posterior, _ in members]
        first: Any = self.posteriors[0].coordinates
        self.known = first.known.detach()
        waves = first.decoder.pixels.waves
        dim = len(waves.periods)
        index, units = [], []
        for posterior, where in members:
            c: Any = posterior.coordinates
            z, alpha, beta = (torch.arange(where[p].start, where[p].stop) for p in ("z", "alpha", "beta"))
            index.append(torch.cat([z.view(-1, dim).T, alpha[None], beta[None]]).to(self.known.device))
            unit = self.known.new_tensor([*[1.0] * dim, *c.amplitudes_in(first)])
            units.append(unit[:, None].expand(-1, len(alpha)))
        self.index, self.units = torch.cat(index, 1), torch.cat(units, 1)
        self.sizes = [indices.shape[1] for indices in index]
        self._pick(waves)

    def _pick(self, waves: ProductWaves) -> None:
        """Where products find their waves, and their slopes, among 1, the cosines and the sines."""
        turns = [(d, k) for d, order in enumerate(waves.orders) for k in range(1, order + 1)]
        frequencies = [2 * math.pi * k / waves.periods[d] for d, k in turns]
        place, count = {turn: m for m, turn in enumerate(turns, 1)}, len(turns)
        picks: list[list[int]] = [[], []]
        signs: list[float] = []
        for d in range(len(waves.periods)):
            for product in waves.products:
                k, sine = product[d]
                m = place.get((d, k), 0)
                picks[0].append(m + count * sine)
                picks[1].append(m + count * (not sine) if m else 0)
                signs.append((1 if sine else -1) * frequencies[m - 1] if m else 0.0)
        like, device = self.known, self.known.device
        self.axes = torch.tensor([d for d, _ in turns], device=device)
        self.frequencies, self.signs = (
            like.new_tensor(frequencies)[:, None],
            like.new_tensor(signs)[:, None],
        )
        self.picks, self.slopes = (torch.tensor(p, device=device) for p in picks)
        self.one = like.new_ones(1, self.index.shape[1])

    def weights(self, q: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """The layers' weights, and what :meth:`gradient` asks."""
        x = q[self.index].mul_(self.units)
        angle = x.index_select(0, self.axes).mul_(self.frequencies)
        table = torch.cat([self.one, angle.cos(), angle.sin()])
        first, *rest = table.index_select(0, self.picks).chunk(len(x) - 2)
        for factor in rest:
            first = first * factor
        kernels = torch.cat([first * x[-2], x[-1:]]).T @ self.known
        pieces = zip(kernels.split(self.sizes), self.posteriors, strict=True)
        return [k.view(p.shape) for k, p in pieces], (x, table)

    def gradient(self, x: Tensor, table: Tensor, of_weights: Sequence[Tensor]) -> Tensor:
        """In the rows of the state that ``index`` says."""
        of_kernels = torch.cat([g.reshape(n, -1) for g, n in zip(of_weights, self.sizes, strict=True)])
        of_rows = self.known @ of_kernels.T.to(x.dtype)
        of_products, dim = of_rows[:-1], len(x) - 2
        factors = table.index_select(0, self.picks).chunk(dim)
        slopes = table.index_select(0, self.slopes).mul_(self.signs).chunk(dim)
        terms = [of_products * s * x[-2] for s in slopes] + [of_products * factors[0]]
        for d, factor in enumerate(factors):
            for i, term in enumerate(terms):
                if i != d and not (i == dim and d == 0):
                    term.mul_(factor)
        found = torch.stack(terms).sum(1)
        return torch.cat([found, of_rows[-1:]]).mul_(self.units)


class _Weights(torch.autograd.Function):
    """(size,) to the plain weights and those of each group of decoded layers. Its gradient is not differentiated again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, plan: NetworkWeights) -> tuple[Tensor, ...]:
        scaled = q * plan.units
        found = [scaled[where].view(p.shape) for p, where in plan.plain]
        kept: list[Tensor] = []
        for decoded in plan.decoded:
            weights, asked = decoded.weights(q)
            found += weights
            kept += asked
        ctx.save_for_backward(*kept)
        ctx.plan = plan
        return tuple(found)

    @staticmethod
    @once_differentiable  # what is kept has no graph: a second derivative would be wrong
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        plan: NetworkWeights = ctx.plan
        gradient = torch.zeros_like(plan.units)
        of_plain, of_decoded = grads[: len(plan.plain)], grads[len(plan.plain) :]
        for (_, where), grad in zip(plan.plain, of_plain, strict=True):
            gradient[where] = grad.reshape(-1)
        gradient.mul_(plan.units)
        kept = iter(ctx.saved_tensors)
        for decoded in plan.decoded:
            mine, of_decoded = of_decoded[: len(decoded.sizes)], of_decoded[len(decoded.sizes) :]
            gradient[decoded.index] = decoded.gradient(next(kept), next(kept), mine)
        return gradient, None
