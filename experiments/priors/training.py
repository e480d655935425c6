"""Train one network by variational inference, the same way for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topoprior as tp
from experiments.common import metrics
from experiments.common.progress import Write
from experiments.priors import networks
from experiments.priors.hardware import Hardware
from experiments.priors.methods import Method
from experiments.priors.optimizer import make_optimizer

_LOGGED = 10  # steps from one logged loss to the next
_NEXT_MEMBER = 100_003  # between the seeds of an ensemble's members


@dataclass(frozen=True)
class Budget:
    """What all methods share."""

    steps: int = 300
    batch_size: int = 100
    temperature: float = 1.0
    samples: int = 32
    warmup: float = 0.0
    """Part of the steps in which the KL's factor rises from 0 to the temperature."""
    network: str = "compare"
    """One of `networks.NETWORKS`."""

    def warmup_factor(self, step: int) -> float:
        rising = round(self.warmup * self.steps)
        return tp.kl_warmup(step, rising) if rising else 1.0


@dataclass(frozen=True, eq=False)
class Watch:
    """Images that are predicted while training goes on, for a learning curve; it changes nothing of the training.

    points: how many times, at steps that grow by a factor, the last one at the end. samples: of the posterior.
    """

    images: Tensor
    labels: Tensor
    points: int
    samples: int = 4

    def steps(self, total: int) -> set[int]:
        """The numbers of steps after which to look."""
        if self.points == 1:
            return {total}
        return {round(total ** (i / (self.points - 1))) for i in range(self.points)}


@dataclass(frozen=True, eq=False)
class Trained:
    network: nn.Sequential | Ensemble
    seconds: float
    kl: float
    """KL(posterior || prior) at the end, in nats; 0 for a deterministic network."""
    parameters: int
    """Trained numbers. Those without a gradient do not count: BLiTZ registers each of its own twice."""
    curve: Sequence[dict[str, float]] = ()
    """Of the images watched: {"step", "cls/Acc", "cls/NLL", ...}; an ensemble's is that of its first member."""


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
    method: Method,
    images: Tensor,
    labels: Tensor,
    classes: int,
    budget: Budget,
    seed: int,
    hardware: Hardware | None = None,
    watch: Watch | None = None,
    log: Write | None = None,
) -> Trained:
    """Train a fresh network, or the members of an ensemble, on standardized images; ``log`` gets the parts of the loss.

    Batches depend on the seed alone, not on the method. The network comes back on the hardware's device.
    """
    hardware = hardware or Hardware(str(images.device))
    members = []
    for member in range(method.members):
        its_seed = seed + _NEXT_MEMBER * member
        torch.manual_seed(its_seed)
        network = networks.build(method, images.shape[1], classes, budget.network)
        network = network.to(hardware.device).train()
        with tp.faster_latents(network, method.settings.relative_rate):
            members.append(_fit(hardware, method, network, images, labels, budget, its_seed, watch, log))
    if len(members) == 1:
        return members[0]
    return Trained(
        Ensemble([m.network for m in members]),
        sum(m.seconds for m in members),
        sum(m.kl for m in members),
        sum(m.parameters for m in members),
        members[0].curve,
    )


def _fit(
    hardware: Hardware,
    method: Method,
    network: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    budget: Budget,
    seed: int,
    watch: Watch | None,
    log: Write | None,
) -> Trained:
    images, labels = images.to(hardware.device), labels.to(hardware.device)
    optimizer, scaler = make_optimizer(network, method.settings), hardware.scaler()
    # Momentum stays as it is: cycling Adam's betas gained nothing.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        budget.steps,
        pct_start=0.2,
        cycle_momentum=False,
    )
    torch.manual_seed(seed)
    looks = watch.steps(budget.steps) if watch else set()
    curve: list[dict[str, float]] = []
    start, watched = time.perf_counter(), 0.0
    for step, batch in enumerate(_batches(len(images), budget, seed)):
        batch = batch.to(hardware.device)
        with hardware.autocast():
            logits = network(images[batch])
        temperature = budget.temperature * budget.warmup_factor(step)
        kl = networks.kl(network)
        loss = elbo_loss(logits.float(), labels[batch], kl, len(images), temperature)
        if log and (step + 1) % _LOGGED == 0:
            log(
                step + 1,
                {"loss": loss.item(), "KL / image": float(torch.as_tensor(kl).detach()) / len(images)},
            )
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        if watch and step + 1 in looks:
            began = time.perf_counter()
            curve.append({"step": step + 1, **_look(method, network, watch)})
            watched += time.perf_counter() - began
    seconds = time.perf_counter() - start - watched
    with torch.no_grad():
        network(images[:1])
        final = float(networks.kl(network))
    trained = sum(p.numel() for p in network.parameters() if p.grad is not None)
    return Trained(network, seconds, final, trained, curve)


def _look(method: Method, network: nn.Module, watch: Watch) -> dict[str, float]:
    device = next(network.parameters()).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):  # the draws of training stay what they are
        predicted = predict(method, network, watch.images.to(device), watch.samples).cpu()
    return metrics.evaluate(predicted, watch.labels)


class Ensemble(nn.Module):
    """Networks whose probabilities are averaged: returns the logarithm of the mean, whose softmax is the mean."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        logs = torch.stack([member(images).log_softmax(1) for member in self.members])
        return logs.logsumexp(0) - math.log(len(self.members))


def predict(method: Method, network: nn.Module, images: Tensor, samples: int) -> Tensor:
    """Posterior predictive probabilities (N, classes): softmax for each draw of the weights, then their mean."""
    draws = max(1, samples // method.members) if method.bayesian else 1  # of each member: as many in all
    return tp.predict(network, images, draws, max_batch=250).mean(0)


def _batches(total: int, budget: Budget, seed: int) -> list[Tensor]:
    """Indices for every step: epochs in random order, no image left out of one."""
    generator = torch.Generator().manual_seed(seed)
    size = min(budget.batch_size, total)
    needed = budget.steps * size
    epochs = [torch.randperm(total, generator=generator) for _ in range(-(-needed // total))]
    return list(torch.cat(epochs)[:needed].split(size))
