"""Normal families with structure over the whitened coordinates of a network, fitted to the bound: do they do what mean-field does not?

In these coordinates every prior is standard normal, or uniform for latents, whatever the layer. All families keep latents mean-field, as
lifts of wrapped normals; they differ in the normal coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.posteriors.methods import Found, Problem, descend, most_probable, timed
from topoprior.distributions import kappa
from topoprior.inference.potential import parts_of
from topoprior.priors.base import normal_kl
from topoprior.priors.coordinates import Part

_DRAWS = 64  # for predictions and the bound
_NARROW = 0.05  # std at the start, in prior stds; of latents in periods


class MeanField(nn.Module):
    """x = m + s e for every coordinate. KL(q || p) is exact: of normal coordinates in closed form, of latents a bound by kappa.

    Args:
        parts: shapes and laws by name.
        start: the centers.
    """

    def __init__(self, parts: Mapping[str, Part], start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parts = dict(parts)
        self.latent = [name for name, part in self.parts.items() if part.law.space is not None]
        self.normal = [name for name in self.parts if name not in self.latent]
        self.loc = nn.ParameterList([start[name].clone() for name in self.parts])
        self.log_scale = nn.ParameterList([torch.full_like(m, math.log(_NARROW)) for m in self.loc])
        self.place = {name: i for i, name in enumerate(self.parts)}

    def _sample(self, name: str) -> Tensor:
        m, t = self.loc[self.place[name]], self.log_scale[self.place[name]]
        return m + t.exp() * torch.randn_like(m)

    def sample(self) -> dict[str, Tensor]:
        return {name: self._sample(name) for name in self.parts}

    def _kl(self, name: str) -> Tensor:
        m, t = self.loc[self.place[name]], self.log_scale[self.place[name]]
        space = self.parts[name].law.space
        if space is None:
            return normal_kl(m, t, 1.0)
        return kappa(t.exp() / space.periods.to(t)).sum()  # type: ignore[attr-defined]

    def kl(self) -> Tensor:
        return torch.stack([self._kl(name) for name in self.parts]).sum()


class LowRank(MeanField):
    """All normal coordinates of all layers together: x = m + s e + F n, with n of a few dimensions.

    KL with covariance diag(s^2) + F F^T; its determinant by that of a small matrix.
    """

    def __init__(self, parts: Mapping[str, Part], start: Mapping[str, Tensor], rank: int = 10) -> None:
        super().__init__(parts, start)
        self.factors = nn.ParameterList(
            [0.01 * torch.randn(start[name].numel(), rank) for name in self.normal]
        )

    def sample(self) -> dict[str, Tensor]:
        n = torch.randn(self.factors[0].shape[1])
        found = super().sample()
        for name, factor in zip(self.normal, self.factors, strict=True):
            found[name] = found[name] + (factor @ n).view_as(found[name])
        return found

    def kl(self) -> Tensor:
        factor = torch.cat(list(self.factors))
        precision = torch.cat(
            [(-2 * self.log_scale[self.place[name]]).exp().flatten() for name in self.normal]
        )
        small = torch.eye(factor.shape[1]) + factor.T @ (factor * precision[:, None])
        return super().kl() + 0.5 * (factor.square().sum() - torch.logdet(small))


class MatrixNormal(MeanField):
    """X = M + A E B^T for every matrix of amplitudes or weights, A and B lower triangular: covariances of rows and of columns."""

    def __init__(self, parts: Mapping[str, Part], start: Mapping[str, Tensor]) -> None:
        super().__init__(parts, start)
        self.matrices = [name for name in self.normal if len(self.parts[name].shape) >= 2]
        size = lambda name, axis: self.loc[self.place[name]].flatten(1).shape[axis]  # noqa: E731
        self.left, self.right = (
            nn.ParameterList(
                [math.log(_NARROW) / 2 * torch.eye(size(name, axis)) for name in self.matrices]
            )
            for axis in (0, 1)
        )

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        """Triangular, with the exponential of what is on the diagonal."""
        i = self.matrices.index(name)
        a, b = (x[i].tril(-1) + x[i].diagonal().exp().diag() for x in (self.left, self.right))
        return a, b

    def _sample(self, name: str) -> Tensor:
        if name not in self.matrices:
            return super()._sample(name)
        m = self.loc[self.place[name]]
        a, b = self._factors(name)
        return m + (a @ torch.randn_like(m).flatten(1) @ b.T).view_as(m)

    def _kl(self, name: str) -> Tensor:
        if name not in self.matrices:
            return super()._kl(name)
        m = self.loc[self.place[name]]
        a, b = self._factors(name)
        rows, columns = len(a), len(b)
        log_det = columns * a.diagonal().log().sum() + rows * b.diagonal().log().sum()
        return 0.5 * (a.square().sum() * b.square().sum() + m.square().sum() - rows * columns) - log_det


class LayerScale(MeanField):
    """A scale a layer, e^t with t ~ N(0, 1), times its normal coordinates: another prior, wider in what it expects, and mean-field.

    A layer that has nothing to say can become small at the price of one number.
    """

    def __init__(self, parts: Mapping[str, Part], start: Mapping[str, Tensor]) -> None:
        super().__init__(parts, start)
        self.layers = sorted({name.split(".")[0] for name in self.normal})
        self.t_loc = nn.Parameter(torch.zeros(len(self.layers)))
        self.t_log_scale = nn.Parameter(torch.full((len(self.layers),), math.log(_NARROW)))

    def sample(self) -> dict[str, Tensor]:
        found = super().sample()
        t = (self.t_loc + self.t_log_scale.exp() * torch.randn_like(self.t_loc)).exp()
        for name in self.normal:
            found[name] = found[name] * t[self.layers.index(name.split(".")[0])]
        return found

    def kl(self) -> Tensor:
        return super().kl() + normal_kl(self.t_loc, self.t_log_scale, 1.0)


FAMILIES = {
    "mean-field": MeanField,
    "low-rank": LowRank,
    "matrix-normal": MatrixNormal,
    "layer-scale": LayerScale,
}


def structured(
    problem: Problem,
    *,
    family: str,
    steps: int,
    lr: float,
    start: str = "map",
    map_steps: int = 300,
    map_lr: float = 0.02,
) -> Found:
    """A family fitted by Adam with one draw a step, its rate falling as a cosine to 0.

    Args:
        start: "map": narrow around the most probable point; "prior": around a draw from the prior.
    """
    measures: dict[str, float] = {}
    x, y = problem.data
    with timed(measures):
        net = most_probable(problem, map_steps, map_lr) if start == "map" else problem.network("delta")
        q = FAMILIES[family](parts_of(net), {name: p.detach() for name, p in net.named_parameters()})
        net.requires_grad_(False)

        def bound() -> Tensor:
            logits = torch.func.functional_call(net, q.sample(), (x,))
            return F.cross_entropy(logits, y) + q.kl() / len(x)

        descend(bound, q.parameters(), steps, lr)
    return Found(*_judged(problem, net, q, measures))


@torch.no_grad()
def _judged(
    problem: Problem, net: nn.Module, q: MeanField, measures: dict[str, float]
) -> tuple[Tensor, dict[str, float]]:
    x, y = problem.data
    nll, p = 0.0, torch.zeros(())
    for _ in range(_DRAWS):
        params = q.sample()
        nll += F.cross_entropy(torch.func.functional_call(net, params, (x,)), y).item() / _DRAWS
        p = p + torch.func.functional_call(net, params, (problem.unseen,)).softmax(1) / _DRAWS
    kl = q.kl().item() / len(x)
    return p, measures | {"kl": kl, "negative_elbo": nll + kl}
