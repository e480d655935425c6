"""Kernels decoded from points of a space: the topological weight prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topoprior.priors.base import HE_GAIN, Shape, WeightPrior
from topoprior.priors.coordinates import Coordinates
from topoprior.priors.decoded.checkpoints import SavedPrior, pretrained_names, register_decoder
from topoprior.priors.decoded.coordinates import DecodedCoordinates, check_fixed_scales
from topoprior.priors.decoded.decoder import KernelDecoder, Scales, times
from topoprior.priors.decoded.harmonic import HarmonicDecoder
from topoprior.priors.decoded.posterior import DecoderPosterior
from topoprior.priors.registry import priors_serving, register_prior
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.flat.manifold import FlatManifold
from topoprior.spaces.flat.waves import ProductWaves
from topoprior.utils.checks import check_fraction, check_positive, real_tensor
from topoprior.utils.plain import on_cpu


class DecoderPrior(SavedPrior):
    r"""Convolution kernels decoded from a space, such as the Klein bottle:

    .. math:: w_{oi} = \alpha_{oi}\, g(z_{oi}) + \beta_{oi}\, 1 / \sqrt{k} + \tau \epsilon_{oi}, \quad
              z \sim U,\ \alpha \sim N(0, s_a^2),\ \beta \sim N(0, s_b^2),\ \epsilon \sim N(0, I)

    for every kernel of k pixels, from input i to output o. On a compact flat manifold the decoder g is linear in
    deck-invariant harmonics (any smooth decoder is, up to a small error), so it has no seams, and a layer costs a few
    trigonometric functions and one matrix product. It is scaled to E|g(z)|^2 = 1; the scales follow
    from E|w_oi|^2 = s_a^2 + s_b^2 + k tau^2 = gain^2 / in, where in counts the inputs of a group. With the
    default tau = 0 the weights stay on the decoder's image; with tau > 0 the prior has full support.

    The posterior is mean-field: 2 dim + 4 numbers a kernel, 8 on the Klein bottle, against 18 for a
    mean-field normal over 3x3 weights. Its closed-form KL bounds the KL of the weights from above (data
    processing twice: from latents to weights, and from the torus to the space).

    Args:
        harmonics: the features that g reads, on a compact flat manifold whose lattice lies along axes. Or a whole
            :class:`~topoprior.priors.KernelDecoder`, alone, such as a network or one of your own.
        coefficients: (num_features, k), g(z) = harmonics(z) @ coefficients; rescaled to E|g|^2 = 1.
        kernel_size: of the decoded kernels; their product is k.
        gain: He's sqrt(2) by default.
        mean_fraction: s_b^2 as a fraction of the whole.
        init_scale: posterior std of alpha and beta at the start, as a fraction of the prior's.
        init_latent_scale: posterior std of z at the start, in periods (on Euclidean space, in the prior's std).
        residual_fraction: k tau^2 as a fraction of the whole. Costs 2 k more numbers a kernel.
        empirical_bayes: learn factors on s_a, s_b and tau within [1/4, 4] with the posterior, a layer each
            (:class:`~topoprior.priors.empirical_bayes.BoundedScale`).

    Raises:
        TypeError: arguments of another kind.
        ValueError: shapes that do not fit, a space that is not compact or not axis-aligned.

    Example:
        >>> prior = DecoderPrior.from_pretrained("klein-3x3")
        >>> prior.sample((16, 3, 3, 3)).shape
        torch.Size([16, 3, 3, 3])
    """

    def __init__(
        self,
        harmonics: Harmonics | KernelDecoder,
        coefficients: Tensor | None = None,
        kernel_size: Sequence[int] | None = None,
        *,
        gain: float = HE_GAIN,
        mean_fraction: float = 0.1,
        init_scale: float = 0.01,
        init_latent_scale: float = 0.003,
        residual_fraction: float = 0.0,
        empirical_bayes: bool = False,
    ) -> None:
        if isinstance(harmonics, KernelDecoder):
            if coefficients is not None or kernel_size is not None:
                raise TypeError(
                    "coefficients, kernel_size: expected none beside a decoder, which has its own"
                )
            self.decoder = harmonics
        elif coefficients is None or kernel_size is None:
            raise TypeError("coefficients, kernel_size: expected both with harmonics, found None")
        else:
            self.decoder = HarmonicDecoder(harmonics, coefficients, kernel_size)
        self.mean_fraction = check_fraction("mean_fraction", mean_fraction)
        self.residual_fraction = check_fraction("residual_fraction", residual_fraction)
        if self.mean_fraction + self.residual_fraction >= 1:
            raise ValueError(
                "residual_fraction: expected less than 1 together with mean_fraction, found "
                f"{residual_fraction} + {mean_fraction}"
            )
        self.gain = check_positive("gain", gain)
        self.init_scale = check_positive("init_scale", init_scale)
        self.init_latent_scale = check_positive("init_latent_scale", init_latent_scale)
        self.empirical_bayes = bool(empirical_bayes)

    # --- the decoder's ---------------------------------------------------------------------------

    @property
    def covering(self) -> FlatManifold:
        return self.decoder.space

    @property
    def dim(self) -> int:
        return self.decoder.space.dim

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.decoder.kernel_size

    @property
    def harmonics(self) -> Harmonics:
        return self._harmonic().harmonics

    @property
    def coefficients(self) -> Tensor:
        return self._harmonic().coefficients

    @property
    def waves(self) -> ProductWaves:
        return self._harmonic().waves

    def _harmonic(self) -> HarmonicDecoder:
        if not isinstance(self.decoder, HarmonicDecoder):
            raise AttributeError(f"{type(self.decoder).__name__} has no harmonics")
        return self.decoder

    def decode(self, z: Tensor) -> Tensor:
        """Kernels g(z) at lifts z, (..., dim) -> (..., *kernel_size); integers count as real numbers.

        Raises:
            TypeError: no tensor of real numbers.
            ValueError: another number of coordinates.
        """
        z = real_tensor("z", z)
        if z.dim() < 1 or z.shape[-1] != self.decoder.space.cover_dim:
            expected = self.decoder.space.cover_dim
            raise ValueError(f"z: expected shape (..., {expected}), found {tuple(z.shape)}")
        return self.decoder(z).unflatten(-1, self.kernel_size)

    # --- the prior -------------------------------------------------------------------------------

    def scales(self, shape: Shape) -> Scales:
        """Prior stds of alpha, beta and every pixel of the residual, for a weight of ``shape``."""
        if not self.serves(shape):
            found = times(shape[2:]) if len(shape) > 2 else "a linear layer"
            raise ValueError(
                f"kernel_size: this prior decodes {times(self.kernel_size)} kernels, found {found}; priors that fit: "
                f"{', '.join(priors_serving(shape))}"
            )
        energy = self.gain**2 / max(1, shape[1])
        rest = 1 - self.mean_fraction - self.residual_fraction
        return Scales(
            math.sqrt(energy * rest),
            math.sqrt(energy * self.mean_fraction),
            math.sqrt(energy * self.residual_fraction / math.prod(self.kernel_size)),
        )

    def posterior(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> DecoderPosterior:
        return DecoderPosterior(
            self.decoder,
            self.scales(shape),
            shape,
            init_scale=self.init_scale,
            init_latent_scale=self.init_latent_scale,
            empirical_bayes=self.empirical_bayes,
            prior=self,
            device=device,
            dtype=dtype,
        )

    def coordinates(
        self, shape: Shape, *, device: Any = None, dtype: torch.dtype | None = None
    ) -> Coordinates:
        check_fixed_scales(self.empirical_bayes)
        scale = self.scales(shape)
        return DecodedCoordinates(self.decoder, scale, shape, prior=self, device=device, dtype=dtype)

    @on_cpu
    def kernel_covariance(self, shape: Shape) -> Tensor:
        """s_a^2 E g(z) g(z)^T + s_b^2 1 1^T / k + tau^2 I."""
        scale, moment = self.scales(shape), self.decoder.second_moment()
        pixels = len(moment)
        residual = scale.residual**2 * torch.eye(pixels).to(moment)
        return scale.alpha**2 * moment + scale.beta**2 / pixels + residual

    def sample(self, shape: Shape) -> Tensor:
        return self._drawn(shape).to(torch.empty(0))  # torch's default device and dtype

    @on_cpu
    def _drawn(self, shape: Shape) -> Tensor:
        scale = self.scales(shape)
        z = self.decoder.law.sample(
            (*shape[:2], self.dim), torch.empty(0, dtype=torch.float32, device="cpu")
        )
        alpha, beta = torch.randn(2, *shape[:2], *[1] * len(self.kernel_size))
        constant = scale.beta * beta / math.sqrt(math.prod(shape[2:]))
        residual = scale.residual * torch.randn(*shape)
        return scale.alpha * alpha * self.decode(z) + constant + residual

    def serves(self, shape: Shape) -> bool:
        return tuple(shape[2:]) == self.kernel_size

    @classmethod
    def from_decoder(
        cls,
        decode: Callable[[Tensor], Tensor],
        covering: FlatManifold,
        kernel_size: Sequence[int],
        *,
        num_harmonics: int = 32,
        tolerance: float = 1e-5,
        **options: Any,
    ) -> DecoderPrior:
        """Distill a smooth decoder into harmonics: project it on the lowest ones, keep those it uses.

        Args:
            decode: lifts (N, dim) -> kernels (N, *kernel_size), invariant under deck transformations.
            num_harmonics: the lowest ones to project on.
            tolerance: fraction of the energy that the dropped harmonics may hold together.

        Example:
            >>> import topoprior as tp
            >>> from topoprior.kernels.klein import klein_kernels
            >>> DecoderPrior.from_decoder(klein_kernels, tp.KleinBottle(), (3, 3)).harmonics.num_features
            5
        """
        fitted = HarmonicDecoder.fitted(
            decode, covering, kernel_size, num_harmonics=num_harmonics, tolerance=tolerance
        )
        return cls(fitted, **options)

    def simplified(self, kernels: Tensor, *, tolerance: float = 1e-3, **options: Any) -> DecoderPrior:
        """The same prior in the latent coordinates that need the fewest harmonics; faster in a layer.

        Args:
            kernels: those that it was trained on, (N, *kernel_size).
            tolerance: by how much the relative error on ``kernels`` may grow.
            options: of the new prior.
        """
        simple = self._harmonic().simplified(kernels, tolerance=tolerance)
        return DecoderPrior(simple, **{**self._options(), **options})

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.decoder.describe()}, gain={self.gain:.3g}, "
            f"mean_fraction={self.mean_fraction:.3g})"
        )


def _factory(name: str) -> Callable[[], WeightPrior]:
    return lambda: DecoderPrior.from_pretrained(name)


register_decoder(HarmonicDecoder, DecoderPrior)
for _name in pretrained_names():
    register_prior(_name, _factory(_name))
