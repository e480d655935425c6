"""Independent weights: one small abstraction, and the Gaussian."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.base import HE_GAIN, Shape, WeightPrior, at_least_float32, normal_kl, overrides
from topoprior.priors.coordinates import Coordinates, Law, ScaledCoordinates, StandardNormal
from topoprior.priors.mean_field.expectation import expectation, legendre_rule
from topoprior.priors.mean_field.posterior import MeanFieldPosterior
from topoprior.priors.registry import register_prior
from topoprior.utils.checks import check_int, check_positive
from topoprior.utils.plain import on_cpu


class MeanFieldPrior(WeightPrior):
    r"""Independent :math:`w = s\, u` with a unit law for u, and a mean-field normal posterior.

    A prior of one's own is one class. It gives

    - ``unit_energy``: E u^2, so that the scale can follow the fan-in;
    - ``sample_unit(shape)``: draws of u;
    - ``log_prob(w, scale)``, elementwise: then the KL is by quadrature (see :meth:`cross_entropy`);
      or ``cross_entropy(loc, log_scale, scale)`` in closed form, with ``kl_kind = "exact"``.

    Args:
        scale: s; by default it follows the fan-in: s^2 E u^2 = gain^2 / fan-in, so that
            E|w_oi|^2 = gain^2 / in for every kernel.
        gain: He's sqrt(2) by default.
        init_scale: posterior std at the start, as a fraction of the prior's.
        empirical_bayes: learn the scale with the posterior, within a factor of 4 of where it starts
            (:class:`~topoprior.priors.empirical_bayes.BoundedScale` says why it is bounded).
        num_nodes: of the quadrature, for laws that need one.

    Raises:
        ValueError: a number that is not positive; no ``scale`` for a law without variance.

    Example: a logistic prior.
        >>> class Logistic(MeanFieldPrior):
        ...     unit_energy = math.pi**2 / 3
        ...     def log_prob(self, w, scale):
        ...         z = w.abs() / scale
        ...         return -z - 2 * (-z).exp().log1p() - scale.log()
        ...     def sample_unit(self, shape):
        ...         return torch.rand(*shape).logit()
        >>> posterior = Logistic().posterior((4, 3, 3, 3))
        >>> posterior.kl_kind, bool(posterior.kl() > 0)
        ('approximation', True)
    """

    unit_energy: float = 1.0
    kl_kind: str = "approximation"
    is_normal: bool = False  # `kl` is that beside N(0, s^2)
    symmetric: bool = True  # log_prob(-w) = log_prob(w); False doubles the cost of the quadrature
    num_scales: int = 1  # how many scales empirical Bayes may learn

    def __init__(
        self,
        scale: float | None = None,
        *,
        gain: float = HE_GAIN,
        init_scale: float = 0.01,
        empirical_bayes: bool = False,
        num_nodes: int = 32,
    ) -> None:
        if scale is not None:
            scale = check_positive("scale", scale)
        elif not math.isfinite(self.unit_energy):
            raise ValueError(f"scale: {type(self).__name__} has no variance, so it needs one, found None")
        self.scale = scale
        self.gain = check_positive("gain", gain)
        self.init_scale = check_positive("init_scale", init_scale)
        self.empirical_bayes = bool(empirical_bayes)
        self.num_nodes = check_int("num_nodes", num_nodes)
        self._rule = legendre_rule(self.num_nodes)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if overrides(cls, "kl", "is_normal"):  # a KL of one's own
            cls.is_normal = False

    # --- what a prior gives ----------------------------------------------------------------------

    def sample_unit(self, shape: Shape) -> Tensor:
        """Draws of u = w / scale, of ``shape``."""
        raise NotImplementedError(f"{type(self).__name__} needs sample_unit(shape)")

    def log_prob(self, w: Tensor, scale: Tensor) -> Tensor:
        """log density of every weight, in nats. ``scale`` is a scalar tensor."""
        raise NotImplementedError(f"{type(self).__name__} needs log_prob(w, scale) or cross_entropy")

    def cross_entropy(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        """-E log p(w) for w ~ N(loc, exp(log_scale)^2), in nats, elementwise.

        Here by quadrature with nodes that crowd around 0, where log densities bend. For log(1 + w^2 / s^2)
        and posterior stds up to 1, 10, 100, 1000 s the error is below 3e-8, 2e-6, 1e-4, 5e-4 with the default
        32 nodes, 3e-8 with 48. Time and memory are ``num_nodes`` times those of an elementwise function.
        """
        return -expectation(
            lambda w: self.log_prob(w, scale),
            loc,
            log_scale.exp(),
            knee=scale.min(),
            even=self.symmetric,
            rule=self._rule,
        )

    def kl(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        """Sum of KL(N(loc, exp(log_scale)^2) || p) in nats: cross entropy minus the normal's entropy."""
        constant = loc.numel() * 0.5 * math.log(2 * math.pi * math.e)
        return self.cross_entropy(loc, log_scale, scale).sum() - log_scale.sum() - constant

    # --- what follows ----------------------------------------------------------------------------

    def std(self, shape: Shape) -> float:
        """Prior standard deviation of every weight of a tensor of ``shape``."""
        if self.scale is not None:
            return self.scale * math.sqrt(self.unit_energy)
        return self.gain / math.sqrt(max(1, math.prod(shape[1:])))

    def scale_of(self, shape: Shape) -> float:
        """The scale s for weights of ``shape``: std / sqrt(E u^2)."""
        if self.scale is not None and not math.isfinite(self.unit_energy):
            return self.scale
        return self.std(shape) / math.sqrt(self.unit_energy)

    def kernel_covariance(self, shape: Shape) -> Tensor:
        return self.std(shape) ** 2 * torch.eye(math.prod(shape[2:]), dtype=torch.float64, device="cpu")

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> MeanFieldPosterior:
        return MeanFieldPosterior(self, shape, device=device, dtype=dtype)

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        """u = w / std (of a law without variance: w / scale)."""
        self._check_coordinates()
        std, scale = self.std(shape), self.scale_of(shape)
        unit = std if math.isfinite(std) else scale
        return ScaledCoordinates(self, shape, self._law(scale / unit), unit, device=device, dtype=dtype)

    def _law(self, scale: float) -> Law:
        """The law of u, whose scale this is."""
        return PriorLaw(self, scale)

    def _check_coordinates(self) -> None:
        if self.empirical_bayes:
            raise ValueError(
                "empirical_bayes: a delta posterior has no width to learn a prior's scale from; expected False, "
                "found True"
            )
        if type(self).cross_entropy is not MeanFieldPrior.cross_entropy and (
            type(self).log_prob is MeanFieldPrior.log_prob
        ):
            raise ValueError(f"prior: {type(self).__name__} needs log_prob(w, scale) for a delta posterior")

    def sample(self, shape: Shape) -> Tensor:
        return self.scale_of(shape) * self.sample_unit(shape)

    def identity(self, shape: Shape) -> str:
        """Which law of weights of ``shape`` this is: its class, its numbers, its scale."""
        own = {
            name: value
            for name, value in vars(self).items()
            if name[0] != "_"
            and name not in _NOT_OF_THE_LAW
            and isinstance(value, int | float | str | tuple)
        }
        numbers = ", ".join(f"{name}={_short(own[name])}" for name in sorted(own))
        return f"{type(self).__name__}({numbers}) * {_short(self.scale_of(shape))}"

    def __repr__(self) -> str:
        learned = ", empirical_bayes=True" if self.empirical_bayes else ""
        return (
            f"{type(self).__name__}({self._describe()}scale={self.scale}, gain={self.gain:.3g}, "
            f"init_scale={self.init_scale}{learned})"
        )

    def _describe(self) -> str:
        return ""


