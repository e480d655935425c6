"""The loss of torch-uncertainty for networks with layers of topoprior: its routines then train them as its own.

pip install torch-uncertainty
"""

from __future__ import annotations

from torch import Tensor, nn

from topoprior.nn.loss import kl_divergence
from topoprior.nn.targets import check_several

try:
    from torch_uncertainty.layers.bayesian import bayesian_modules
    from torch_uncertainty.losses import ELBOLoss as _ELBOLoss
except ImportError as error:
    raise ImportError(
        "topoprior.nn.torch_uncertainty needs torch-uncertainty: pip install torch-uncertainty"
    ) from error


class ELBOLoss(_ELBOLoss):
    r"""``torch_uncertainty.losses.ELBOLoss`` that counts layers of topoprior, in closed form, beside its own.

    Its original knows its own layers alone and is NaN for a network without them. It also divides the KL by the number
    of layers; here it is the sum over layers, so that with the mean over a batch ``kl_weight`` is 1 / (training examples)
    and the loss that of :func:`topoprior.elbo_loss`. For predictions ``torch_uncertainty.methods.StochasticModel(net, num_samples)``
    and ``topoprior.predict`` both serve.

    Args:
        model: the network; None where a routine of torch-uncertainty sets it.
        inner_loss, kl_weight, num_samples, dist_family: those of the original.

    Example:
        >>> import torch, topoprior as tp
        >>> net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))
        >>> loss = ELBOLoss(net, nn.CrossEntropyLoss(), kl_weight=1 / 1000, num_samples=3)
        >>> loss(torch.randn(2, 1, 8, 8), torch.tensor([3, 7])).backward()
    """

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Raises ValueError: a cross entropy of one logit, which is 0 whatever the target is."""
        if not isinstance(self.inner_loss, nn.CrossEntropyLoss):
            return super().forward(inputs, targets)
        with self.inner_loss.register_forward_pre_hook(lambda _, given: check_several(given[0])):
            return super().forward(inputs, targets)

    def set_model(self, model: nn.Module | None) -> None:
        self.model = model
        self._kl_div = _Kl(model)


class _Kl(nn.Module):
    def __init__(self, model: nn.Module | None) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        assert self.model is not None, "the network comes with set_model"
        kl = kl_divergence(self.model)
        for module in self.model.modules():
            if isinstance(module, bayesian_modules):
                kl = kl + module.log_variational_posterior - module.log_prior
        return kl.reshape(1)
