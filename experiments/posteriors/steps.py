"""How many steps to the best bound that Adam finds? Natural gradients beside Adam, and IVON where it can.

    python -m experiments.posteriors.steps --output results/steps

Three toy problems with mean-field posteriors. Every optimizer is trained for 100, 200, 400 and 800 steps, each with its rate falling to a
hundredth, Adam and IVON with three rates of which the best counts, natural gradients with the default rate alone. "The best bound" is
Adam's after 1,600 steps; it is reached within .02 nats an example. IVON (ivon-opt, GPL-3, optional) has normal priors alone.
Writes steps.json and steps.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoprior as tp
from experiments.common.document import markdown_table
from experiments.common.options import Parser, check_writable, say, seed_list, write_config
from experiments.common.progress import record
from experiments.common.store import versions, write_json
from topoprior.utils.files import write_atomically

LENGTHS = (100, 200, 400, 800)
LONG, CLOSE = 1600, 0.02
ADAM_RATES, IVON_RATES = (0.003, 0.01, 0.03), (0.03, 0.1, 0.3)
_DRAWS = 256  # that a bound is measured with


class Toy(NamedTuple):
    make: Callable[[], nn.Sequential]
    x: Tensor
    y: Tensor
    nll: Callable[[Tensor, Tensor], Tensor]  # an example


def _gaussian_nll(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().sum(-1) / (2 * 0.5**2) + math.log(0.5) + 0.5 * math.log(2 * math.pi)


def _class_nll(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output, y, reduction="none")


def regression() -> Toy:
    """Linear, 10 inputs, 50 examples: conjugate."""
    x = torch.randn(50, 10)
    return Toy(
        lambda: nn.Sequential(tp.BayesLinear(10, 1, prior=tp.Gaussian(1.0))), x,
        x @ torch.randn(10, 1) + 0.5 * torch.randn(50, 1), _gaussian_nll,
    )  # fmt: skip


def spirals() -> Toy:
    """Two arms in the plane, 200 examples, one hidden layer of 20."""
    t, y = torch.rand(200) * 4, torch.arange(200) % 2
    angle = t + math.pi * y
    x = torch.stack([angle.cos(), angle.sin()], 1) * (0.3 + t[:, None] / 2) + 0.05 * torch.randn(200, 2)

    def make() -> nn.Sequential:
        first, last = (tp.BayesLinear(i, o, prior=tp.Gaussian(1.0)) for i, o in ((2, 20), (20, 2)))
        return nn.Sequential(first, nn.Tanh(), last)

    return Toy(make, x, y, _class_nll)


def bars() -> Toy:
    """Waves of four directions in noise, 8x8 pixels, 200 examples; four kernels with the Klein prior."""
    y = torch.arange(200) % 4
    u, v = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    angle = y * math.pi / 4
    phase = 2 * math.pi * torch.rand(200)
    wave = (
        1.5 * (angle.cos()[:, None, None] * u + angle.sin()[:, None, None] * v) + phase[:, None, None]
    ).sin()
    x = (wave + 0.5 * torch.randn(200, 8, 8))[:, None]

    def make() -> nn.Sequential:
        conv = tp.BayesConv2d(1, 8, 3, prior="klein-3x3")
        return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), tp.BayesLinear(8, 4, prior=tp.Gaussian(1.0)))  # fmt: skip

    return Toy(make, x, y, _class_nll)


TOYS = {"regression": regression, "spirals": spirals, "bars": bars}


@torch.no_grad()
def bound(toy: Toy, net: nn.Module) -> float:
    """Negative ELBO an example, by the same draws for all."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = tp.sample_outputs(net, toy.x, _DRAWS, max_batch=_DRAWS * len(toy.x))
    nll = torch.stack([toy.nll(output, toy.y) for output in outputs]).mean()
    return (nll + tp.kl_divergence(net) / len(toy.x)).item()


