"""The energy of a state, and its gradient: from any log density, or from a network and its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topoprior.inference.functional import call_with
from topoprior.inference.geometry import StateSpace
from topoprior.inference.weights import NetworkWeights
from topoprior.nn.contexts import bayes_layers
from topoprior.nn.targets import check_classes
from topoprior.priors.coordinates import Part, StandardNormal, Uniform
from topoprior.priors.delta import DeltaPosterior
from topoprior.utils.checks import check_int

Parameters: TypeAlias = Mapping[str, Tensor]
LogLikelihood: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Potential:
    """U(q) = -log p(q) and its gradient, tangent to the cover.

    Args:
        log_density: of named parts, a scalar in nats, up to a constant.
        space: of the state.
        precision: (size,), of a normal factor around 0 that is no part of ``log_density``: U has sum(precision q^2) / 2 besides.
    """

    def __init__(
        self,
        log_density: Callable[[dict[str, Tensor]], Tensor],
        space: StateSpace,
        precision: Tensor | None = None,
    ) -> None:
        self.log_density, self.space, self.precision = log_density, space, precision

    def log_density_at(self, q: Tensor) -> Tensor:
        """Without the normal factor."""
        return self.log_density(self.space.unflatten(q))

    def __call__(self, q: Tensor) -> tuple[float, Tensor]:
        q = q.detach().requires_grad_()
        with torch.enable_grad():
            energy = -self.log_density_at(q)
            gradient = torch.zeros_like(q)
            if energy.requires_grad:
                (gradient,) = torch.autograd.grad(energy, q, materialize_grads=True)
        q = q.detach()
        if self.precision is not None:
            of_normal = self.precision.to(q) * q
            energy, gradient = energy.detach() + 0.5 * of_normal.dot(q), gradient + of_normal
        return energy.item(), self.space.tangent(q, gradient)


def categorical(output: Tensor, target: Tensor) -> Tensor:
    """log p(y | logits), summed over a batch: minus the cross entropy. Errors as of :func:`~topoprior.elbo_loss`."""
    check_classes(output, target)
    return _categorical(output, target)


def _categorical(output: Tensor, target: Tensor) -> Tensor:
    return -F.cross_entropy(output, target, reduction="sum")


def summed(log_likelihood: LogLikelihood, output: Any, target: Any) -> Tensor:
    """What a log likelihood says of a batch, a scalar.

    Raises:
        TypeError: it returns no tensor.
        ValueError: it returns more numbers than there are outputs and targets, as (N, 1) minus (N,) has.
    """
    found = log_likelihood(output, target)
    if not isinstance(found, Tensor):
        raise TypeError(f"log_likelihood: expected a tensor, found {type(found).__name__}")
    most = [x.numel() for x in (output, target) if isinstance(x, Tensor)]
    if len(most) == 2 and found.numel() > max(most):
        raise ValueError(
            f"log_likelihood: expected a sum or one number an example, found {tuple(found.shape)} of outputs "
            f"{tuple(output.shape)} and targets {tuple(target.shape)}, which torch has broadcast"
        )
    return found.sum()


def delta_posteriors(net: nn.Module) -> dict[str, DeltaPosterior]:
    """The delta posteriors of a network by name, each once.

    Raises:
        TypeError: ``net`` is no module.
        ValueError: no Bayesian layer, or one with a posterior of another family; the message names it.
    """
    layers = bayes_layers(net)
    if not layers:
        raise ValueError(
            'net: found no Bayesian layer; tp.to_bayesian(net, prior, posterior="delta") makes them'
        )
    mine = {id(posterior) for layer in layers for posterior in layer.posteriors()}
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, DeltaPosterior):
            found[name] = module
        elif id(module) in mine:
            raise ValueError(
                f'net: expected delta posteriors, made with posterior="delta"; {name} is a '
                f"{type(module).__name__}, whose parameters are not one point"
            )
    return found


def parts_of(net: nn.Module) -> dict[str, Part]:
    """Shape and law of every parameter that a delta posterior holds, by the parameter's name in the network."""
    return {
        f"{name}.{part}": law
        for name, posterior in delta_posteriors(net).items()
        for part, law in posterior.coordinates.parts.items()
    }


def rest_of(net: nn.Module) -> dict[str, Tensor]:
    """All else that the state of a network has, by name: other parameters, what is known of the priors. Each once, if
    a module has several names."""
    parts = parts_of(net)
    found = {id(p): (name, p) for name, p in net.named_parameters() if name in parts}
    for name, tensor in net.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor))
    return {name: tensor for name, tensor in found.values() if name not in parts}


def _own(posterior: DeltaPosterior, name: str, params: Parameters | None) -> dict[str, Tensor]:
    if params is None:
        return posterior.parts()
    for part in posterior.coordinates.parts:
        if f"{name}.{part}" not in params:
            raise ValueError(f"params: expected a tensor {name}.{part}, found none of this name")
    return {part: params[f"{name}.{part}"] for part in posterior.coordinates.parts}


