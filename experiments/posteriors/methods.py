"""The engines: each takes a problem and settings, and returns predictions with what it says of itself."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoprior as tp
from experiments.posteriors.setting import WIDTHS, Images, network, num_classes

_DRAWS = 64  # of the weights, for predictions with variational posteriors


@dataclass(frozen=True)
class Problem:
    """Images, the network's priors, and the seed of all that is random."""

    images: Images
    prior: str | tp.WeightPrior
    last_gain: float
    seed: int
    folder: Path | None = None  # where long chains are saved, to go on from after a kill
    widths: Sequence[int] = WIDTHS

    def network(self, posterior: str, last: str | None = None) -> nn.Sequential:
        _, channels, size, _ = self.images[0].shape
        shape = {
            "size": size,
            "channels": channels,
            "classes": num_classes(self.images),
            "widths": self.widths,
        }
        return network(self.prior, self.last_gain, posterior, last=last, **shape)

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """Images and labels to learn from; channels last, which the convolutions keep and are faster in."""
        return _channels_last(self.images[0]), self.images[1]

    @property
    def unseen(self) -> Tensor:
        return _channels_last(self.images[2])


@dataclass
class Found:
    """Class probabilities of the unseen images, (images, classes), and what the engine says of itself."""

    predictions: Tensor
    measures: dict[str, float]


Engine = Callable[..., Found]


def _channels_last(x: Tensor) -> Tensor:
    """One channel counts as both layouts; these strides say which."""
    _, channels, height, width = x.shape
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


@contextmanager
def timed(measures: dict[str, float]) -> Iterator[None]:
    """Adds seconds of the processor: others may use it too, so the clock on the wall says little."""
    began = time.process_time()
    yield
    measures["seconds"] = measures.get("seconds", 0.0) + time.process_time() - began


# --- points ----------------------------------------------------------------------------------


def descend(
    objective: Callable[[], Tensor], parameters: Iterable[nn.Parameter], steps: int, lr: float
) -> None:
    """Adam, its rate falling as a cosine to 0."""
    optimizer = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()
        schedule.step()


def fit(problem: Problem, net: nn.Module, steps: int, lr: float, temperature: float = 1.0) -> None:
    """Descends on the bound; of a point, on minus the log joint."""
    x, y = problem.data
    descend(lambda: tp.elbo_loss(net(x), y, net, len(x), temperature), net.parameters(), steps, lr)


def most_probable(problem: Problem, steps: int, lr: float) -> nn.Sequential:
    net = problem.network("delta")
    fit(problem, net, steps, lr)
    return net


def point(problem: Problem, *, members: int, steps: int, lr: float) -> Found:
    """Most probable points, each from its own start; their mean prediction."""
    measures: dict[str, float] = {}
    with timed(measures):
        nets = [most_probable(problem, steps, lr) for _ in range(members)]
    return Found(tp.predict(nets, problem.unseen, 1).mean(0), measures)


