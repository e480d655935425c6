"""Why mean-field posteriors fall back to the prior: what of a sampled posterior is in its marginals, and what the data are worth.

    python -m experiments.posteriors.collapse --datasets mnist,embedded --data-dir data --output results/collapse

1. One long chain. Its draws are taken apart: layers, output channels or single coordinates shuffled among the draws, each by itself, which keeps
   every marginal of the chain and loses what they have in common. The mean negative log likelihood of training images says what is left.
2. What the chain's marginals cost: KL of normal laws with the means and stds of the chain's coordinates (latents left out).
3. The evidence -log p(data) by thermodynamic integration, chains at rising powers of the likelihood: a bound of -log p(data) is above it
   by KL(q || posterior), exactly.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoprior as tp
from experiments.common import data as datasets
from experiments.common.document import markdown_table
from experiments.common.options import Parser, names, positive, say, seed_list, write_config
from experiments.common.store import write_json
from experiments.posteriors import converge
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.methods import Problem
from experiments.posteriors.setting import split
from topoprior.inference.potential import categorical
from topoprior.priors.base import normal_kl
from topoprior.utils.files import write_atomically

POWERS = (0.0, 0.001, 0.004, 0.015, 0.05, 0.15, 0.4, 1.0)  # of the likelihood
_STEP: dict[str, Any] = {
    "method": "baoab", "energy_error": converge.CHAIN["energy_error"], "friction": converge.CHAIN["friction"], "progress": False
}  # fmt: skip
LEVELS = ("draws", "layers", "channels", "coordinates")


def shuffled(draws: dict[str, Tensor], level: str) -> dict[str, Tensor]:
    """Draws (S, *shape) by name, with parts of them exchanged: of "layers" all of a layer moves as one, of "channels" all that belongs
    to one output channel, of "coordinates" every number (of latents: every point)."""
    count = len(next(iter(draws.values())))
    orders: dict[str, Tensor] = {}
    found = {}
    for name, x in draws.items():
        layer = name.split(".")[0]
        if level == "draws":
            found[name] = x
        elif level == "layers":
            found[name] = x[orders.setdefault(layer, torch.randperm(count))]
        else:
            points = name.endswith(".z")
            rows = x.shape[1] if level == "channels" else x[0].numel() // (x.shape[-1] if points else 1)
            order = torch.rand(count, rows).argsort(0)
            if level == "channels":
                order = orders.setdefault(layer, order)
            flat = x.reshape(count, rows, -1)
            found[name] = flat.gather(0, order[..., None].expand_as(flat)).view_as(x)
    return found


@torch.no_grad()
def judge(net: nn.Module, draws: dict[str, Tensor], problem: Problem) -> dict[str, float]:
    """Mean NLL of training images over the draws; accuracy and NLL of the mean prediction for unseen images."""
    x, y = problem.data
    count = len(next(iter(draws.values())))
    train, p = 0.0, torch.zeros(len(problem.unseen), 10)
    for s in range(count):
        params = {name: d[s] for name, d in draws.items()}
        train += F.cross_entropy(torch.func.functional_call(net, params, (x,)), y).item() / count
        p += torch.func.functional_call(net, params, (problem.unseen,)).softmax(1) / count
    unseen = problem.images[3]
    return {
        "train_nll": train,
        "accuracy": (p.argmax(1) == unseen).double().mean().item(),
        "nll": F.nll_loss(p.log(), unseen).item(),
    }


def evidence(problem: Problem, budget: float) -> tuple[float, list[float]]:
    """-log p(data) an example, and the mean NLL an example at every power: the integral over powers, by the trapezoid rule in their cube root."""
    net: nn.Module = problem.network("delta")
    means = []
    for power in POWERS:

        def likelihood(output: Tensor, y: Tensor, power: float = power) -> Tensor:
            return power * categorical(output, y)

        samples = tp.sample_posterior(
            net, problem.data, log_likelihood=likelihood, start="current", num_chains=1, seed=problem.seed,
            warmup=round(300 * budget), num_samples=max(4, round(40 * budget)), thinning=10, **_STEP,
        )  # fmt: skip
        x, y = problem.data
        logits = samples.outputs(x)
        means.append(F.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits))).item())
        net = samples.network(-1)
    t = torch.tensor(POWERS, dtype=torch.float64) ** (1 / 3)
    integrand = 3 * t**2 * torch.tensor(means, dtype=torch.float64)  # d power = 3 t^2 dt
    return torch.trapezoid(integrand, t).item(), means


def examine(problem: Problem, budget: float) -> dict[str, Any]:
    torch.manual_seed(problem.seed)
    samples = tp.sample_posterior(
        problem.network("delta"), problem.data, num_chains=1, seed=problem.seed,
        warmup=round(1500 * budget), num_samples=max(4, round(64 * budget)), thinning=40, **_STEP,
    )  # fmt: skip
    draws = {name: x[0] for name, x in samples.parameters.items()}
    levels = {level: judge(samples.net, shuffled(draws, level), problem) for level in LEVELS}
    normal = torch.cat([x.flatten(1) for name, x in draws.items() if not name.endswith(".z")], 1)
    mean, std = normal.mean(0), normal.std(0)
    value, means = evidence(problem, budget)
    return {
        "levels": levels,
        "evidence": value,
        "powers": means,
        "coordinates": normal.shape[1],
        "mean_square": mean.square().mean().item(),
        "mean_variance": std.square().mean().item(),
        "marginal_kl": normal_kl(mean, std.log(), 1.0).item() / len(problem.data[0]),
    }


def rows(found: dict[str, Any]) -> list[list[object]]:
    levels: list[list[object]] = [
        [level, *(f"{value:.3f}" for value in found["levels"][level].values())] for level in LEVELS
    ]
    return [*levels, ["(draws of the prior)", f"{found['powers'][0]:.3f}", "", ""]]


def text(results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for r in results:
        lines += [
            f"## {r['dataset']}, {r['prior']}, seed {r['seed']}",
            "",
            *markdown_table([["exchanged among draws", "NLL of training images", "accuracy", "NLL of unseen images"], *rows(r)]),
            "",
            f"-log p(data) an image: {r['evidence']:.2f} nats. Over {r['coordinates']:,} normal coordinates of one chain: mean square of the mean "
            f"{r['mean_square']:.3f}, mean variance {r['mean_variance']:.3f}; normal marginals like these cost {r['marginal_kl']:.1f} nats an image.",
            "",
        ]  # fmt: skip
    return "# Why mean-field posteriors fall back to the prior\n\n" + "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--datasets", type=names, default="embedded", help=f"of {', '.join(datasets.NAMES)}, or folders")
    add(
        "--data-dir",
        type=Path,
        default=Path(".cache/data"),
        help="where torchvision's files are, or are put",
    )
    add(
        "--output",
        type=Path,
        default=Path("results/collapse"),
        help="folder for collapse.json and collapse.md",
    )
    add("--priors", type=names, default="klein-3x3,gaussian", help="of the convolutions")
    add("--seeds", default="1", help="a count, or a list")
    add("--budget", type=positive, default=1.0, help="every count of steps is multiplied by it")
    parser.add_progress(log=False)
    args = parser.parse_args(argv)
    with parser.ending(args.output) as ending:
        args.output.mkdir(parents=True, exist_ok=True)
        write_config(args)
        results = []
        for name, prior, seed in product(args.datasets, args.priors, seed_list(args.seeds, 0)):
            images = split(name, args.data_dir, size=14, n=100, test=1000, seed=seed)
            problem = Problem(images, PRIORS[prior].make(), 4.0, seed)
            results.append(
                {"dataset": Path(name).name, "prior": prior, "seed": seed, **examine(problem, args.budget)}
            )
            write_json(args.output / "collapse.json", {"runs": results})
            write_atomically(args.output / "collapse.md", text(results).encode())
            say(f"{name} {prior} seed {seed}: evidence {results[-1]['evidence']:.3f}")
    return ending.status


if __name__ == "__main__":
    sys.exit(main())
