"""`topoprior` command line: train a kernel prior, look at one, list those shipped."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# Kernels to simplify the trained decoder on: enough to cover a surface, and seconds of work.
_SIMPLIFY = 3000
SPACES = ("klein", "torus", "circle")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Errors of use are one line on stderr and status 2."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"topoprior: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("topoprior: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="topoprior", description="Topological weight priors.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    show_defaults = argparse.ArgumentDefaultsHelpFormatter

    train = commands.add_parser(
        "train-prior",
        help="train a kernel prior and save it as config.json + model.safetensors",
        description="Train a CoveringVAE on kernels; save its decoder as a prior that layers can load.",
        formatter_class=show_defaults,
    )
    train.add_argument("--output", type=Path, required=True, help="folder to write")
    train.add_argument(
        "--kernels",
        default="klein",
        help="'klein' (analytic), or a .npy file, shape (N, k, k) or (N, 1, k, k)",
    )
    train.add_argument("--size", type=int, default=3, help="pixels a side of the analytic kernels")
    train.add_argument("--num", type=int, default=10_000, help="how many analytic kernels")
    train.add_argument("--covering", choices=SPACES, default="klein", help="latent space")
    train.add_argument("--harmonics", type=int, default=24, help="harmonics that the decoder reads")
    train.add_argument("--epochs", type=int, default=60)
    train.add_argument("--batch-size", type=int, default=128)
    train.add_argument("--learning-rate", type=float, default=3e-3)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--no-progress", action="store_true", help="no progress bar")
    train.set_defaults(run=_train_prior)

    export = commands.add_parser("export", help="copy a shipped or saved prior to a folder")
    export.add_argument("prior", help="name of a shipped prior, or a folder")
    export.add_argument("--output", type=Path, required=True, help="folder to write")
    export.set_defaults(run=_export)

    inspect = commands.add_parser(
        "inspect", help="print what a prior is; homology with --homology", formatter_class=show_defaults
    )
    inspect.add_argument("prior", help="name of a shipped prior, or a folder")
    inspect.add_argument("--homology", action="store_true", help="Betti numbers of decoded kernels")
    inspect.add_argument("--points", type=int, default=300, help="points of the homology computation")
    inspect.add_argument("--seed", type=int, default=0)
    inspect.set_defaults(run=_inspect)
    return parser


def _train_prior(args: argparse.Namespace) -> None:
    from topoprior import checkpoints, coverings
    from topoprior.decoder_prior import DecoderPrior
    from topoprior.vae import CoveringVAE
    from topoprior.vae_training import fit, negative_elbo

    _check_writable(args.output)
    torch.manual_seed(args.seed)
    kernels = _load_kernels(args)
    space = {"klein": coverings.KleinBottle, "torus": coverings.Torus, "circle": coverings.Circle}[
        args.covering
    ]()
    held_out = max(1, len(kernels) // 10)
    data, test = kernels[held_out:], kernels[:held_out]
    vae = CoveringVAE(
        space,
        kernels.shape[1:],
        encoder_hidden=(128, 128),
        decoder_hidden=(),
        num_harmonics=args.harmonics,
        likelihood="gaussian",
    )
    history = fit(
        vae,
        data,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        progress=not args.no_progress,
    )
    with torch.no_grad():
        energy = test.square().sum()
        vae_error = ((vae(test) - test).square().sum() / energy).sqrt().item()
        prior = DecoderPrior.from_decoder(
            vae.decode, space, kernels.shape[1:], num_harmonics=args.harmonics + 1
        ).simplified(data[:_SIMPLIFY])
        # What is left of held-out kernels that the prior, with amplitudes of its own, comes nearest to.
        posterior = prior.posterior((len(test), 1, *test.shape[1:]), dtype=torch.float64)
        prior_error = posterior.project_(test[:, None].double()).item()
    record = {
        "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "run"},
        "torch": torch.__version__,
        "num_train": len(data),
        "num_test": len(test),
        "test_negative_elbo": negative_elbo(vae, test),
        "test_relative_error": vae_error,
        "test_relative_error_of_prior": prior_error,
        "warm_start_residual": history.residual,
    }
    prior.save_pretrained(args.output)
    checkpoints.write_atomically(
        args.output / "training.json", (json.dumps(record, indent=2) + "\n").encode()
    )
    print(f"{args.output}: {prior}")
    print(f"negative ELBO on held-out kernels: {record['test_negative_elbo']:.3f} nats")
    print(f"relative error on held-out kernels: VAE {vae_error:.3%}, prior's decoder {prior_error:.3%}")


def _load_kernels(args: argparse.Namespace) -> torch.Tensor:
    """Kernels scaled to a mean energy of 1, (N, k, k)."""
    if args.kernels == "klein":
        from topoprior.kernels import sample_klein_kernels

        return sample_klein_kernels(args.num, args.size)[0]
    import numpy as np

    path = Path(args.kernels)
    if not path.is_file():
        raise ValueError(f"--kernels: {path} is neither 'klein' nor a file")
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError:
        raise ValueError(f"--kernels: {path} is not a .npy file of numbers") from None
    kernels = torch.from_numpy(np.asarray(array, dtype=np.float32))
    if kernels.dim() == 4 and kernels.shape[1] == 1:
        kernels = kernels.squeeze(1)
    if kernels.dim() != 3 or kernels.shape[1] != kernels.shape[2]:
        raise ValueError(f"--kernels: expected shape (N, k, k) or (N, 1, k, k), found {tuple(array.shape)}")
    if len(kernels) < 100:
        raise ValueError(f"--kernels: expected at least 100 kernels, found {len(kernels)}")
    if not torch.isfinite(kernels).all():
        raise ValueError("--kernels: the file contains NaN or infinite values")
    kernels = kernels[torch.randperm(len(kernels))]
    return kernels / kernels.square().sum((1, 2)).mean().sqrt()


def _check_writable(folder: Path) -> None:
    """Refuse before the work, not after it."""
    existing = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(f"--output: cannot write to {existing}; choose another folder")


def _export(args: argparse.Namespace) -> None:
    from topoprior.decoder_prior import DecoderPrior

    _check_writable(args.output)
    DecoderPrior.from_pretrained(args.prior).save_pretrained(args.output)
    print(f"{args.output}: config.json, model.safetensors")


def _inspect(args: argparse.Namespace) -> None:
    from topoprior.decoder_prior import DecoderPrior

    prior = DecoderPrior.from_pretrained(args.prior)
    print(prior)
    torch.manual_seed(args.seed)
    if not args.homology:
        return
    from topoprior.homology import betti_numbers, persistence

    z = prior.covering.sample_uniform(torch.Size([4000]), torch.float32, torch.device("cpu"))
    for field in (2, 3):
        diagrams = persistence(prior.decode(z), field=field, num_points=args.points)
        print(f"Betti numbers over Z/{field}: {betti_numbers(diagrams)}")


if __name__ == "__main__":
    sys.exit(main())
