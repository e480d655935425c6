"""What brings one method of the quick comparison to a stated convergence: chains that agree, descents that gain little."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topoprior as tp
from experiments.common.metrics import evaluate
from experiments.posteriors.controls import PRIORS
from experiments.posteriors.methods import Problem
from experiments.posteriors.setting import Images, network, stack

SAMPLED, POINT, PLAIN, BLITZ = "sampled", "MAP", "nn.Conv2d", "BLiTZ, mean field"
#: A chain, and when chains agree: the 99 percent quantile of r-hat over the predictions for the first unseen images.
CHAIN: dict[str, Any] = {
    "warmup": 1500, "thinning": 40, "energy_error": 5e-4, "friction": 0.3, "first": 40, "more": 25, "r_hat": 1.1, "judges": 100
}  # fmt: skip
#: A chain of about half the step, 6,000 gradients: what the bias of the step is. The energy error is a variance, of the step's sixth power.
HALF_STEP: dict[str, Any] = {
    "warmup": 2000,
    "num_samples": 50,
    "thinning": 80,
    "energy_error": CHAIN["energy_error"] / 64,
}
#: Adam, and when it has converged: ``window`` steps lower the objective by less than ``gain`` nats an image.
DESCENT = {"lr": 0.01, "window": 250, "gain": 0.01, "draws": 64}


@dataclass(frozen=True)
class Cell:
    """One method on one split: what it learns from, all that decides its numbers, where its chains are kept."""

    images: Images
    settled: dict[str, Any]
    folder: Path

    def config(self) -> dict[str, Any]:
        return self.settled


def sampled(problem: Problem, net: nn.Module, folder: Path, chains: int, most: int) -> dict[str, Any]:
    """A first round of draws, then more of them until the chains agree, or ``most`` gradients a chain are spent."""
    unseen, thinning, warmup = problem.unseen, CHAIN["thinning"], min(CHAIN["warmup"], most // 3)
    count = min(CHAIN["first"], max(4, (most - warmup) // thinning))
    while True:
        gradients = warmup + count * thinning
        samples = tp.sample_posterior(
            net, problem.data, method="baoab", num_chains=chains, num_samples=count, seed=problem.seed, progress=False,
            folder=folder, warmup=warmup, thinning=thinning, energy_error=CHAIN["energy_error"], friction=CHAIN["friction"],
        )  # fmt: skip
        kept = len(samples.stats["energy"])
        few = samples.predict(unseen[: CHAIN["judges"]])
        agreement = tp.inference.diagnose(few.unflatten(0, (kept, -1)), samples.stats)
        r_hat = agreement.r_hat.flatten().quantile(0.99).item()
        found = {
            "r-hat": r_hat,
            "ESS": agreement.ess.median().item(),
            "gradients": gradients,
            "chains": kept,
        }
        if r_hat <= CHAIN["r_hat"] or gradients + CHAIN["more"] * thinning > most:
            break
        count += CHAIN["more"]
    found["converged"] = float(r_hat <= CHAIN["r_hat"] and kept == chains)
    return {"predictions": samples.predict(unseen).mean(0), **found}


def descend(
    objective: Callable[[], Tensor], parameters: Iterable[nn.Parameter], most: int
) -> dict[str, float]:
    """Adam until a window of steps gains little."""
    optimizer = torch.optim.Adam(parameters, DESCENT["lr"])
    window, steps, before = int(DESCENT["window"]), 0, float("inf")
    while steps < most:
        mean = 0.0
        for _ in range(window):
            optimizer.zero_grad()
            loss = objective()
            loss.backward()
            optimizer.step()
            mean += float(loss.detach()) / window
        steps += window
        if before - mean < DESCENT["gain"]:
            return {"gradients": steps, "converged": 1.0}
        before = mean
    return {"gradients": steps, "converged": 0.0}


def point(problem: Problem, net: nn.Module, most: int) -> dict[str, Any]:
    """The most probable point: minus the log joint in whitened coordinates, an image."""
    x, y = problem.data
    found = descend(lambda: tp.elbo_loss(net(x), y, net, len(x)), net.parameters(), most)
    return {"predictions": tp.predict(net, problem.unseen, 1).mean(0), **found}


def plain(problem: Problem, net: nn.Module, most: int) -> dict[str, Any]:
    """No prior: the cross entropy alone."""
    x, y = problem.data
    found = descend(lambda: F.cross_entropy(net(x), y), net.parameters(), most)
    with torch.no_grad():
        return {"predictions": net(problem.unseen).softmax(1), **found}


def blitz(problem: Problem, shape: Mapping[str, Any], most: int) -> dict[str, Any]:
    """BLiTZ's layers with its defaults: cross entropy + KL / images; the mean of ``DESCENT["draws"]`` passes."""
    from blitz.modules import BayesianConv2d, BayesianLinear
    from blitz.utils import variational_estimator

    x, y = problem.data
    layers = stack(lambda i, o: BayesianConv2d(i, o, (3, 3), padding=1), BayesianLinear, **shape)
    net = variational_estimator(nn.Sequential)(*layers)
    found = descend(
        lambda: F.cross_entropy(net(x), y) + net.nn_kl_divergence() / len(x), net.parameters(), most
    )
    with torch.no_grad():
        passes = [net(problem.unseen).softmax(1) for _ in range(int(DESCENT["draws"]))]
        kl = float(net.nn_kl_divergence()) / len(x)
    return {"predictions": torch.stack(passes).mean(0), "KL / image": kl, **found}


def run(cell: Cell) -> dict[str, Any]:
    """One method on one split; the chains that it came from are removed."""
    images, config, folder = cell.images, cell.settled, cell.folder
    torch.manual_seed(config["seed"])
    began = time.process_time()
    prior, _, what = config["method"].rpartition(", ")
    shape = {name: config[name] for name in ("size", "channels", "classes", "widths")}
    made = PRIORS[prior].make() if prior in PRIORS else "gaussian"
    problem = Problem(images, made, config["last_gain"], config["seed"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of it is in the measures
        if config["method"] == PLAIN:
            net = nn.Sequential(*stack(lambda i, o: nn.Conv2d(i, o, 3, padding=1), nn.Linear, **shape))
            found = plain(problem, net, config["most"])
        elif config["method"] == BLITZ:
            found = blitz(problem, shape, config["most"])
        else:
            net = network(made, config["last_gain"], "delta", **shape)
            if what == SAMPLED:
                found = sampled(problem, net, folder, config["chains"], config["most"])
            else:
                found = point(problem, net, config["most"])
    shutil.rmtree(folder, ignore_errors=True)
    predictions = found.pop("predictions").double()
    measures = {**evaluate(predictions, images[3]), **found, "core seconds": time.process_time() - began}
    return {"measures": measures}
