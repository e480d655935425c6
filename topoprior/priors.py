"""Weight priors: what a Bayesian layer believes of its weights before it has seen data.

A prior is one class with two methods, and layers know priors by them alone:

- ``posterior(shape)``: a :class:`WeightPosterior`, the module that a layer trains;
- ``sample(shape)``: weights drawn from the prior.

``shape`` is the layer's weight shape, (out, in per group, *kernel) or (out, in). Scales follow the
fan-in: E |w_oi|^2 = gain^2 / in for the kernel from input i to output o, He's for gain^2 = 2.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_HE_GAIN = math.sqrt(2)
Shape = Sequence[int]


class WeightPosterior(nn.Module, ABC):
    """Variational posterior over a weight tensor of ``shape``."""

    shape: torch.Size

    @abstractmethod
    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Reparameterized weights, (*sample_shape, *shape)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """E[w], (*shape)."""

    @abstractmethod
    def kl(self) -> Tensor:
        """KL(posterior || prior) in nats, summed over all weights: a scalar, closed form, no sampling."""

    def forward(self) -> Tensor:
        return self.rsample()


class WeightPrior(ABC):
    """Law of a weight tensor. Subclass it, give it to a layer as ``prior=``."""

    @abstractmethod
    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> WeightPosterior:
        """A fresh posterior, initialized by a draw from the prior.

        Raises:
            ValueError: the prior does not serve weights of this shape.
        """

    @abstractmethod
    def sample(self, shape: Shape) -> Tensor:
        """Weights drawn from the prior, of ``shape``."""


def normal_kl(loc: Tensor, log_scale: Tensor, prior_scale: float) -> Tensor:
    """Sum of KL(N(m, s^2) || N(0, p^2)) = (s^2 + m^2) / 2 p^2 - 1/2 - log(s / p)."""
    second_moment = (loc.square() + (2 * log_scale).exp()).sum() / (2 * prior_scale**2)
    return second_moment - log_scale.sum() + loc.numel() * (math.log(prior_scale) - 0.5)


class Gaussian(WeightPrior):
    r"""Independent :math:`w \sim N(0, s^2)`, with a mean-field normal posterior.

    Args:
        scale: s; default gain / sqrt(fan-in).
        gain: He's sqrt(2) by default.
        init_scale: posterior std at the start, as a fraction of s.

    Example:
        >>> posterior = Gaussian().posterior((4, 3, 3, 3))
        >>> posterior.rsample((10,)).shape, posterior.kl().shape
        (torch.Size([10, 4, 3, 3, 3]), torch.Size([]))
    """

    def __init__(
        self, scale: float | None = None, *, gain: float = _HE_GAIN, init_scale: float = 0.1
    ) -> None:
        if scale is not None:
            _check_positive("scale", scale)
        self.scale = scale
        self.gain = _check_positive("gain", gain)
        self.init_scale = _check_positive("init_scale", init_scale)

    def std(self, shape: Shape) -> float:
        """Prior standard deviation of every weight of a tensor of ``shape``."""
        if self.scale is not None:
            return self.scale
        return self.gain / math.sqrt(max(1, math.prod(shape[1:])))

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> GaussianPosterior:
        return GaussianPosterior(shape, self.std(shape), self.init_scale, device=device, dtype=dtype)

    def sample(self, shape: Shape) -> Tensor:
        return torch.randn(*shape) * self.std(shape)

    def __repr__(self) -> str:
        return f"Gaussian(scale={self.scale}, gain={self.gain:.3g}, init_scale={self.init_scale})"


class GaussianPosterior(WeightPosterior):
    """Mean-field normal with parameters ``loc`` and ``log_scale``, two numbers a weight."""

    def __init__(
        self,
        shape: Shape,
        prior_scale: float,
        init_scale: float,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.prior_scale, self.init_scale = prior_scale, init_scale
        self.loc = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(self.shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.loc.normal_(0, self.prior_scale)
            self.log_scale.fill_(math.log(self.init_scale * self.prior_scale))

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        if not sample_shape:
            return torch.addcmul(self.loc, self.log_scale.exp(), torch.randn_like(self.loc))
        noise = torch.randn(*sample_shape, *self.shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.log_scale.exp() * noise

    def mean(self) -> Tensor:
        return self.loc

    def kl(self) -> Tensor:
        return normal_kl(self.loc, self.log_scale, self.prior_scale)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, prior_scale={self.prior_scale:.3g}"


_PRIORS: dict[str, Callable[[], WeightPrior]] = {"gaussian": Gaussian}


def register_prior(name: str, factory: Callable[[], WeightPrior]) -> None:
    """Make ``prior=name`` known to every layer."""
    _PRIORS[name] = factory


def prior_names() -> list[str]:
    """Names that :func:`get_prior` knows."""
    return sorted(_PRIORS)


def get_prior(prior: str | Path | WeightPrior) -> WeightPrior:
    """The prior of a name, of a checkpoint folder, or the prior itself.

    Raises:
        ValueError: unknown name; the message lists the names.
        TypeError: neither a name nor a prior.
    """
    if isinstance(prior, WeightPrior):
        return prior
    if not isinstance(prior, str | Path):
        raise TypeError(f"prior: expected a name or a WeightPrior, found {type(prior).__name__}")
    if str(prior) in _PRIORS:
        return _PRIORS[str(prior)]()
    if Path(prior).is_dir():
        from topoprior.decoder_prior import DecoderPrior

        return DecoderPrior.from_pretrained(prior)
    close = difflib.get_close_matches(str(prior), prior_names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"prior: {str(prior)!r} is neither a known name nor a checkpoint folder; {hint}"
        f"known names: {', '.join(prior_names())}"
    )


def _check_positive(name: str, value: float) -> float:
    if not value > 0 or not math.isfinite(value):
        raise ValueError(f"{name}: expected a positive number, found {value}")
    return float(value)
