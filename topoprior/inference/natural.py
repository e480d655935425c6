"""Natural-gradient variational inference: steps that do not depend on the units of coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from topoprior.nn.inference import bayes_layers
from topoprior.utils.checks import check_fraction, check_int, check_positive


class NaturalGradient(torch.optim.Optimizer):
    r"""Steps along the natural gradient of the ELBO for mean-field normal posteriors N(m, s^2), every prior's.

    With L the negative ELBO in nats and t = log s,

    .. math:: m \leftarrow m - \eta\, s^2\, \partial L / \partial m, \qquad
              s^{-2} \leftarrow s^{-2} e^x, \quad x = \rho\, \frac{\partial L / \partial t}{\max(1, r)}

    The second is a Newton-like running average of the precision, for dL/dt = s^2 (expected curvature) - 1; it stays
    positive whatever the noise, and is unbiased in log s. r is the root of the running mean square of dL/dt over the steps *before*:
    far from the optimum one draw's dL/dt is noise of the size of the distance, in stds, and without r that
    noise drives s down. For a normal prior the curvature contains the prior's precision; for uniform latents
    it is what kappa asks for: s^2 = 1 / (N h) while narrow, uniform where the data say little. Nothing
    changes when a coordinate is measured in other units, so latents and weights share one learning rate.

    No step of m is longer than s, and |x| is at most 1: far from the optimum gradients say more of the direction than of
    the distance.

    Args:
        net: with mean-field posteriors. Its parameters other than their ``loc`` and ``log_scale`` are left to an
            optimizer of your own.
        num_data: N, since :func:`~topoprior.elbo_loss` is an average over examples.
        lr: eta, 1 for Newton's step; lower it in the end, as for any stochastic optimizer.
        scale_lr: rho; by default ``lr``, also where a scheduler changes it.
        momentum: of the gradient in m, and of r.

    Raises:
        TypeError: ``net`` is no module.
        ValueError: no posterior with ``loc`` and ``log_scale``, numbers out of range.

    Source: Khan and Rue 2023 (the Bayesian learning rule); a positive update: Lin et al. 2020; with the running
    curvature of a sampled gradient: Shen et al. 2024 (IVON), of whose code nothing is used.

    Example:
        >>> import topoprior as tp
        >>> net, x, y = tp.BayesLinear(4, 3), torch.randn(10, 4), torch.randint(3, (10,))
        >>> optimizer = NaturalGradient(net, num_data=10)
        >>> loss = tp.elbo_loss(net(x), y, net, num_data=10)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        net: nn.Module,
        num_data: int,
        lr: float = 0.3,
        scale_lr: float | None = None,
        momentum: float = 0.9,
    ) -> None:
        lr = check_positive("lr", lr)
        ratio = 1.0 if scale_lr is None else check_positive("scale_lr", scale_lr) / lr
        groups = [{"params": list(pair)} for pair in _pairs(net)]
        if not groups:
            raise ValueError("net: found no posterior with parameters loc and log_scale to learn")
        defaults = {
            "lr": lr,
            "scale_ratio": ratio,
            "momentum": check_fraction("momentum", momentum),
            "num_data": check_int("num_data", num_data),
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            loc, log_scale = group["params"]
            if loc.grad is None or log_scale.grad is None:
                continue
            self._update(loc, log_scale, group)
        return loss

    def _update(self, loc: Tensor, log_scale: Tensor, group: dict[str, Any]) -> None:
        state, n, momentum = self.state[loc], group["num_data"], group["momentum"]
        if not state:
            state.update(step=0, average=torch.zeros_like(loc), square=torch.zeros_like(loc))
        in_scale = n * log_scale.grad
        # Of the steps before, so that it does not depend on this one: that would be a bias.
        seen = 1 - momentum ** state["step"]
        noise = (state["square"] / seen if seen else in_scale.square()).sqrt()
        state["square"].lerp_(in_scale.square(), 1 - momentum)
        state["step"] += 1
        average = state["average"].lerp_(loc.grad, 1 - momentum)
        gradient = average * (n / (1 - momentum ** state["step"]))
        scale = log_scale.exp()
        # In units of s: at most 1.
        loc.sub_(scale * (group["lr"] * scale * gradient).clamp(-1, 1))
        x = group["lr"] * group["scale_ratio"] * in_scale / noise.clamp(min=1)
        log_scale.sub_(0.5 * x.clamp(-1, 1))


def _pairs(net: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """loc and log_scale of every posterior that learns, each once."""
    seen: set[int] = set()
    for layer in bayes_layers(net):
        for posterior in layer.posteriors():
            for module in posterior.modules():  # a residual is a posterior within
                loc, log_scale = getattr(module, "loc", None), getattr(module, "log_scale", None)
                if not (isinstance(loc, nn.Parameter) and isinstance(log_scale, nn.Parameter)):
                    continue
                if id(loc) not in seen and loc.requires_grad:
                    seen.add(id(loc))
                    yield loc, log_scale
