"""Which latent space do kernels want? Spaces of dimension 2 on seven sets of kernels, held out.

    python -m experiments.latent_spaces.run --data DATA --output experiments/results/latent-spaces

DATA holds natural-patches-3x3-dct.mat, dwp-kernels-7x7.npy, dwp-kernels-5x5.npy and cifar10-jpeg.tar.xz. One VAE a space, set and
seed: the same networks, training and budget; only the space differs. The same command goes on where it was
stopped; runs on other kernels are done again. A core and less than 30 minutes. Writes runs.csv, report.md and forest.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import topoprior as tp
from experiments.common.options import Parser, check_known, names, whole, write_config
from experiments.common.progress import Write, bar, say, scalars
from experiments.common.store import Store, digest, tensor_bytes
from experiments.common.tables import write_csv
from experiments.latent_spaces.kernels import SETS, is_of, kernel_set, noted_accuracy, train_network
from experiments.latent_spaces.report import COLD_EPOCHS, COLD_NOISE, NOISE, report
from topoprior.kernels.klein import klein_energy, nearest_klein
from topoprior.topology.fit import Fit
from topoprior.vae.training import fit, negative_elbo

SPACES: dict[str, Callable[[], tp.Covering]] = {
    "Klein bottle": tp.KleinBottle,
    "torus": lambda: tp.Torus(2),
    "sphere": lambda: tp.Sphere(2),
    "projective plane": lambda: tp.RealProjectiveSpace(2),
    "plane": lambda: tp.Euclidean(2),
}


def train_one(
    space: str, kernels: torch.Tensor, seed: int, epochs: int, log: Write | None = None
) -> dict[str, float | None]:
    """A VAE on four fifths of the kernels, drawn by the seed; its scores on the others."""
    began = time.process_time()
    torch.manual_seed(seed)
    kernels = kernels[torch.randperm(len(kernels))]
    test, data = kernels[: len(kernels) // 5], kernels[len(kernels) // 5 :]
    cold = space == "plane"
    vae = tp.CoveringVAE(
        SPACES[space](),
        kernels.shape[1:],
        encoder_hidden=(64, 64),
        decoder_hidden=(64, 64),
        num_harmonics=24,
        likelihood="gaussian",
        init_noise=COLD_NOISE if cold else NOISE,
    )
    epochs *= COLD_EPOCHS if cold else 1
    history = fit(vae, data, epochs=epochs, batch_size=64, learning_rate=4e-3, progress=False, log=log)
    with torch.no_grad():
        error = ((vae(test) - test).norm() / test.norm()).item()
        kl = vae.elbo(test, 8).kl.mean().item()
    return {
        "negative_elbo": negative_elbo(vae, test, num_samples=16),
        "reconstruction": 100 * error,
        "kl": kl,
        "parameters": sum(p.numel() for p in vae.parameters()),
        "warm_start_mismatch": None if history.fit is None else Fit.of(history.fit).mismatch,
        "seconds": time.process_time() - began,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        args.output.mkdir(parents=True, exist_ok=True)
        write_config(args)
        table = run(args)
        write_csv(args.output / "runs.csv", table)
        print(report(table).write(args.output))
    return ending.status


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with the patches, kernels and images")
    add("--network", type=Path, help="weights to harvest; trained and written there if there are none; "
        "without it OUTPUT/network.safetensors")  # fmt: skip
    add("--sets", type=names, default=",".join(SETS), help="some of them")
    add("--seeds", type=whole, default=3, help="how many")
    add("--epochs", type=whole, default=40, help="of a training")
    add("--kernels", type=whole, default=3000, help="at most, of each set")
    parser.add_usual("results/latent-spaces")
    return parser


def run(args: argparse.Namespace) -> pd.DataFrame:
    """A row a run: set, space, seed, scores, and what the kernels of the set are."""
    check_known(args.sets, SETS, "--sets")
    if args.kernels < 100:
        raise ValueError(f"--kernels: expected at least 100, found {args.kernels}")
    network, store = args.network or args.output / "network.safetensors", Store(args.output / "runs")
    chosen = {}
    for name in args.sets:  # all data before any training
        accuracy = None
        if name == "cnn-3x3":
            mine = args.network is None  # another's is taken as it is
            there = network.exists() and not (mine and not is_of(network, args.data))
            accuracy = noted_accuracy(network) if there else train_network(args.data, network)
        chosen[name] = kernel_set(name, args.data, network, args.kernels), accuracy
    rows: list[dict[str, Any]] = []
    with bar(total=len(chosen) * args.seeds * len(SPACES), desc="runs") as progress:
        for name, (kernels, accuracy) in chosen.items():
            about = {
                "kernels": len(kernels),
                "klein_energy": klein_energy(kernels).mean().item(),
                "klein_distance": nearest_klein(kernels)[0].median().item(),
                "network accuracy": accuracy,
            }
            read = digest(tensor_bytes(kernels))
            for seed, space in product(range(args.seed, args.seed + args.seeds), SPACES):
                config = {"set": name, "space": space, "seed": seed, "epochs": args.epochs, "data": read}
                if store.get(config) is None:
                    with scalars(store.path(config).stem) as log:
                        measures = train_one(space, kernels, seed, args.epochs, log)
                    store.put(config, {"measures": measures})
                scores = (store.get(config) or {})["measures"]
                rows.append({**config, **about, **scores})
                score = f"{scores['negative_elbo']:.3f} nats, {scores['reconstruction']:.2f}%"
                say(f"{name}, {space}, seed {seed}: {score}")
                progress.update()
    return pd.DataFrame(rows)


if __name__ == "__main__":
    sys.exit(main())