def log_prior(net: nn.Module, params: Parameters | None = None) -> Tensor:
    r"""log p(x) of a network with delta posteriors, in nats: a scalar.

    The density of all whitened coordinates x: of plain numbers by length, of latents by volume of their space.
    Parameters that belong to no delta posterior have no prior and add nothing. Its gradient is that of minus
    :func:`~topoprior.kl_divergence`.

    Args:
        net: with delta posteriors.
        params: coordinates in place of the network's own, by parameter names; others may be among them.

    Raises:
        ValueError: no Bayesian layer, or one with a posterior of another family; coordinates that are not in ``params``.

    Example:
        >>> import topoprior as tp
        >>> net = tp.BayesLinear(4, 2, posterior="delta")
        >>> params = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        >>> round(log_prior(net, params).item(), 4)  # ten standard normal numbers at 0: -5 log(2 pi)
        -9.1894
    """
    terms = [
        posterior.coordinates.log_prob(_own(posterior, name, params))
        for name, posterior in delta_posteriors(net).items()
    ]
    return torch.stack([term.to(terms[0]) for term in terms]).sum()


def log_joint(
    net: nn.Module,
    batch: tuple[Tensor, Tensor],
    num_data: int | None = None,
    params: Parameters | None = None,
    *,
    log_likelihood: LogLikelihood = categorical,
) -> Tensor:
    r"""log p(x) + (N / B) sum_b log p(y_b | x_b, weights): a scalar in nats, unbiased for batches drawn uniformly.

    With ``params`` it is a function of a dict of tensors, for torch.func and for libraries of samplers.

    Args:
        net: with delta posteriors.
        batch: inputs and targets, B of each.
        num_data: N; by default the batch is all the data.
        params: by parameter names, in place of the network's own.
        log_likelihood: of (outputs, targets), summed over the batch or one number an example.

    Raises:
        TypeError: ``log_likelihood`` returns no tensor.
        ValueError: as of :func:`log_prior`; an empty batch, ``num_data`` below its size; targets that do not fit, as in
            :func:`~topoprior.elbo_loss`; a likelihood of more numbers than there are outputs, which were broadcast.

    Example:
        >>> import topoprior as tp
        >>> net, x, y = tp.BayesLinear(4, 2, posterior="delta"), torch.randn(8, 4), torch.randint(2, (8,))
        >>> params = {name: p.detach() for name, p in net.named_parameters()}
        >>> gradients = torch.func.grad(lambda params: log_joint(net, (x, y), 800, params))(params)
        >>> list(gradients) == list(params)
        True
    """
    x, y = batch
    if not len(x):
        raise ValueError(f"batch: expected at least one example, found inputs {tuple(x.shape)}")
    if log_likelihood is not categorical and len(x) != len(y):  # categorical says which targets fit
        raise ValueError(f"batch: expected as many targets as inputs, found {len(y)} and {len(x)}")
    count = len(x) if num_data is None else check_int("num_data", num_data, len(x))
    output = net(x) if params is None else call_with(net, params, x)
    likelihood = summed(log_likelihood, output, y)
    prior = log_prior(net, params)
    return prior + count / len(x) * likelihood.to(prior)


class NetworkPotential(Potential):
    """The energy of a network's coordinates given all of its data; constants of the prior are left out.

    The energy of normal coordinates is that of one vector.

    Raises:
        TypeError, ValueError: of :func:`delta_posteriors`.
    """

    def __init__(self, net: nn.Module, data: tuple[Any, Any], log_likelihood: LogLikelihood) -> None:
        space = StateSpace(parts_of(net))
        precision = torch.zeros(space.size)
        self.others = []  # parts of other laws
        for block in space.blocks:
            law = space.parts[block.name].law
            if isinstance(law, StandardNormal):
                precision[block.where] = 1
            elif not isinstance(law, Uniform):
                self.others.append((block, law))
        if log_likelihood is categorical:
            # The targets stay as they are: they are checked here, and not for every gradient.
            with torch.no_grad():
                check_classes(net(data[0]), data[1])
            log_likelihood = _categorical
        self.net, self.data, self.log_likelihood = net, data, log_likelihood
        self.weights = NetworkWeights(delta_posteriors(net), space)
        super().__init__(self._of_parts, space, precision)

    def _of_parts(self, x: dict[str, Tensor]) -> Tensor:
        return self.log_density_at(self.space.flatten(x))

    def log_density_at(self, q: Tensor) -> Tensor:
        x, y = self.data
        try:
            self.weights.hold(q)
            likelihood = summed(self.log_likelihood, self.net(x), y)
        finally:
            self.weights.release()
        for block, law in self.others:
            likelihood = likelihood - law.energy(q[block.where].view(block.shape))
        return likelihood
