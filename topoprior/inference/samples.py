"""Draws of several chains: predictions with them, diagnostics, files."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.inference.chains import STATS, Chain
from topoprior.inference.diagnostics import Diagnostics, diagnose
from topoprior.inference.functional import call_with
from topoprior.inference.geometry import StateSpace
from topoprior.inference.potential import parts_of, rest_of
from topoprior.nn.batches import inputs_of, is_loader, split
from topoprior.nn.inference import as_probabilities
from topoprior.utils.checks import check_int
from topoprior.utils.files import CheckpointError, pack, read_file, unpack, write_atomically

FORMAT = "topoprior.samples/1"
_MOST = 1 << 34  # bytes of a file


@dataclass
class Samples:
    """Draws by name, and what the sampler says of them.

    Attributes:
        parameters: (chains, draws, *shape) by name; lifts are in the fundamental domain.
        stats: (chains, draws) by name: "energy" of the draw; since the draw before it the mean "acceptance",
            the number of "divergences" and the mean kinetic "temperature", which is 1 for an exact sampler.
        step_sizes: of the chains.
        seconds: that each chain took.
    """

    parameters: dict[str, Tensor]
    stats: dict[str, Tensor]
    step_sizes: list[float]
    seconds: list[float]

    @staticmethod
    def of(chains: Sequence[Chain], space: StateSpace) -> Samples:
        stats = torch.stack([chain.stats for chain in chains])
        return Samples(
            {
                name: x.clone()
                for name, x in space.unflatten(torch.stack([c.draws for c in chains])).items()
            },
            dict(zip(STATS, stats.unbind(-1), strict=True)),
            [chain.step_size for chain in chains],
            [chain.seconds for chain in chains],
        )

    @property
    def num_chains(self) -> int:
        return len(self.step_sizes)

    @property
    def num_samples(self) -> int:
        """Draws a chain."""
        return self.stats["energy"].shape[1]

    def save(self, path: Path | str) -> None:
        """Write all to one safetensors file, atomically."""
        tensors = {f"{kind}.{name}": x for kind, of in self._tensors().items() for name, x in of.items()}
        config = {"format": FORMAT, "step_sizes": self.step_sizes, "seconds": self.seconds}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pack(config, tensors))

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What is saved, by kind and name."""
        return {"parameters": self.parameters, "stats": self.stats}

    @staticmethod
    def load(path: Path | str) -> Samples:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: a file that is missing, damaged or of another kind.
        """
        return _read(path)[0]


@dataclass
class PosteriorSamples(Samples):
    """Draws of a network's parameters.

    Attributes:
        net: the network that they are of; its other parameters are in it.
    """

    net: nn.Module

    @staticmethod
    def of(chains: Sequence[Chain], space: StateSpace, net: nn.Module) -> PosteriorSamples:  # type: ignore[override]
        return PosteriorSamples(**vars(Samples.of(chains, space)), net=net)

    @torch.no_grad()
    def outputs(self, x: Tensor | Iterable[Any], *, max_batch: int = 1024) -> Tensor:
        """What the network returns with every draw, (chains * draws, batch, ...), chain after chain.

        Args:
            x: (batch, ...), or a loader of such batches, of which a tuple or list counts by its first element.
            max_batch: inputs in one pass.

        Raises:
            TypeError: ``x`` is neither, ``max_batch`` no int.
            ValueError: a scalar, an empty loader, ``max_batch`` below 1.
        """
        max_batch = check_int("max_batch", max_batch)
        device = next(iter(self.parameters.values())).device
        batches = [x] if not is_loader(x) else (inputs_of(batch, device) for batch in x)
        found = [self._outputs(part) for batch in batches for part in split(_inputs(batch), max_batch)]
        if not found:
            raise ValueError("x: expected a loader of batches, found none in it")
        return torch.cat(found, 1)

    def _outputs(self, x: Any) -> Tensor:
        flat = {name: p.flatten(0, 1) for name, p in self.parameters.items()}
        draws = range(self.num_chains * self.num_samples)
        return torch.stack(
            [call_with(self.net, {name: p[s] for name, p in flat.items()}, x) for s in draws]
        )

    def predict(self, x: Tensor | Iterable[Any], *, max_batch: int = 1024) -> Tensor:
        """Class probabilities under every draw, (chains * draws, batch, classes): their mean over the draws is the
        posterior predictive. For a network that returns logits. Arguments and errors of :meth:`outputs`."""
        return as_probabilities(self.outputs(x, max_batch=max_batch))

    def network(self, index: int) -> nn.Module:
        """A copy of the network with draw ``index``, counted chain after chain."""
        net = copy.deepcopy(self.net)
        with torch.no_grad():
            for name, p in self.parameters.items():
                net.get_parameter(name).copy_(p.flatten(0, 1)[index])
        return net.requires_grad_(True)

    def diagnose(self, x: Tensor | Iterable[Any]) -> Diagnostics:
        """R-hat and effective sample sizes of the predictions for ``x``: :func:`topoprior.inference.diagnose`."""
        probabilities = self.predict(x)
        return diagnose(probabilities.unflatten(0, (self.num_chains, self.num_samples)), self.stats)

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        return {**super()._tensors(), "rest": rest_of(self.net)}

    @staticmethod
    def load(path: Path | str, net: nn.Module) -> PosteriorSamples:  # type: ignore[override]
        """Read what :meth:`save` wrote.

        Args:
            net: a network of the same architecture and priors. It is copied; the copy's other parameters are those of the file.

        Raises:
            CheckpointError: a file that is missing, damaged, of another kind, another architecture or another prior.
        """
        samples, rest = _read(path)
        _check_names(path, samples.parameters, net)
        net = copy.deepcopy(net).eval().requires_grad_(False)
        if rest:  # files from before have none
            _load_rest(path, net, rest)
        return PosteriorSamples(**vars(samples), net=net)


def _inputs(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a tensor (batch, ...), or a loader, found {type(x).__name__}")
    return x


def _read(path: Path | str) -> tuple[Samples, dict[str, Tensor]]:
    """Samples, and what else of a network is in their file."""
    config, tensors, _ = unpack(read_file(path, _MOST), path)
    if config is None or config.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, found that of another file")
    found: dict[str, dict[str, Tensor]] = {"parameters": {}, "stats": {}, "rest": {}}
    for key, x in tensors.items():
        kind, _, name = key.partition(".")
        found[kind][name] = x
    rest = found.pop("rest")
    return Samples(**found, step_sizes=config["step_sizes"], seconds=config["seconds"]), rest


def _load_rest(path: Path | str, net: nn.Module, rest: Mapping[str, Tensor]) -> None:
    """Into a network; its priors say whether they are those of the file."""
    names = rest_of(net).keys()
    if names != rest.keys():
        name = min(names ^ rest.keys())
        raise CheckpointError(f"{path}: {name} is not in {'the file' if name in names else 'the network'}")
    try:
        net.load_state_dict(rest, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _check_names(path: Path | str, parameters: Mapping[str, Tensor], net: nn.Module) -> None:
    expected = {name: part.shape for name, part in parts_of(net).items()}
    found = {name: x.shape[2:] for name, x in parameters.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            sizes = [None if s is None else tuple(s) for s in (expected.get(name), found.get(name))]
            raise CheckpointError(
                f"{path}: {name}: expected shape {sizes[0]}, that of the network, found {sizes[1]}"
            )
