"""Chains on the posterior of a small network on MNIST: accuracy, likelihood, convergence and cost, a prior each.

    python -m experiments.posteriors.chains --data MNIST/raw --prior klein-3x3 --output results/chains/klein-0

A network 16-32-64 with every layer Bayesian, n training images, all of them in every gradient. The same command goes
on where a run was stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import topoprior as tp
from experiments.common.options import Parser, check_writable, positive, whole, write_config
from experiments.common.store import write_json
from experiments.posteriors.setting import choose, network, read_folder
from topoprior.inference.potential import categorical, network_potential


def measure(samples: tp.inference.PosteriorSamples, x: Tensor, y: Tensor) -> dict[str, float]:
    """Of the mean prediction over all draws; r-hat on the first 200 images."""
    p = samples.predict(x)
    mean = p.mean(0)
    d = samples.diagnose(x[:200])
    halves = p.chunk(2)
    return {
        "accuracy": (mean.argmax(1) == y).double().mean().item(),
        "nll": F.nll_loss(mean.log(), y).item(),
        "nll_first_half": F.nll_loss(halves[0].mean(0).log(), y).item(),
        "r_hat_median": d.r_hat.median().item(),
        "r_hat_99": d.r_hat.flatten().quantile(0.99).item(),
        "r_hat_below_1.1": (d.r_hat <= 1.1).double().mean().item(),
        "ess_median": d.ess.median().item(),
        "temperature": d.temperature,
        "energy": samples.stats["energy"].mean().item(),
    }


def gradient_cost(
    prior: str, last_gain: float, x: Tensor, y: Tensor, repeats: int = 60
) -> dict[str, float]:
    """Milliseconds of a gradient of the potential, and of the same network with plain weights, in turns; medians."""
    net = network(prior, last_gain).requires_grad_(False)
    potential = network_potential(net, (x, y), categorical)
    q = potential.space.flatten({name: p.detach() for name, p in net.named_parameters()})
    plain = tp.to_deterministic(net).requires_grad_(True)

    def plain_gradient() -> None:
        loss = F.cross_entropy(plain(x), y, reduction="sum")
        torch.autograd.grad(
            loss + 0.5 * sum(p.square().sum() for p in plain.parameters()), list(plain.parameters())
        )

    times: dict[str, list[float]] = {"delta": [], "plain": []}
    for _ in range(repeats):
        for name, f in (("delta", lambda: potential(q)), ("plain", plain_gradient)):
            began = time.perf_counter()
            f()
            times[name].append(1000 * (time.perf_counter() - began))
    found = {name: float(np.median(t[5:])) for name, t in times.items()}
    return {
        "ms_delta": found["delta"],
        "ms_plain": found["plain"],
        "cost_ratio": found["delta"] / found["plain"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with MNIST's four files, or Fashion-MNIST's")
    add("--prior", default="klein-3x3", help="of the convolutions")
    add("--last-gain", type=positive, default=1.0, help="of the last layer's Gaussian prior")
    add("-n", type=whole, default=100, help="training images")
    add("--test", type=whole, default=2000, help="test images")
    add("--method", default="baoab", help="of topoprior.sample_posterior")
    add("--chains", type=whole, default=2, help="how many")
    add("--warmup", type=whole, default=2000, help="steps that are not kept")
    add("--samples", type=whole, default=100, help="that are kept of a chain")
    add("--thinning", type=whole, default=30, help="steps from one to the next that is kept")
    add("--only-cost", action="store_true", help="measure a gradient's cost alone")
    parser.add_usual("results/chains", log=False)
    options = parser.parse_args(argv)
    with parser.ending(options.output) as ending:
        check_writable(options.output)
        x, y, test_x, test_y = choose(read_folder(options.data), options.n, options.test, options.seed)
        write_config(options)
        torch.manual_seed(options.seed)
        result = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
        }
        del result["data"], result["output"]
        result |= gradient_cost(options.prior, options.last_gain, x, y)
        if not options.only_cost:
            samples = tp.sample_posterior(
                network(options.prior, options.last_gain), (x, y), method=options.method, num_chains=options.chains,
                num_samples=options.samples, warmup=options.warmup, thinning=options.thinning, seed=options.seed,
                folder=options.output,
            )  # fmt: skip
            result |= measure(samples, test_x, test_y)
            result |= {"step_size": float(np.mean(samples.step_sizes)), "seconds": sum(samples.seconds)}
        write_json(options.output / "result.json", result)
        print(json.dumps(result, indent=1))
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