# How it is trained and computed; `scale` and `gain` are in the scale of a shape.
_NOT_OF_THE_LAW = ("scale", "gain", "init_scale", "empirical_bayes", "num_nodes", "unit_energy", "name")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class PriorLaw(Law):
    """The law of a prior's weights in other units: energy = -log p(u), elementwise, with the prior's ``scale`` in
    these units; nothing is left out."""

    prior: MeanFieldPrior
    scale: float

    @on_cpu
    def sample(self, shape: Shape, like: Tensor) -> Tensor:
        return (self.scale * self.prior.sample_unit(shape)).to(like)

    def energy(self, x: Tensor) -> Tensor:
        x = at_least_float32(x)
        scale = torch.full((self.prior.num_scales,), self.scale, dtype=x.dtype, device=x.device)
        return -self.prior.log_prob(x, scale.squeeze(0)).sum()

    def log_norm(self, x: Tensor) -> float:
        return 0.0


class Gaussian(MeanFieldPrior):
    r"""Independent :math:`w \sim N(0, s^2)`, with a mean-field normal posterior and the exact KL.

    Arguments: those of :class:`MeanFieldPrior`. With ``empirical_bayes`` the best scale is
    s^2 = mean(loc^2 + scale^2), where that lies within the bounds.

    Source: Graves 2011; Blundell et al. 2015.

    Example:
        >>> posterior = Gaussian().posterior((4, 3, 3, 3))
        >>> posterior.rsample((10,)).shape, posterior.kl().shape
        (torch.Size([10, 4, 3, 3, 3]), torch.Size([]))
    """

    kl_kind = "exact"
    is_normal = True

    def sample_unit(self, shape: Shape) -> Tensor:
        return torch.randn(*shape)

    def log_prob(self, w: Tensor, scale: Tensor) -> Tensor:
        return -0.5 * (w / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)

    def _law(self, scale: float) -> Law:
        return StandardNormal()

    def cross_entropy(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        second_moment = loc.square() + (2 * log_scale).exp()
        return 0.5 * second_moment / scale.square() + scale.log() + 0.5 * math.log(2 * math.pi)

    def kl(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        return normal_kl(loc, log_scale, scale)  # the same, in fewer passes over the weights


register_prior("gaussian", Gaussian)