def train(toy: Toy, steps: int, optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> float:
    net = toy.make()
    descent = optimizer(net)
    schedule = torch.optim.lr_scheduler.ExponentialLR(descent, 0.01 ** (1 / steps))
    for _ in range(steps):
        descent.zero_grad()
        (toy.nll(net(toy.x), toy.y).mean() + tp.kl_divergence(net) / len(toy.x)).backward()
        descent.step()
        schedule.step()
    return bound(toy, net)


def train_ivon(toy: Toy, steps: int, lr: float) -> float:
    """IVON on plain weights, each tensor with its prior's precision; the bound is that of our posterior with its mean and stds."""
    import ivon

    net = toy.make()
    plain = tp.to_deterministic(net)
    posteriors: list[Any] = [
        p for layer in net if isinstance(layer, tp.BayesLinear) for p in layer.posteriors()
    ]
    n = len(toy.x)
    weights = list(plain.parameters())
    groups = [
        {"params": [w], "weight_decay": p.prior_scale**-2 / n}
        for w, p in zip(weights, posteriors, strict=True)
    ]
    optimizer = ivon.IVON(groups, lr=lr, ess=n, hess_init=0.5, beta2=0.99)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / steps))
    for _ in range(steps):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            toy.nll(plain(toy.x), toy.y).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for group, w, p in zip(optimizer.param_groups, weights, posteriors, strict=True):
            p.loc.copy_(w)
            p.log_scale.copy_((n * (group["hess"].view_as(w) + group["weight_decay"])).log() / -2)
    return bound(toy, net)


def compare(name: str, seed: int) -> dict[str, Any]:
    """Bounds by optimizer and length, and the steps to the best."""
    torch.manual_seed(seed)
    toy = TOYS[name]()

    def best(steps: int, rates: Sequence[float], make: Callable[[int, float], float]) -> float:
        found = []
        for lr in rates:
            torch.manual_seed(seed + 1000)
            found.append(make(steps, lr))
        return min(found)

    optimizers: dict[str, tuple[Sequence[float], Callable[[int, float], float]]] = {
        "Adam": (ADAM_RATES, lambda steps, lr: train(toy, steps, lambda net: torch.optim.Adam(net.parameters(), lr))),
        "natural gradient": ((0.3,), lambda steps, lr: train(toy, steps, lambda net: tp.inference.NaturalGradient(net, len(toy.x), lr))),
    }  # fmt: skip
    if name != "bars":
        optimizers["IVON"] = (IVON_RATES, lambda steps, lr: train_ivon(toy, steps, lr))
    goal = best(LONG, *optimizers["Adam"])
    bounds: dict[str, dict[int, float]] = {}
    for optimizer, (rates, make) in optimizers.items():
        try:
            bounds[optimizer] = {steps: best(steps, rates, make) for steps in LENGTHS}
        except ImportError as error:
            say(f"{optimizer}: left out ({error})")
    reached = {
        optimizer: next((steps for steps, value in found.items() if value <= goal + CLOSE), None)
        for optimizer, found in bounds.items()
    }
    return {"toy": name, "seed": seed, "goal": goal, "bounds": bounds, "steps": reached}


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[list[object]] = [
        [
            "problem",
            "seed",
            "best bound of Adam",
            "optimizer",
            *(f"after {n}" for n in LENGTHS),
            "steps to it",
        ]
    ]
    found, text = [], ""
    try:
        check_writable(args.output)
        write_config(args)
        for seed in seed_list(args.seeds, args.seed):
            for name in TOYS:
                found.append(compare(name, seed))
                for optimizer, bounds in found[-1]["bounds"].items():
                    for steps, value in bounds.items():
                        record(f"{name}-{optimizer}-{seed}", {"negative ELBO": value}, steps)
                rows += _rows(found[-1])
                text = "\n".join(markdown_table(rows)) + "\n"
                write_json(args.output / "steps.json", {"runs": found, "versions": versions()})
                write_atomically(args.output / "steps.md", text.encode())
                say(f"{name}, seed {seed}: {found[-1]['steps']}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(text)
    return 0


def _rows(run: dict[str, Any]) -> list[list[object]]:
    return [
        [run["toy"], run["seed"], f"{run['goal']:.3f}", optimizer, *(f"{v:.3f}" for v in bounds.values()),
            run["steps"][optimizer] or "more"]
        for optimizer, bounds in run["bounds"].items()
    ]  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument("--seeds", default="2", help="a count from --seed on, or a list")
    parser.add_usual("results/steps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
