"""Draws from the posterior of a network, or from any density on coverings, by chains in parallel."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from topoprior.inference.chains import Chain, Sampler, run_chain
from topoprior.inference.geometry import StateSpace
from topoprior.inference.hmc import HMC
from topoprior.inference.langevin import BAOAB
from topoprior.inference.potential import (
    LogLikelihood,
    NetworkPotential,
    Potential,
    categorical,
    parts_of,
    rest_of,
)
from topoprior.inference.samples import PosteriorSamples, Samples
from topoprior.priors.coordinates import Part
from topoprior.utils.checks import check_int, check_module, check_values, fingerprint
from topoprior.utils.extras import needed
from topoprior.utils.files import check_writable
from topoprior.utils.real_module import check_dtype

_COLD_OR_HOT = 0.1  # of a chain's kinetic temperature, beside five standard errors
_METHODS: dict[str, type] = {"hmc": HMC, "baoab": BAOAB}


class SamplingError(RuntimeError):
    """Every chain diverged."""


@dataclass(frozen=True)
class Plan:
    """How many chains of what length, by which sampler: what :func:`sample_posterior` and :func:`sample_density` take by name.

    Args:
        method: "hmc", exact, for small problems and as the reference; "baoab", Langevin dynamics with one gradient a
            step and a small bias, for speed.
        num_chains: chains.
        num_samples: draws that are kept, a chain.
        warmup: moves of a chain before the first draw, which tune its step and mass.
        thinning: moves from one draw to the next; a move is a trajectory (hmc) or a step (baoab).
        seed: chain c draws from the c-th child of this seed, in whatever process it runs.
        num_workers: processes (joblib); 1 runs the chains one after the other in this one.
        folder: where chains are saved while they run. The same call goes on from there, to the numbers of a run
            that was not interrupted, and a larger ``num_samples`` adds to them.
        progress: bars on stderr.
        options: of :class:`HMC` or :class:`BAOAB`.

    Raises:
        ValueError: counts below 1, an unknown ``method``, a ``folder`` that cannot be written.
        TypeError: a name that is neither here nor an option of the sampler.
    """

    method: str = "hmc"
    num_chains: int = 4
    num_samples: int = 500
    warmup: int = 500
    thinning: int = 1
    seed: int = 0
    num_workers: int = 1
    folder: Path | str | None = None
    progress: bool = True
    options: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(arguments: Mapping[str, Any]) -> Plan:
        """The plan of arguments by name; those that are no part of it are the sampler's."""
        own = {f.name for f in fields(Plan)} - {"options"}
        return Plan(
            **{name: value for name, value in arguments.items() if name in own},
            options={name: value for name, value in arguments.items() if name not in own},
        )

    def __post_init__(self) -> None:
        _check_choice("method", self.method, tuple(_METHODS))
        self.sampler()
        for name in ("num_chains", "num_samples", "thinning", "num_workers"):
            check_int(name, getattr(self, name))
        for name in ("warmup", "seed"):
            check_int(name, getattr(self, name), 0)
        if self.folder is not None:
            check_writable(Path(self.folder), "folder")

    def sampler(self) -> Sampler:
        return _METHODS[self.method](**self.options)

    def run(
        self, potential: Potential, start: Callable[[], Mapping[str, Tensor]], decides: Mapping[str, Any]
    ) -> list[Chain]:
        """The chains that did not diverge, each from a ``start`` of its own.

        Args:
            decides: what decides the numbers beside the plan, so that files of other runs are refused.
        """
        shared: dict[str, Any] = {
            "num_samples": self.num_samples,
            "warmup": self.warmup,
            "thinning": self.thinning,
            "progress": self.progress,
            "settings": {
                **decides,
                "method": self.method,
                "options": dict(self.options),
                "warmup": self.warmup,
                "thinning": self.thinning,
                "seed": self.seed,
            },
        }
        jobs: list[dict[str, Any]] = []
        for c, child in enumerate(np.random.SeedSequence(self.seed).spawn(self.num_chains)):
            number = int(child.generate_state(1, np.uint64)[0])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                q = potential.space.flatten(start())
            path = None if self.folder is None else Path(self.folder) / f"chain-{c}.safetensors"
            jobs.append({"start": q, "seed": number // 2, "path": path, "position": c, **shared})
        sampler = self.sampler()
        if self.num_workers == 1:
            return _survivors([run_chain(potential, sampler, **job) for job in jobs], potential.space)
        joblib = needed("joblib", "num_workers", "'topoprior[inference]'")
        workers = joblib.Parallel(n_jobs=min(self.num_workers, self.num_chains))
        run = joblib.delayed(run_chain)
        return _survivors(workers(run(potential, sampler, **job) for job in jobs), potential.space)


def sample_posterior(
    net: nn.Module,
    data: tuple[Tensor, Tensor],
    *,
    log_likelihood: LogLikelihood = categorical,
    start: str = "prior",
    **plan: Any,
) -> PosteriorSamples:
    r"""Draws of a network's weights given all of its data, by full-batch Markov chains on the cover.

    The chains move the whitened coordinates of delta posteriors (``posterior="delta"``): latents drift on the cover,
    where their law is constant and deck transformations are isometries, and are pushed down when they are stored.
    All of them move, whatever their ``requires_grad``; other parameters of the network stay as they are. The network is used in evaluation mode and is not changed.

    Args:
        net: with delta posteriors.
        data: inputs and targets; all of it is used for every gradient.
        log_likelihood: of (outputs, targets), summed or one number an example; minus the cross entropy by default.
        start: "prior": every chain at its own draw from the prior; "current": all at the network's parameters.
        plan: by name what :class:`topoprior.inference.Plan` has: ``method`` ("hmc", exact, the default; "baoab", fast with a small bias),
            ``num_chains``, ``num_samples``, ``warmup``, ``thinning``, ``seed``, ``num_workers``, ``folder`` (to go on from after a kill),
            ``progress``; and options of the sampler, :class:`HMC` or :class:`BAOAB`.

    Returns:
        :class:`PosteriorSamples`. Chains that diverged are left out, with a warning that names the parameter.

    Raises:
        TypeError: ``net`` is no module, data are no tensors, ``log_likelihood`` returns none.
        ValueError: no Bayesian layer, posteriors that are no points, counts below 1, data that are empty or not finite,
            a likelihood of more numbers than there are outputs (which torch has broadcast), an unknown ``method`` or ``start``, a ``folder`` of another run.
        SamplingError: all chains diverged.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesLinear(2, 8, posterior="delta"), nn.ReLU(), tp.BayesLinear(8, 2, posterior="delta"))
        >>> x, y = torch.randn(20, 2), torch.randint(2, (20,))
        >>> samples = sample_posterior(net, (x, y), num_chains=2, num_samples=10, warmup=20, progress=False)
        >>> samples.predict(x).shape
        torch.Size([20, 20, 2])
    """
    check_module(net)
    schedule = Plan.of(plan)
    parts = parts_of(net)
    x, y = _check_data(data)
    _check_choice("start", start, ("prior", "current"))
    net = copy.deepcopy(net).eval().requires_grad_(False)
    potential = NetworkPotential(net, (x, y), log_likelihood)
    own = {name: p.detach() for name, p in net.named_parameters() if name in parts}
    decides = {
        "data": [fingerprint(x), fingerprint(y)],
        "parameters": {name: list(part.shape) for name, part in parts.items()},
        "rest": {name: fingerprint(t) for name, t in rest_of(net).items()},
        "start": start if start == "prior" else fingerprint(potential.space.flatten(own)),
    }
    chains = schedule.run(
        potential, lambda: own if start == "current" else draw(parts, next(iter(own.values()))), decides
    )
    return PosteriorSamples.of(chains, potential.space, net)


def sample_density(
    log_density: Callable[[dict[str, Tensor]], Tensor],
    parts: Mapping[str, Part],
    *,
    dtype: torch.dtype = torch.float64,
    **plan: Any,
) -> Samples:
    """Draws from any density on a product of coverings and lines.

    Args:
        log_density: of tensors by name, a scalar in nats, up to a constant. Given lifts, it has to be the same for all
            lifts of a point. The laws of ``parts`` are where chains start and in which units they move; they are not part of the
            density.
        parts: shape and law of each tensor.
        dtype: of the state.
        plan: by name, as for :func:`sample_posterior`, whose errors are raised too.

    Example: a law on the Klein bottle.
        >>> import topoprior as tp
        >>> K = tp.KleinBottle()
        >>> parts = {"z": Part(torch.Size([2]), tp.priors.Uniform(K))}
        >>> samples = sample_density(lambda x: K.embed(x["z"])[0], parts, num_samples=20, warmup=50, progress=False)
        >>> samples.parameters["z"].shape
        torch.Size([4, 20, 2])
    """
    check_dtype("dtype", dtype)
    schedule = Plan.of(plan)
    potential = Potential(log_density, StateSpace(parts))
    decides = {"parameters": {name: list(part.shape) for name, part in parts.items()}}
    chains = schedule.run(potential, lambda: draw(parts, torch.empty(0, dtype=dtype)), decides)
    return Samples.of(chains, potential.space)


def draw(parts: Mapping[str, Part], like: Tensor) -> dict[str, Tensor]:
    """A draw from the laws."""
    return {name: part.law.sample(part.shape, like) for name, part in parts.items()}


def _survivors(chains: list[Chain], space: StateSpace) -> list[Chain]:
    """The chains without a failure; the others are warned of, and those that are not at kinetic temperature 1."""
    failures = [f"chain {c}: {chain.failure}" for c, chain in enumerate(chains) if chain.failure]
    if len(failures) == len(chains):
        raise SamplingError(
            f"all chains diverged ({'; '.join(failures)}); a smaller energy_error (baoab), a longer warmup or another "
            "start may help"
        )
    if failures:
        warnings.warn(f"chains left out that diverged: {'; '.join(failures)}", stacklevel=4)
    kept = [chain for chain in chains if not chain.failure]
    divergences = sum(int(chain.stats[:, 2].sum()) for chain in kept)
    if divergences:
        warnings.warn(
            f"{divergences} divergent trajectories: there the energy bends more than the step can follow, and "
            "draws may be missing; a larger target acceptance makes the step smaller",
            stacklevel=4,
        )
    for c, chain in enumerate(chains):
        temperature = chain.stats[:, 3].mean().item()
        noise = math.sqrt(2 / (space.degrees_of_freedom * max(len(chain.stats), 1)))
        if not chain.failure and abs(temperature - 1) > _COLD_OR_HOT + 5 * noise:
            warnings.warn(
                f"chain {c}: kinetic temperature {temperature:.3g}, expected 1: it had not settled (a longer warmup), "
                "or its step is too long (a smaller energy_error)",
                stacklevel=4,
            )
    return kept


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, found {value!r}")


def _check_data(data: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError("data: expected a pair of tensors, inputs and targets")
    x, y = data
    for name, tensor in (("inputs", x), ("targets", y)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"data: expected tensors, found {name} of type {type(tensor).__name__}")
        if not tensor.dim() or not len(tensor):
            raise ValueError(f"data: expected at least one example, found {name} {tuple(tensor.shape)}")
        if tensor.is_floating_point():
            check_values(f"data: {name}", tensor)
    if len(x) != len(y):
        raise ValueError(f"data: expected as many targets as inputs, found {len(y)} and {len(x)}")
    return x, y
