"""The loss of variational inference, and the schedule that warms its KL up."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topoprior.checks import check_int, check_number
from topoprior.inference import kl_divergence


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
        TypeError: ``num_data`` is no int, ``target`` neither class indices of dtype int64 nor probabilities,
            ``model`` no module.
        ValueError: shapes that do not fit, an empty batch, ``num_data`` below 1, a negative or infinite
            ``temperature``.

    Example:
        >>> import topoprior as tp
        >>> net, x, y = tp.BayesLinear(4, 3), torch.randn(10, 4), torch.randint(3, (10,))
        >>> tp.elbo_loss(net(x), y, net, num_data=1000).backward()
    """
    _check_target(logits, target)
    num_data = check_int("num_data", num_data)
    temperature = check_number("temperature", temperature)
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number, at least 0, found {temperature}")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()  # a sum over a batch needs the digits
    if target.is_floating_point():
        target = target.to(logits.dtype)
    nll = F.cross_entropy(logits, target, reduction="sum") / len(logits)
    return nll + temperature / num_data * kl_divergence(model).to(nll)


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
    if step < 0:
        raise ValueError(f"step: expected at least 0, found {step}")
    if num_steps < 1:
        raise ValueError(f"num_steps: expected at least 1, found {num_steps}")
    if not 0 <= start <= 1:
        raise ValueError(f"start: expected a number in [0, 1], found {start}")
    progress = min(1.0, step / num_steps)
    if schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    elif schedule != "linear":
        raise ValueError(f"schedule: expected 'linear' or 'cosine', found {schedule!r}")
    return start + (1 - start) * progress


def _check_target(logits: Tensor, target: Tensor) -> None:
    for name, given in (("logits", logits), ("target", target)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name}: expected a tensor, found {type(given).__name__}")
    if logits.dim() < 2 or len(logits) < 1:
        raise ValueError(f"logits: expected shape (batch, classes, ...), found {tuple(logits.shape)}")
    soft = target.is_floating_point()
    if not soft and target.dtype not in (torch.int64, torch.uint8):  # what F.cross_entropy takes
        raise TypeError(
            f"target: expected class indices (torch.int64) or probabilities, found {target.dtype}"
        )
    expected = logits.shape if soft else logits.shape[:1] + logits.shape[2:]
    if target.shape != expected:
        kind = "probabilities" if soft else "class indices"
        raise ValueError(f"target: expected {kind} {tuple(expected)}, found {tuple(target.shape)}")
