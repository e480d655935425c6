"""Kernels to a VAE to a prior."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from topoprior.spaces.flat.manifold import FlatManifold

# Kernels to simplify the trained decoder on: enough to cover a surface, and seconds of work.
_SIMPLIFY = 3000


def _train(space: FlatManifold, data: Tensor, args: argparse.Namespace, restart: int) -> tuple[Any, Any]:
    """One VAE and its history; the best of several, or of the epochs, is the one on a tenth of the data held out."""
    from topoprior.vae.model import CoveringVAE
    from topoprior.vae.training import fit

    vae = CoveringVAE(
        space,
        data.shape[1:],
        encoder_hidden=(128, 128),
        decoder_hidden=() if space.rank else (32, 32),
        num_harmonics=args.harmonics,
        likelihood="gaussian",
    )
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    vae.to(device)
    validation = len(data) // 10 if args.restarts > 1 or args.patience is not None else 0
    history = fit(
        vae,
        data[validation:],
        validation=data[:validation] if validation else None,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        patience=args.patience,
        checkpoint=None if args.checkpoint is None else args.checkpoint / f"restart-{restart}.pt",
        progress=not args.no_progress,
    )
    return vae, history


def _to_prior(
    vae: Any, space: Any, data: Tensor, args: argparse.Namespace, options: dict[str, float]
) -> Any:
    from topoprior.priors.decoded.prior import DecoderPrior, EuclideanDecoderPrior

    if not space.rank:
        return EuclideanDecoderPrior.from_vae(vae, **options)
    prior = DecoderPrior.from_decoder(
        vae.decode, space, data.shape[1:], num_harmonics=args.harmonics + 1, **options
    )
    return prior.simplified(data[:_SIMPLIFY], tolerance=args.tolerance) if space.dim < 3 else prior