def laplace_last(problem: Problem, *, steps: int, lr: float, draws: int = _DRAWS) -> Found:
    """A normal law around the last layer of the most probable point, by laplace-torch: full curvature, the prior's precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from laplace import FullLLLaplace
    from torch.utils.data import DataLoader, TensorDataset

    measures: dict[str, float] = {}
    with timed(measures):
        net = most_probable(problem, steps, lr)
        stds = [float(p.coordinates.scales) for p in net[-1].posteriors()]  # type: ignore[operator]
        plain = tp.to_deterministic(net)
        layer = plain[-1]  # type: ignore[index]
        precision = torch.cat(
            [torch.full([p.numel()], s**-2) for p, s in zip(layer.parameters(), stds, strict=True)]
        )
        fit = FullLLLaplace(plain, "classification", prior_precision=precision)
        fit.fit(DataLoader(TensorDataset(*problem.data), batch_size=len(problem.data[0])))
    generator = torch.Generator().manual_seed(problem.seed)
    samples = fit.predictive_samples(problem.unseen, n_samples=draws, generator=generator)
    return Found(samples.mean(0).detach(), measures)


# --- variational -----------------------------------------------------------------------------


def variational(
    problem: Problem,
    *,
    steps: int,
    lr: float,
    temperature: float = 1.0,
    start: str = "prior",
    map_steps: int = 300,
    map_lr: float = 0.02,
    relative_scale: float = 0.2,
    only_last: bool = False,
) -> Found:
    """Mean-field posteriors by Adam.

    Args:
        start: "prior": narrow around a draw from it; "map": narrow around the most probable point.
        only_last: a mean-field posterior of the last layer, points elsewhere.
    """
    measures: dict[str, float] = {}
    with timed(measures):
        if start == "map":
            net: nn.Module = tp.to_bayesian(
                tp.to_deterministic(most_probable(problem, map_steps, map_lr)),
                problem.prior,
                init="pretrained",
                relative_scale=relative_scale,
                linear_prior=tp.Gaussian(gain=problem.last_gain),
            )
        else:
            net = problem.network("delta" if only_last else "mean-field", "mean-field")
        fit(problem, net, steps, lr, temperature)
    return _of_variational(problem, net, measures)


def natural(problem: Problem, *, steps: int, lr: float) -> Found:
    """Mean-field posteriors by natural gradients, their rate falling to a hundredth."""
    measures: dict[str, float] = {}
    x, y = problem.data
    with timed(measures):
        net = problem.network("mean-field")
        optimizer = tp.inference.NaturalGradient(net, len(x), lr)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / steps))
        for _ in range(steps):
            optimizer.zero_grad()
            tp.elbo_loss(net(x), y, net, len(x)).backward()
            optimizer.step()
            schedule.step()
    return _of_variational(problem, net, measures)


def _of_variational(problem: Problem, net: nn.Module, measures: dict[str, float]) -> Found:
    """Predictions of 64 draws; KL an image of what has one, and the bound by as many draws."""
    x, y = problem.data
    table = tp.summary(net)
    kl = math.fsum(row.kl for row in table.rows if row.kl is not None and row.kl_kind != "-log p")
    log_p = tp.predict(net, x, _DRAWS).clamp_min(1e-38).log()
    nll = F.nll_loss(log_p.flatten(0, 1), y.repeat(_DRAWS)).item()
    measures |= {"kl": kl / len(x), "negative_elbo": nll + kl / len(x)}
    measures["at_prior"] = sum(row.at_prior for row in table.rows if row.kl_kind != "-log p")
    return Found(tp.predict(net, problem.unseen, _DRAWS).mean(0), measures)


# --- chains ----------------------------------------------------------------------------------


def chains(problem: Problem, **settings: Any) -> Found:
    """Full-batch chains on the cover; r-hat and effective draws over the predictions of the first 50 unseen images."""
    measures: dict[str, float] = {}
    with timed(measures), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divergences in the warm-up: counted below
        samples = tp.sample_posterior(
            problem.network("delta"), problem.data,
            seed=problem.seed, progress=False, folder=problem.folder, **settings,
        )  # fmt: skip
    p = samples.predict(problem.unseen)
    chainwise = p.unflatten(0, (samples.num_chains, -1))
    measures |= _agreement(chainwise, samples.stats)
    measures |= {
        "chains": samples.num_chains,
        "temperature": samples.stats["temperature"].mean().item(),
        "divergences": samples.stats["divergences"].sum().item(),
        "step_size": sum(samples.step_sizes) / samples.num_chains,
    }
    return Found(p.mean(0), measures)


def _agreement(p: Tensor, stats: Any) -> dict[str, float]:
    """Of predictions (chains, draws, images, classes); and how far the two halves of the chains are apart."""
    found = tp.inference.diagnose(p[:, :, :50], stats)
    half = len(p) // 2
    apart = total_variation(p[:half].mean((0, 1)), p[half:].mean((0, 1))) if half else math.nan
    return {
        "r_hat": found.r_hat.flatten().quantile(0.99).item(),
        "ess": found.ess.median().item(),
        "halves_apart": apart,
    }


def sghmc(
    problem: Problem,
    *,
    num_chains: int,
    steps: int,
    warmup: int,
    every: int,
    batch: int,
    lr: float,
    alpha: float,
    map_steps: int = 300,
    map_lr: float = 0.02,
) -> Found:
    """Minibatches, by the library `posteriors`, each chain from a most probable point of its own: friction and noise, no accept
    step, the noise of the gradients left in."""
    import posteriors

    x, y = problem.data
    generator = torch.Generator().manual_seed(problem.seed)
    measures: dict[str, float] = {}
    draws: list[Sequence[nn.Module]] = []
    with timed(measures):
        for _ in range(num_chains):
            net = most_probable(problem, map_steps, map_lr)
            params = {name: p.detach().clone() for name, p in net.named_parameters()}

            def log_posterior(params: Any, rows: Tensor, net: nn.Module = net) -> tuple[Tensor, Tensor]:
                return tp.log_joint(net, (x[rows], y[rows]), len(x), params), torch.tensor(0.0)

            sampler = posteriors.sgmcmc.sghmc.build(log_posterior, lr=lr, alpha=alpha)
            state, kept = sampler.init(params), []
            for step in range(steps):
                rows = torch.randint(len(x), (batch,), generator=generator)
                state, _ = sampler.update(state, rows)
                if step >= warmup and (step - warmup) % every == 0:
                    kept.append(copy.deepcopy(net))
                    kept[-1].load_state_dict(dict(state.params), strict=False)
            draws.append(kept)
    p = torch.stack([tp.predict(kept, problem.unseen, 1) for kept in draws])
    none = torch.zeros(p.shape[:2])
    stats = {"acceptance": none + 1, "temperature": none + 1, "divergences": none}
    return Found(p.mean((0, 1)), {**measures, **_agreement(p, stats), "chains": num_chains})


def total_variation(p: Tensor, q: Tensor) -> float:
    """Mean over images of half the sum of |p - q| over classes: from 0 to 1."""
    return 0.5 * (p - q).abs().sum(-1).mean().item()
