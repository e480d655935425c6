"""Train one network by variational inference, the same way for every method."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import topoprior as tp
from experiments import networks
from experiments.networks import Method, Settings


@dataclass(frozen=True)
class Budget:
    """What all methods share."""

    steps: int = 300
    batch_size: int = 100
    temperature: float = 1.0
    samples: int = 32


@dataclass(frozen=True, eq=False)
class Trained:
    network: nn.Sequential
    seconds: float
    kl: float
    """KL(posterior || prior) at the end, in nats; 0 for a deterministic network."""
    parameters: int
    """Trained numbers. Those without a gradient do not count: BLiTZ registers each of its own twice."""


def elbo_loss(logits: Tensor, labels: Tensor, kl: Tensor, num_train: int, temperature: float) -> Tensor:
    """Negative evidence lower bound per training example: mean NLL + temperature KL / num_train.

    The KL belongs to the whole training set, so each example carries 1 / num_train of it, whatever the
    size of the batch. Temperature 1 is Bayes; below 1 the posterior is colder.
    """
    return F.cross_entropy(logits, labels) + temperature * kl / num_train


def standardize(train: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the training images' mean and divide by their standard deviation, for each channel."""
    std, mean = torch.std_mean(train, (0, 2, 3), keepdim=True)
    std = std.clamp_min(1e-3)
    return (train - mean) / std, (other - mean) / std


def train(
    method: Method, images: Tensor, labels: Tensor, classes: int, budget: Budget, seed: int
) -> Trained:
    """Train a fresh network on standardized images; batches depend on the seed alone, not on the method."""
    torch.manual_seed(seed)
    network = networks.build(method, images.shape[1], classes).to(images.device).train()
    rate = method.settings.learning_rate
    optimizer = torch.optim.AdamW(_parameter_groups(network, method.settings), lr=rate)
    # Momentum stays as it is: cycling Adam's betas gained nothing.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, budget.steps, pct_start=0.2, cycle_momentum=False
    )
    batches = _batches(len(images), budget, seed)
    start = time.perf_counter()
    with tqdm(batches, method.name, position=1, leave=False, disable=None, unit="step") as progress:
        for step, batch in enumerate(progress):
            batch = batch.to(images.device)
            logits = network(images[batch])
            loss = elbo_loss(logits, labels[batch], networks.kl(network), len(images), budget.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 20 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}")
    seconds = time.perf_counter() - start
    with torch.no_grad():
        network(images[:1])
        final = float(networks.kl(network))
    trained = sum(p.numel() for p in network.parameters() if p.grad is not None)
    return Trained(network, seconds, final, trained)


def predict(method: Method, network: nn.Module, images: Tensor, samples: int) -> Tensor:
    """Posterior predictive probabilities (N, classes): softmax for each draw of the weights, then their mean."""
    return tp.predict(network, images, samples if method.bayesian else 1, max_batch=250).mean(0)


def _parameter_groups(network: nn.Sequential, settings: Settings) -> list[dict[str, object]]:
    """Weight decay for deterministic layers only: a posterior is drawn to its prior by the KL."""
    plain = [p for m in network if isinstance(m, nn.Conv2d | nn.Linear) for p in m.parameters()]
    ours = {id(p) for p in plain}
    bayesian = [p for p in network.parameters() if id(p) not in ours]
    groups: list[dict[str, object]] = [{"params": plain, "weight_decay": settings.weight_decay}]
    return [*groups, {"params": bayesian, "weight_decay": 0.0}] if bayesian else groups


def _batches(total: int, budget: Budget, seed: int) -> list[Tensor]:
    """Indices for every step: epochs in random order, no image left out of one."""
    generator = torch.Generator().manual_seed(seed)
    size = min(budget.batch_size, total)
    needed = budget.steps * size
    epochs = [torch.randperm(total, generator=generator) for _ in range(-(-needed // total))]
    return list(torch.cat(epochs)[:needed].split(size))
