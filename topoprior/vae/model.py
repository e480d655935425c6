"""Variational autoencoders whose latent space is the base of a covering."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from topoprior.spaces.covering import Covering
from topoprior.spaces.flat.harmonics import Harmonics
from topoprior.spaces.spherical.harmonics import SphericalHarmonics
from topoprior.topology.certificate import NEIGHBOURS, Certificate, certify
from topoprior.topology.features import low_harmonics
from topoprior.utils.checks import check_data, check_int, check_positive, check_values, real_tensor
from topoprior.utils.plain import on_cpu
from topoprior.utils.real_module import RealModule
from topoprior.vae.posteriors import make_posterior


class Elbo(NamedTuple):
    """Terms of the evidence lower bound, nats, one per example: log p(x | z) and the KL bound."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def value(self) -> Tensor:
        return self.log_likelihood - self.kl


class CoveringVAE(RealModule):
    r"""VAE with latents on a flat manifold or a spherical space form, continuous by construction.

    - The encoder emits features and retracts them to a point, so it can represent every homotopy class
      of maps to the space (an encoder of means in R^n followed by the projection cannot).
    - On flat manifolds the posterior is a :class:`~topoprior.WrappedNormal` around that point. Deck
      transformations that mix coordinates share their scale; with ``scale="full"`` an off-diagonal entry
      that changes sign with the sheet is read through harmonics that do so too. On spherical space forms
      it is a :class:`~topoprior.PowerSpherical` law pushed down.
    - The decoder reads deck-invariant harmonics of the sample: it has no seams.
    - The prior is uniform (normal along open directions), and the ELBO uses the KL upstairs, an upper bound
      on the KL: it is a true lower bound of the evidence.

    Args:
        covering: a flat manifold or a spherical space form.
        data_shape: shape of one example.
        encoder_hidden, decoder_hidden: widths of the hidden layers; ``decoder_hidden=()`` makes a decoder
            linear in the harmonics.
        num_harmonics: how many harmonics the decoder reads, the constant left out; on spherical space
            forms at least so many, whole degrees.
        likelihood: "bernoulli" (data in [0, 1]) or "gaussian" (one learned std, ``init_noise`` at first).
        scale: "diagonal" or "full" (compact flat manifolds, Euclidean space).
        init_scale: posterior std at the start, in periods; above .1 training can stall.
        prior_scale: std of the prior along open directions.

    Attributes:
        precision: compute the two networks in this dtype, by `torch.autocast`; None: in their own.

    Raises:
        ValueError: an unknown option, a number out of range, a space without a default prior.
        TypeError: any other space, widths or sizes that are no ints.

    Example:
        >>> import topoprior as tp
        >>> vae = CoveringVAE(tp.KleinBottle(), (3, 3), encoder_hidden=(32,), likelihood="gaussian")
        >>> x = torch.randn(5, 3, 3)
        >>> vae.elbo(x).value.shape, vae.decode(vae.latents(x)).shape
        (torch.Size([5]), torch.Size([5, 3, 3]))
    """

    def __init__(
        self,
        covering: Covering,
        data_shape: Sequence[int],
        *,
        encoder_hidden: Sequence[int] = (256, 128),
        decoder_hidden: Sequence[int] = (128, 256),
        num_harmonics: int = 24,
        likelihood: str = "bernoulli",
        scale: str = "diagonal",
        init_scale: float = 0.03,
        init_noise: float = 0.05,
        prior_scale: float = 1.0,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("likelihood", likelihood, ("bernoulli", "gaussian")),
            ("scale", scale, ("diagonal", "full")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, found {value!r}")
        for name, sizes in (
            ("data_shape", data_shape),
            ("encoder_hidden", encoder_hidden),
            ("decoder_hidden", decoder_hidden),
            ("num_harmonics", (num_harmonics,)),
        ):
            for size in sizes:
                check_int(name, size)
        for name, number in (
            ("init_scale", init_scale),
            ("init_noise", init_noise),
            ("prior_scale", prior_scale),
        ):
            check_positive(name, number)
        self.covering, self.data_shape = covering, torch.Size(data_shape)
        self.likelihood, self.scale, self.prior_scale = likelihood, scale, prior_scale
        self.precision: torch.dtype | None = None
        self.posterior = make_posterior(covering, scale, init_scale, prior_scale)
        self.harmonics: Harmonics | SphericalHarmonics | None = None
        code_size = covering.num_features
        if covering.open_dim < covering.dim:
            self.harmonics = low_harmonics(covering, num_harmonics)
            code_size = self.harmonics.num_features
        size = self.data_shape.numel()
        self.encoder = mlp(size, encoder_hidden, covering.num_features + self.posterior.outputs)
        self.decoder = mlp(code_size, decoder_hidden, size)
        # A small noise at the start: with a large one the ELBO prefers to forget the latents.
        noise = torch.full((), math.log(init_noise))
        self.log_noise = nn.Parameter(noise) if likelihood == "gaussian" else None
        with torch.no_grad():  # posterior scales start at init_scale whatever the input
            last = self.encoder[-1]
            assert isinstance(last, nn.Linear)
            last.weight[covering.num_features :] *= 0.1
            last.bias[covering.num_features :] = 0.0

    def extra_repr(self) -> str:
        return f"{self.covering!r}, {tuple(self.data_shape)}, likelihood={self.likelihood!r}"

    # --- the parts ---------------------------------------------------------------------------

    @property
    def prior(self) -> Distribution:
        """Uniform; normal along open directions."""
        return self.posterior.prior(next(self.parameters()))

    def encode(self, x: Tensor) -> Distribution:
        """The posterior of the latents, batch shape (...) for x (..., *data_shape)."""
        features, raw = self._encoder_outputs(x)
        return self.posterior(self.covering.retract(features), raw)

    def encoder_features(self, x: Tensor) -> Tensor:
        """What the encoder emits before retraction, (..., num_features)."""
        return self._encoder_outputs(x)[0]

    def latents(self, x: Tensor) -> Tensor:
        """The posterior's centers, lifts (..., cover_dim)."""
        return self.covering.retract(self.encoder_features(x))

    @torch.no_grad()
    @on_cpu
    def certify(
        self, x: Tensor, *, landmarks: int = 1500, neighbours: int = NEIGHBOURS, outliers: float = 0.0
    ) -> Certificate:
        """Whether the encoder is a continuous map of the data to the space that keeps all loops, as far as data show.

        Neighbours among ``landmarks`` of the data ``x`` (N, *data_shape), evenly spread over the rows, and their
        triangles are followed to the space: no truth is needed. See :func:`~topoprior.topology.certify`.

        Args:
            outliers: leave out this share of them, those that are farthest from their neighbours.

        Raises:
            TypeError, ValueError: data of another shape or dtype, fewer than neighbours, no share.

        Example:
            >>> import topoprior as tp
            >>> vae = tp.CoveringVAE(tp.Circle(), (2,), likelihood="gaussian")
            >>> found = vae.certify(tp.Circle().embed(torch.rand(100, 1)))  # of an encoder that is not trained
            >>> found.pieces, found.triangles > 0
            (1, True)
        """
        check_data("x", x, shape=self.data_shape)
        check_int("landmarks", landmarks)
        rows = torch.linspace(0, len(x) - 1, min(landmarks, len(x)), dtype=torch.float64).long()
        marks = x[rows.to(x.device)]
        latents = self.latents(marks.to(next(self.parameters()).device))
        found = certify(marks, latents, self.covering, neighbours=neighbours, outliers=outliers)
        return found._replace(defects=rows[found.defects])

    def _encoder_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(self.data_shape)
        x = real_tensor("x", x)
        if x.shape[x.dim() - n :] != self.data_shape:
            raise ValueError(f"x: expected shape (..., {tuple(self.data_shape)}), found {tuple(x.shape)}")
        flat = x.reshape(
            *x.shape[: x.dim() - n], self.data_shape.numel()
        )  # -1 is not known of an empty batch
        output = self._run(self.encoder, flat)
        return output[..., : self.covering.num_features], output[..., self.covering.num_features :]

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        if self.precision is None:
            return network(x)
        with torch.autocast(x.device.type, dtype=self.precision):
            return network(x).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Logits ("bernoulli") or means ("gaussian") at lifts z, (..., cover_dim) -> (..., *data_shape)."""
        z = real_tensor("z", z)
        code = self.harmonics(z) if self.harmonics is not None else self.covering.embed(z)
        return self._run(self.decoder, code).unflatten(-1, self.data_shape)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats, summed over the data's dimensions.

        Raises:
            ValueError: values of ``x`` that are not finite, or not in [0, 1] for the Bernoulli likelihood.
        """
        x = real_tensor("x", x)
        check_values("x", x, unit=self.log_noise is None)
        return self._log_likelihood(x, z)

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Without the check, which waits for the device: training has checked all data before."""
        output = self.decode(z)
        dims = tuple(range(-len(self.data_shape), 0))
        if self.log_noise is None:
            output, x = torch.broadcast_tensors(output, x)
            return -F.binary_cross_entropy_with_logits(output, x, reduction="none").sum(dims)
        squared = ((x - output) * (-self.log_noise).exp()).square()
        return (-0.5 * squared - self.log_noise - 0.5 * math.log(2 * math.pi)).sum(dims)

    def elbo(self, x: Tensor, num_samples: int = 1) -> Elbo:
        """Evidence lower bound of every example, averaged over ``num_samples`` draws, in nats.

        Raises:
            ValueError: ``num_samples`` below 1, or values of ``x`` that the likelihood does not have.
        """
        check_int("num_samples", num_samples)
        x = real_tensor("x", x)
        check_values("x", x, unit=self.log_noise is None)
        return self.elbo_and_draws(x, num_samples)[0]

    def elbo_and_draws(self, x: Tensor, num_samples: int = 1) -> tuple[Elbo, Tensor]:
        """:meth:`elbo`, and the latents that were drawn, (num_samples, ..., cover_dim); values are not checked."""
        q = self.encode(x)
        z = q.rsample((num_samples,))
        return Elbo(self._log_likelihood(x, z).mean(0), self.posterior.kl(q, z)), z

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction at the posterior's center."""
        return self.decode(self.latents(x))

    def sample(self, num: int) -> Tensor:
        """Data decoded from the prior: probabilities ("bernoulli") or means ("gaussian")."""
        output = self.decode(self.prior.sample((check_int("num", num, 0),)))
        return output.sigmoid() if self.likelihood == "bernoulli" else output


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with SiLU between them: smooth, so that decoded paths are."""
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
