"""Priors over independent weights with heavy tails or a narrow part: Laplace, Student t, mixtures, log-uniform."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topoprior.priors.base import Shape
from topoprior.priors.mean_field.base import MeanFieldPrior
from topoprior.priors.mean_field.closed_forms import mean_abs, mean_log_hypot
from topoprior.priors.mean_field.softplus import mean_softplus
from topoprior.priors.registry import register_prior
from topoprior.utils.checks import check_number, check_positive


class Laplace(MeanFieldPrior):
    r"""Independent :math:`p(w) = \exp(-|w| / s) / 2 s`, with the exact KL: E|w| of a normal is closed.

    Arguments: those of :class:`~topoprior.MeanFieldPrior`. E w^2 = 2 s^2.

    Source: Williams 1995 (Neural Computation 7:117); Graves 2011.

    Example:
        >>> Laplace(empirical_bayes=True).posterior((4, 5)).kl().shape
        torch.Size([])
    """

    unit_energy = 2.0
    kl_kind = "exact"

    def sample_unit(self, shape: Shape) -> Tensor:
        size = torch.Size(shape)
        return torch.empty(size).exponential_() - torch.empty(size).exponential_()

    def log_prob(self, w: Tensor, scale: Tensor) -> Tensor:
        return -w.abs() / scale - (2 * scale).log()

    def cross_entropy(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        return mean_abs(loc, log_scale) / scale + (2 * scale).log()


class StudentT(MeanFieldPrior):
    r"""Independent :math:`w = s\, t`, t of Student's law with ``df`` degrees of freedom. E w^2 = s^2 df / (df - 2).

    The KL against a normal is closed: E log(1 + w^2 / (df s^2)) is a Faddeeva function integrated, which
    :func:`~topoprior.priors.mean_field.closed_forms.mean_log_hypot` sums to 1e-13 in float64, to rounding in float32.

    Args:
        df: degrees of freedom; above 2, or give ``scale``.
        scale, gain, init_scale, empirical_bayes: as for :class:`~topoprior.MeanFieldPrior`.

    Source: Fortuin et al. 2022 (Bayesian neural network priors revisited), section 3.

    Example:
        >>> StudentT(df=5).posterior((4, 5)).kl_kind
        'exact'
    """

    kl_kind = "exact"

    def __init__(self, scale: float | None = None, *, df: float = 3.0, **options: Any) -> None:
        self.df = df = check_positive("df", df)
        self.unit_energy = df / (df - 2) if df > 2 else math.inf
        super().__init__(scale, **options)
        self._log_norm = (
            math.lgamma(df / 2) - math.lgamma((df + 1) / 2) + 0.5 * math.log(math.pi * df)
        )  # -log p(0) at scale 1

    def sample_unit(self, shape: Shape) -> Tensor:
        return torch.distributions.StudentT(torch.tensor(self.df)).sample(torch.Size(shape))

    def log_prob(self, w: Tensor, scale: Tensor) -> Tensor:
        bend = ((w / scale).square() / self.df).log1p()
        return -0.5 * (self.df + 1) * bend - scale.log() - self._log_norm

    def cross_entropy(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        knee = scale * math.sqrt(self.df)
        bend = mean_log_hypot(loc / knee, log_scale - knee.log(), 1.0)
        return (self.df + 1) * bend + (scale.log() + self._log_norm)

    def _describe(self) -> str:
        return f"df={self.df:.3g}, "


class ScaleMixture(MeanFieldPrior):
    r"""Independent :math:`w \sim \pi N(0, s^2) + (1 - \pi) N(0, (r s)^2)`: some weights large, the others near 0.

    The KL splits the mixture into its wide part, exact, and E softplus(a - b w^2), by quadrature over the
    interval on which it does not vanish. So it stays right where the narrow part is 1000 times narrower
    than the posterior, or wider. Its error a weight is below 5e-7 nats for ratios r from .0003 to 1 with the
    20 nodes of the default. Time is proportional to ``num_nodes``, memory is not.

    Args:
        scale: s, the wide std. E w^2 = s^2 (pi + (1 - pi) r^2) by default follows the fan-in.
        pi: weight of the wide part, in (0, 1).
        ratio: r, in (0, 1]; e^-6 is the middle of the published grid.
        gain, init_scale, empirical_bayes: as for :class:`~topoprior.MeanFieldPrior`; both stds are learned.
        num_nodes: of the quadrature.

    Source: Blundell et al. 2015 (Weight uncertainty in neural networks), equation 7.

    Example:
        >>> ScaleMixture(pi=0.25, ratio=0.01, empirical_bayes=True).posterior((4, 5)).scale().shape
        torch.Size([2])
    """

    num_scales = 2

    def __init__(
        self,
        scale: float | None = None,
        *,
        pi: float = 0.5,
        ratio: float = math.exp(-6),
        num_nodes: int = 20,
        **options: Any,
    ) -> None:
        pi, ratio = check_number("pi", pi), check_number("ratio", ratio)
        if not 0 < pi < 1:
            raise ValueError(f"pi: expected a number in (0, 1), found {pi}")
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio: expected a number in (0, 1], found {ratio}")
        self.pi, self.ratio = pi, ratio
        self.unit_energy = pi + (1 - pi) * ratio**2
        super().__init__(scale, num_nodes=num_nodes, **options)

    def sample_unit(self, shape: Shape) -> Tensor:
        noise = torch.randn(*shape)
        return torch.where(torch.rand(*shape) < self.pi, noise, self.ratio * noise)

    def _parts(self, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log weight and std of the wide part; a, b of log p = log(wide part) + softplus(a - b w^2)."""
        stds = scale * scale.new_tensor([1.0, self.ratio])
        log_weights = scale.new_tensor([self.pi, 1 - self.pi]).log()
        in_order = stds[0] >= stds[1]  # learned stds may have changed places
        wide, narrow = torch.where(in_order, stds, stds.flip(0)).unbind()
        log_wide, log_narrow = torch.where(in_order, log_weights, log_weights.flip(0)).unbind()
        a = log_narrow - log_wide + wide.log() - narrow.log()
        return log_wide, wide, a, 0.5 * (narrow.pow(-2) - wide.pow(-2))

    def log_prob(self, w: Tensor, scale: Tensor) -> Tensor:
        log_weight, wide, a, b = self._parts(scale)
        log_normal = -0.5 * (w / wide).square() - wide.log() - 0.5 * math.log(2 * math.pi)
        return log_weight + log_normal + F.softplus(a - b * w.square())

    def cross_entropy(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        log_weight, wide, a, b = self._parts(scale)
        second_moment = torch.addcmul((2 * log_scale).exp(), loc, loc)
        constant = wide.log() - log_weight + 0.5 * math.log(2 * math.pi)
        narrow_part = mean_softplus(loc, log_scale, a, b, self.num_nodes)
        return second_moment * (0.5 / wide.square()) + constant - narrow_part

    def _describe(self) -> str:
        return f"pi={self.pi:.3g}, ratio={self.ratio:.3g}, "


class LogUniform(MeanFieldPrior):
    r"""Independent :math:`p(w) \propto 1 / |w|` on r s <= \|w\| <= s: a prior that prefers no magnitude.

    The improper law 1 / \|w\| cannot be sampled and has no energy; this one is cut at both ends, with
    E w^2 = s^2 (1 - r^2) / (2 log(1 / r)). The KL extends the formula of the density, p(w) =
    1 / (2 \|w\| log(1 / r)), to all w:

    .. math:: E \log|w| + \log(2 \log(1/r)) - \tfrac12 \log(2 \pi e\, \sigma^2)

    (a normal posterior always has some mass outside of the support, where the KL would be infinite).
    So it is the KL with an error that vanishes with that mass, and the usual variational dropout
    objective up to a constant. E log\|w\| is exact to 1e-13 in float64. It does not depend on s, so there is no scale for
    empirical Bayes to learn.

    Args:
        scale: s, the upper end.
        ratio: r, in (0, 1).
        gain, init_scale: as for :class:`~topoprior.MeanFieldPrior`.

    Source: Kingma, Salimans, Welling 2015; Molchanov, Ashukha, Vetrov 2017.

    Example:
        >>> LogUniform().posterior((4, 5)).kl().shape
        torch.Size([])
    """

    def __init__(self, scale: float | None = None, *, ratio: float = 1e-4, **options: Any) -> None:
        ratio = check_number("ratio", ratio)
        if not 0 < ratio < 1:
            raise ValueError(f"ratio: expected a number in (0, 1), found {ratio}")
        self.ratio = ratio
        self.unit_energy = (1 - ratio**2) / (-2 * math.log(ratio))
        super().__init__(scale, **options)
        if self.empirical_bayes:
            raise ValueError(
                "empirical_bayes: expected False, found True; 1 / |w| is the same on every scale"
            )

    def sample_unit(self, shape: Shape) -> Tensor:
        magnitude = (torch.rand(*shape) * math.log(self.ratio)).exp()
        return torch.where(torch.rand(*shape) < 0.5, magnitude, -magnitude)

    def log_prob(self, w: Tensor, scale: Tensor) -> Tensor:
        outside = (w.abs() > scale) | (w.abs() < self.ratio * scale)  # NaN is neither in nor out
        return torch.where(outside, -math.inf, -w.abs().log() - self._log_norm)

    def cross_entropy(self, loc: Tensor, log_scale: Tensor, scale: Tensor) -> Tensor:
        return mean_log_hypot(loc, log_scale, 0.0) + self._log_norm

    def _check_coordinates(self) -> None:
        raise ValueError(
            "prior: 1 / |w| between two bounds has no point estimate inside and no gradient that leads back from "
            "outside; a delta posterior takes another prior"
        )

    @property
    def _log_norm(self) -> float:
        return math.log(-2 * math.log(self.ratio))

    def _describe(self) -> str:
        return f"ratio={self.ratio:.3g}, "


for _name, _prior in (
    ("laplace", Laplace),
    ("student-t", StudentT),
    ("scale-mixture", ScaleMixture),
    ("log-uniform", LogUniform),
):
    register_prior(_name, _prior)
