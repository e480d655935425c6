"""A network on Euclidean space as prior: what the topological ones are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from topoprior.priors.decoded.checkpoints import register_decoder
from topoprior.priors.decoded.network import FrozenMLP, NetworkDecoder
from topoprior.priors.decoded.prior import DecoderPrior


class EuclideanDecoderPrior(DecoderPrior):
    r"""A :class:`~topoprior.DecoderPrior` of a frozen network, with standard normal latents: the plane in place of a
    closed space.

    No continuous g on the plane is a homeomorphism onto the Klein bottle, so the VAE behind "euclidean-3x3" has to tear
    it somewhere (docs/concepts/priors.md has the errors): it is there to compare with.

    Args:
        decoder: the network g, latents (..., dim) -> kernels (..., k); scaled here to E|g(z)|^2 = 1.
        kernel_size: of the decoded kernels; their product is k.
        options: those of :class:`~topoprior.DecoderPrior`, ``init_latent_scale`` .01 by default.

    Raises:
        ValueError: shapes that do not fit, numbers out of range.

    Source: Atanov et al. 2019 (The deep weight prior), without its auxiliary inference network.

    Example:
        >>> prior = EuclideanDecoderPrior.from_pretrained("euclidean-3x3")
        >>> posterior = prior.posterior((16, 3, 3, 3))
        >>> posterior.rsample().shape, sum(p.numel() for p in posterior.parameters()) / (16 * 3)
        (torch.Size([16, 3, 3, 3]), 8.0)
    """

    decoder_type = NetworkDecoder
    decoder: NetworkDecoder

    def __init__(
        self,
        decoder: FrozenMLP,
        kernel_size: Sequence[int] | None = None,
        *,
        init_scale: float = 0.01,
        init_latent_scale: float = 0.01,
        **options: Any,
    ) -> None:
        if not isinstance(decoder, NetworkDecoder):
            decoder = NetworkDecoder(decoder, () if kernel_size is None else kernel_size)
        super().__init__(decoder, init_scale=init_scale, init_latent_scale=init_latent_scale, **options)

    @classmethod
    def from_vae(cls, vae: Any, **options: Any) -> EuclideanDecoderPrior:
        """The decoder of a :class:`~topoprior.CoveringVAE` on Euclidean space, as a prior.

        Args:
            vae: with ``likelihood="gaussian"``, trained on kernels.
            options: of the prior.
        """
        if vae.covering.rank:
            raise ValueError(f"vae: expected Euclidean latents, found {vae.covering!r}")
        linears = [(m.weight, m.bias) for m in vae.decoder if isinstance(m, nn.Linear)]
        return cls(FrozenMLP(linears), vae.data_shape, **options)


register_decoder(NetworkDecoder, EuclideanDecoderPrior)
