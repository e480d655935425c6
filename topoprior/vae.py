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

from topoprior.coverings import FlatManifold
from topoprior.distributions import UniformOn, WrappedNormal
from topoprior.divergences import cover_kl
from topoprior.harmonics import Harmonics


class Elbo(NamedTuple):
    """Terms of the evidence lower bound, nats, one per example: log p(x | z) and the KL bound."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def value(self) -> Tensor:
        return self.log_likelihood - self.kl


class CoveringVAE(nn.Module):
    r"""VAE with latents on a flat manifold, continuous by construction.

    - The encoder emits features and retracts them to a point, so it can represent every homotopy class
      of maps to the space (an encoder of means in R^n followed by the projection cannot).
    - The posterior is a :class:`~topoprior.WrappedNormal` around that point. Deck transformations that
      mix coordinates share their scale; with ``scale="full"`` an off-diagonal entry that changes sign
      with the sheet is read through harmonics that do so too.
    - The decoder reads deck-invariant harmonics of the sample: it has no seams.
    - The prior is uniform (normal on Euclidean space), and the ELBO uses the KL upstairs, an upper bound
      on the KL: it is a true lower bound of the evidence.

    Args:
        covering: a compact flat manifold, or Euclidean.
        data_shape: shape of one example.
        encoder_hidden, decoder_hidden: widths of the hidden layers; ``decoder_hidden=()`` makes a decoder
            linear in the harmonics.
        num_harmonics: how many harmonics the decoder reads, the constant left out.
        likelihood: "bernoulli" (data in [0, 1]) or "gaussian" (one learned std, ``init_noise`` at first).
        scale: "diagonal" or "full".
        init_scale: posterior std at the start, in periods; above .1 training can stall.

    Raises:
        ValueError: an unknown option, a space without a default prior, a data value out of range.

    Example:
        >>> import topoprior as tp
        >>> vae = CoveringVAE(tp.KleinBottle(), (3, 3), encoder_hidden=(32,), likelihood="gaussian")
        >>> x = torch.randn(5, 3, 3)
        >>> vae.elbo(x).value.shape, vae.decode(vae.encode(x).loc).shape
        (torch.Size([5]), torch.Size([5, 3, 3]))
    """

    def __init__(
        self,
        covering: FlatManifold,
        data_shape: Sequence[int],
        *,
        encoder_hidden: Sequence[int] = (256, 128),
        decoder_hidden: Sequence[int] = (128, 256),
        num_harmonics: int = 24,
        likelihood: str = "bernoulli",
        scale: str = "diagonal",
        init_scale: float = 0.03,
        init_noise: float = 0.05,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("likelihood", likelihood, ("bernoulli", "gaussian")),
            ("scale", scale, ("diagonal", "full")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {known}, found {value!r}")
        self.covering, self.data_shape = covering, torch.Size(data_shape)
        self.likelihood, self.scale = likelihood, scale
        if covering.rank not in (0, covering.dim):
            raise ValueError(f"covering: {covering!r} is neither compact nor Euclidean: no default prior")
        self.harmonics: Harmonics | None = None
        code_size = covering.num_features
        if covering.rank:
            self.harmonics = Harmonics(covering, num_harmonics + 1).select(slice(1, None))
            code_size = num_harmonics
        size = self.data_shape.numel()
        self._groups = _scale_groups(covering.linear)
        self._pairs = _off_diagonal(covering) if scale == "full" else []
        outputs = [covering.num_features, max(self._groups) + 1, sum(n for *_, n in self._pairs)]
        self._split = outputs
        self.encoder = mlp(size, encoder_hidden, sum(outputs))
        self.decoder = mlp(code_size, decoder_hidden, size)
        periods = covering.lattice.norm(dim=0).min().item() if covering.rank else 1.0
        self._init_log_scale = math.log(init_scale * periods)
        # A small noise at the start: with a large one the ELBO prefers to forget the latents.
        noise = torch.full((), math.log(init_noise))
        self.log_noise = nn.Parameter(noise) if likelihood == "gaussian" else None
        with torch.no_grad():  # posterior scales start at init_scale whatever the input
            last = self.encoder[-1]
            assert isinstance(last, nn.Linear)
            last.weight[covering.num_features :] *= 0.1
            last.bias[covering.num_features :] = 0.0

    # --- the parts ---------------------------------------------------------------------------

    @property
    def prior(self) -> Distribution:
        """Uniform, or standard normal on Euclidean space."""
        reference = next(self.parameters())
        if self.covering.rank:
            return UniformOn(self.covering, dtype=reference.dtype, device=reference.device)
        zeros = reference.new_zeros(self.covering.dim)
        return WrappedNormal(self.covering, zeros, zeros + 1)

    def encode(self, x: Tensor) -> WrappedNormal:
        """The posterior of the latents, batch shape (...) for x (..., *data_shape)."""
        features, log_scale, twists = self._encoder_outputs(x)
        loc = self.covering.retract(features)
        scale = (log_scale + self._init_log_scale).clamp(-12, 6).exp()[..., self._groups]
        if not self._pairs:
            return WrappedNormal(self.covering, loc, scale, validate_args=False)
        tril = torch.diag_embed(scale)
        parts = twists.split([n for *_, n in self._pairs], -1)
        for (i, j, twisted, _), eta in zip(self._pairs, parts, strict=True):
            value = eta.squeeze(-1) if twisted is None else (eta * twisted(loc)).sum(-1)
            unit = tril.new_zeros(tril.shape[-2:])
            unit[i, j] = 1
            tril = tril + (value * scale[..., i])[..., None, None] * unit
        return WrappedNormal(self.covering, loc, scale_tril=tril, validate_args=False)

    def encoder_features(self, x: Tensor) -> Tensor:
        """What the encoder emits before retraction, (..., num_features)."""
        return self._encoder_outputs(x)[0]

    def _encoder_outputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = len(self.data_shape)
        if x.shape[x.dim() - n :] != self.data_shape:
            raise ValueError(f"x: expected shape (..., {tuple(self.data_shape)}), found {tuple(x.shape)}")
        flat = x.reshape(*x.shape[: x.dim() - n], -1)
        features, log_scale, twists = self.encoder(flat).split(self._split, -1)
        return features, log_scale, twists

    def decode(self, z: Tensor) -> Tensor:
        """Logits ("bernoulli") or means ("gaussian") at lifts z, (..., dim) -> (..., *data_shape)."""
        code = self.harmonics(z) if self.harmonics is not None else self.covering.embed(z)
        return self.decoder(code).unflatten(-1, self.data_shape)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) in nats, summed over the data's dimensions."""
        output = self.decode(z)
        dims = tuple(range(-len(self.data_shape), 0))
        if self.log_noise is None:
            return -F.binary_cross_entropy_with_logits(output, x.expand_as(output), reduction="none").sum(
                dims
            )
        squared = ((x - output) * (-self.log_noise).exp()).square()
        return (-0.5 * squared - self.log_noise - 0.5 * math.log(2 * math.pi)).sum(dims)

    def elbo(self, x: Tensor, num_samples: int = 1) -> Elbo:
        """Evidence lower bound of every example, averaged over ``num_samples`` draws, in nats."""
        q = self.encode(x)
        z = q.rsample((num_samples,))
        return Elbo(self.log_likelihood(x, z).mean(0), cover_kl(q, self.prior))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction at the posterior's center."""
        return self.decode(self.encode(x).loc)

    def sample(self, num: int) -> Tensor:
        """Data decoded from the prior: probabilities ("bernoulli") or means ("gaussian")."""
        output = self.decode(self.prior.sample((num,)))
        return output.sigmoid() if self.likelihood == "bernoulli" else output


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with SiLU between them: smooth, so that decoded paths are."""
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def _scale_groups(linear: Tensor) -> list[int]:
    """Coordinates that the holonomy mixes share a scale: the label of every coordinate."""
    dim = linear.shape[-1]
    linked = (linear.abs() > 1e-9).any(0) | torch.eye(dim, dtype=torch.bool)
    for _ in range(dim):
        linked = (linked.double() @ linked.double()) > 0
    labels = [int(row.nonzero()[0]) for row in linked]
    return [sorted(set(labels)).index(label) for label in labels]


def _off_diagonal(covering: FlatManifold) -> list[tuple[int, int, Harmonics | None, int]]:
    """Entries (i, j) below the diagonal, the harmonics that carry their sign, their number of outputs."""
    if (covering.linear.abs() - torch.eye(covering.dim, dtype=torch.float64)).abs().max() > 1e-9:
        raise ValueError(
            f"scale: 'full' needs a holonomy of reflections along the axes, found {covering!r}"
        )
    signs = covering.linear.diagonal(dim1=-2, dim2=-1).round().int()
    found: list[tuple[int, int, Harmonics | None, int]] = []
    for i in range(covering.dim):
        for j in range(i):
            character = (signs[:, i] * signs[:, j]).tolist()
            twisted = None if min(character) > 0 else Harmonics(covering, 2, character=character)
            found.append((i, j, twisted, 1 if twisted is None else 2))
    return found
