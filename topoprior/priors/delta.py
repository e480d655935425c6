"""The delta posterior: a point in a prior's whitened coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.priors.base import Shape, WeightPosterior, WeightPrior, check_weight
from topoprior.priors.coordinates import Law, StandardNormal, Uniform
from topoprior.utils.precision import at_least_float32

_SMALL = 2**16  # numbers: below, copying them costs less than the operations it saves


class DeltaPosterior(WeightPosterior):
    r"""All mass at one point x of the prior's whitened coordinates (:class:`~topoprior.priors.Coordinates`).

    The parts of x are the parameters, by their names: "u" of plain weights, in units of their prior std; "z",
    "alpha" and "beta" of decoded kernels, 4 numbers each on the Klein bottle. :meth:`rsample` and :meth:`mean`
    are the weights at x. :meth:`kl` is -log p(x) up to a constant, so that the negative ELBO is what maximum a
    posteriori estimation minimizes:

    .. math:: -\log p(x) = \tfrac12 \textstyle\sum u^2 + \text{const for normal u}, \quad \text{const for uniform z}

    The constants of normal and uniform laws are left out. With respect to which measure? That of the
    coordinates: by length of u and by volume of z, not of the weights.

    Args:
        prior: with ``coordinates(shape)``.
        shape: of the weights.

    Raises:
        ValueError: the prior has no whitened coordinates, or learns its scales by empirical Bayes.

    Source: Pyro's AutoDelta; the non-centred parametrization of Papaspiliopoulos et al. 2007.

    Example:
        >>> import topoprior as tp
        >>> posterior = DeltaPosterior(tp.get_prior("klein-3x3"), (16, 8, 3, 3))
        >>> {name: tuple(p.shape) for name, p in posterior.named_parameters()}
        {'z': (16, 8, 2), 'alpha': (16, 8), 'beta': (16, 8)}
        >>> torch.equal(posterior.rsample(), posterior.mean())
        True
    """

    kl_kind = "-log p"
    is_point = True
    #: While it is set, these are the weights: by whoever takes those of several posteriors together.
    held: Tensor | None = None

    def __init__(
        self, prior: WeightPrior, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__(dtype)
        self.prior, self.shape = prior, torch.Size(shape)
        self.coordinates = prior.coordinates(shape, device=device, dtype=dtype)
        for name, part in self.coordinates.parts.items():
            self.register_parameter(name, nn.Parameter(torch.empty(part.shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def parts(self) -> dict[str, Tensor]:
        """The coordinates, by the names of their parts."""
        return {name: getattr(self, name) for name in self.coordinates.parts}

    def latent_parameters(self) -> Sequence[nn.Parameter]:
        return [self.get_parameter(name) for name in self.coordinates.parts]

    def _set(self, parts: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in parts.items():
                getattr(self, name).copy_(value)

    def reset_parameters(self) -> None:
        """A draw from the prior."""
        self.coordinates.fill_buffers()
        self._set(self.coordinates.sample())

    def rsample(self, sample_shape: Shape = (), *, antithetic: bool = False) -> Tensor:
        mean = self.mean()
        return mean.expand(*sample_shape, *self.shape) if sample_shape else mean

    def mean(self) -> Tensor:
        return self.coordinates.weight(self.parts()) if self.held is None else self.held

    def kl(self) -> Tensor:
        """-log p(x) in nats, without the constants of normal and uniform laws."""
        return self.coordinates.energy(self.parts())

    @classmethod
    def sum_kl(cls, posteriors: Sequence[WeightPosterior]) -> Tensor:
        """Small normal parts side by side: in small networks the number of operations costs more than their size."""
        parts: list[tuple[Tensor, Law]] = []
        for p in posteriors:
            assert isinstance(p, DeltaPosterior)
            parts += p._parts_with_laws()
        small = [
            at_least_float32(x).flatten()
            for x, law in parts
            if type(law) is StandardNormal and x.numel() <= _SMALL
        ]
        kls = [law.energy(x) for x, law in parts if type(law) is not StandardNormal or x.numel() > _SMALL]
        if small:
            kls.append(StandardNormal().energy(torch.cat([x.to(small[0].dtype) for x in small])))
        return torch.stack([kl.to(kls[0]) for kl in kls]).sum() if len(kls) > 1 else kls[0]

    def _parts_with_laws(self) -> list[tuple[Tensor, Law]]:
        """Without latents that are uniform, whose energy is 0."""
        laws = {name: part.law for name, part in self.coordinates.parts.items()}
        return [(getattr(self, name), law) for name, law in laws.items() if type(law) is not Uniform]

    @torch.no_grad()
    def project_(self, weight: Tensor) -> Tensor:
        check_weight(weight, self.shape)
        self._set(self.coordinates.invert(weight))
        left = (weight - self.mean().to(weight)).norm()
        return left / weight.norm().clamp(min=torch.finfo(weight.dtype).tiny)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior={self.prior!r}"


FAMILIES = ("mean-field", "delta")


def check_family(family: str) -> None:
    """A :class:`ValueError` for a posterior family that there is not."""
    if family not in FAMILIES:
        raise ValueError(f"posterior: expected one of {', '.join(map(repr, FAMILIES))}, found {family!r}")


def posterior_of(prior: WeightPrior, shape: Sequence[int], family: str, **options: Any) -> WeightPosterior:
    """A fresh posterior of ``family`` over weights of ``shape``: "mean-field" is the prior's own, "delta" a point.

    Raises:
        ValueError: an unknown family, a prior that has none of this family, or does not serve this shape.
    """
    check_family(family)
    if family == "delta":
        return DeltaPosterior(prior, shape, **options)
    return prior.posterior(shape, **options)
