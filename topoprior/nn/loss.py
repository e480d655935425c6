"""What is minimized: KL, ELBO, warm-up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from topoprior.nn.advice import warn_no_bayesian_layer
from topoprior.nn.base import BayesLayer
from topoprior.nn.sharded import gathered
from topoprior.nn.targets import check_classes
from topoprior.nn.verdict import at_prior, is_due, objections, warn
from topoprior.priors.base import WeightPosterior
from topoprior.utils.checks import check_int, check_module, check_number, check_positive
from topoprior.utils.tracing import values_known

_NOISE = 3.0  # standard errors of a batch's mean likelihood that a word on the loss allows for

# --- the KL ----------------------------------------------------------------------------------


def kl_divergence(model: nn.Module, *_: Any) -> Tensor:
    """Sum over the Bayesian layers of KL(posterior || prior): a scalar, in nats, without sampling.

    The loss of variational inference is the mean negative log likelihood plus this over the number of
    training examples: :func:`~topoprior.elbo_loss`. A layer, or a posterior, that occurs several times counts once.

    Raises:
        TypeError: ``model`` is no module: the KL of two distributions has other names, which the message gives.

    Warns:
        UserWarning: no Bayesian layer, so the KL is 0.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesLinear(4, 8), nn.ReLU(), tp.BayesLinear(8, 2))
        >>> bool(kl_divergence(net) > 0)
        True
    """
    if _ or isinstance(model, Distribution):
        raise TypeError(
            "model: expected one torch.nn.Module and nothing else; the KL of two distributions is "
            "torch.distributions.kl_divergence(q, p), its bound from the covers topoprior.cover_kl(q, p)"
        )
    return _kl(model, 2)


def _kl(model: nn.Module, stacklevel: int) -> Tensor:
    # All together, or by kind: in small networks the number of operations is what costs.
    groups: dict[tuple, list[WeightPosterior]] = {}
    for _, posteriors in _posteriors(model):
        for posterior in posteriors:
            key: tuple = (WeightPosterior,)
            if type(posterior).sum_kl.__func__ is not WeightPosterior.sum_kl.__func__:  # type: ignore[attr-defined]
                # A posterior of one's own may have no parameters.
                tensors = itertools.chain(posterior.parameters(), posterior.buffers())
                key = type(posterior), next((t.device for t in tensors), None)
            groups.setdefault(key, []).append(posterior)
    if not groups:
        warn_no_bayesian_layer(model, "the KL is 0", stacklevel + 1)
    with gathered(itertools.chain.from_iterable(groups.values())):
        return _sum([kind.sum_kl(group) for (kind, *_), group in groups.items()])


def kl_per_layer(model: nn.Module) -> dict[str, Tensor]:
    """KL(posterior || prior) of every Bayesian layer, by the layer's name in the model: scalars, in nats.

    Their sum is :func:`kl_divergence`: a posterior that several layers share counts for the first of them.

    Example:
        >>> import topoprior as tp
        >>> list(kl_per_layer(nn.Sequential(tp.BayesLinear(4, 8), nn.ReLU(), tp.BayesLinear(8, 2))))
        ['0', '2']
    """
    found = {}
    for name, posteriors in _posteriors(model):
        with gathered(posteriors):
            found[name] = _sum([p.kl() for p in posteriors])
    return found


def _sum(kls: list[Tensor]) -> Tensor:
    if not kls:
        return torch.zeros((), device="cpu")  # one number, which stands beside tensors of any device
    return torch.stack([kl.to(kls[0]) for kl in kls]).sum() if len(kls) > 1 else kls[0]


def _posteriors(model: nn.Module) -> Iterator[tuple[str, list[WeightPosterior]]]:
    """Names of the Bayesian layers with their posteriors, each posterior once."""
    check_module(model)
    seen: set[int] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, BayesLayer):
            new = [p for p in layer.posteriors() if id(p) not in seen]
            seen.update(map(id, new))
            yield name, new


def elbo_loss(
    logits: Tensor, target: Tensor, model: nn.Module, num_data: int, temperature: float = 1.0
) -> Tensor:
    r"""Negative evidence lower bound per training example, in nats:

    .. math:: \frac{1}{B} \sum_{b=1}^{B} -\log p(y_b \mid x_b, w) \; + \; \frac{T}{N} \mathrm{KL}(q \| p)

    The KL belongs to the whole training set, so each example carries 1/N of it, whatever the size B of
    the batch: N is the number of training *examples*, not of batches. Dividing by the number of batches, or
    not at all, next to a mean over the batch weighs the KL B or N times too much, and the posterior collapses
    to the prior. T = 1 is Bayes, below it the posterior is colder (Wenzel et al. 2020); warm-up multiplies
    T by :func:`kl_warmup`.

    Args:
        logits: (batch, classes), or (batch, classes, ...) for an output at every position, whose log
            likelihoods are summed: the positions of an example are all data.
        target: class indices (batch, ...), or probabilities of the shape of ``logits``. The index -100 leaves
            a position out.
        model: whose Bayesian layers are counted; the model that returned ``logits``, or all of several.
        num_data: N, training examples.
        temperature: T, at least 0.

    Returns:
        A scalar. Its gradient is unbiased for batches drawn uniformly.

    Raises:
        TypeError: ``num_data`` is no int, ``logits`` no floating-point numbers, ``target`` neither class indices of dtype int64
            nor probabilities, ``model`` no module.
        ValueError: shapes that do not fit, an empty batch, a single logit, classes that there are not, probabilities that are
            none, ``num_data`` below the size of the batch, a negative or infinite ``temperature``.

    Warns:
        UserWarning: no Bayesian layer in ``model``. At temperature 1, after 1,000 losses that saw the data ten times and whenever
            their number has doubled: KL / N above ln(classes), layers that have fallen back to their prior, as in
            :func:`topoprior.summary`; or, where neither is so, cross entropy + KL / N above ln(classes) by three standard errors
            of the batch.

    Example:
        >>> import topoprior as tp
        >>> net, x, y = tp.BayesLinear(4, 3), torch.randn(10, 4), torch.randint(3, (10,))
        >>> tp.elbo_loss(net(x), y, net, num_data=1000).backward()
    """
    check_classes(logits, target)
    num_data = check_int("num_data", num_data)
    temperature = check_number("temperature", temperature)
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number, at least 0, found {temperature}")
    if num_data < len(logits):
        raise ValueError(
            f"num_data: expected the number of training examples, at least the {len(logits)} of this batch, "
            f"found {num_data}; it is no number of batches"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a sum over a batch needs the digits
    if target.is_floating_point():
        target = target.to(logits.dtype)
    nll = F.cross_entropy(logits, target, reduction="sum") / len(logits)
    if temperature == 0:
        return nll
    kl = _kl(model, 2)
    if temperature == 1 and kl.requires_grad and values_known(logits, kl):
        steps = is_due(model, len(logits), num_data)
        if steps:
            _judge(logits, target, model, num_data, steps)
    return nll + temperature / num_data * kl.to(nll)


def _judge(logits: Tensor, target: Tensor, model: nn.Module, num_data: int, steps: int) -> None:
    """The word of :func:`topoprior.summary`, and one on the loss itself, for who calls :func:`elbo_loss`. Points have no KL."""
    kls, fallen = [0.0], []
    for name, posteriors in _posteriors(model):
        if posteriors and posteriors[0].kl_kind != "-log p":
            kls.append(_sum([p.kl() for p in posteriors]).item())
            if at_prior(kls[-1], math.prod(posteriors[0].shape)):
                fallen.append(name)
    cost, loss = math.fsum(kls) / num_data, None
    num_classes = logits.shape[1] if logits.dim() == 2 else None
    if num_classes and len(logits) > 1 and len(kls) > 1:
        nll = F.cross_entropy(logits.detach(), target, reduction="none")
        loss = (nll.mean() - _NOISE * nll.std() / math.sqrt(len(nll))).item() + cost
    said = objections(cost, fallen, num_classes, loss)
    warn(said, 3, f"after {steps:,} losses: ")


def kl_warmup(step: int, num_steps: int, *, start: float = 0.0, schedule: str = "linear") -> float:
    r"""Factor of the KL that rises from ``start`` at step 0 to 1 at ``num_steps``, and stays there.

    With t = min(1, step / num_steps) and a = start: a + (1 - a) t, or a + (1 - a) (1 - cos(pi t)) / 2.
    A network that has not learned anything yet cannot pay for its KL: warm-up keeps the posterior from
    falling back to the prior before it has (Bowman et al. 2016; Soenderby et al. 2016).

    Args:
        step: of the optimizer, counted from 0.
        num_steps: length of the warm-up.
        start: factor at step 0, in [0, 1].
        schedule: "linear" or "cosine".

    Raises:
        ValueError: a negative ``step``, ``num_steps`` below 1, ``start`` outside [0, 1], another schedule.

    Example:
        >>> [kl_warmup(step, 4) for step in (0, 1, 4, 100)]
        [0.0, 0.25, 1.0, 1.0]
    """
    for name, value in (("step", step), ("num_steps", num_steps), ("start", start)):
        check_positive(name, value, zero=True)
    if num_steps < 1:
        raise ValueError(f"num_steps: expected at least 1, found {num_steps}")
    if start > 1:
        raise ValueError(f"start: expected a number in [0, 1], found {start}")
    progress = min(1.0, step / num_steps)
    if schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    elif schedule != "linear":
        raise ValueError(f"schedule: expected 'linear' or 'cosine', found {schedule!r}")
    return start + (1 - start) * progress
