"""Our convolution for networks built with BLiTZ: its ``variational_estimator`` drives it as one of its own.

    pip install blitz-bayesian-pytorch

BLiTZ is under the GPL-3; nothing else in this package needs or imports it, and nothing of it is copied here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topoprior.nn.layers import BayesConv2d
from topoprior.priors.base import WeightPrior

try:
    from blitz.modules.base_bayesian_module import BayesianModule
except ImportError as error:
    raise ImportError(
        "topoprior.nn.blitz needs BLiTZ (GPL-3): pip install blitz-bayesian-pytorch; "
        "topoprior.BayesConv2d needs nothing"
    ) from error


class BlitzConv2d(BayesConv2d, BayesianModule):
    r"""`topoprior.BayesConv2d` as a module of BLiTZ, in place of its ``BayesianConv2d``.

    The decorated network's ``sample_elbo``, ``sample_elbo_detailed_loss``, ``nn_kl_divergence``, ``freeze_``,
    ``unfreeze_`` and ``mfvi_forward`` work as before, next to BLiTZ's own layers too. BLiTZ takes the
    difference of ``log_variational_posterior`` and ``log_prior`` for the KL of a layer. Here they are
    the closed-form KL(posterior || prior) and 0, computed when read: never noisy, never stale, before the
    first forward pass and in a frozen network either. As the KL is that of the whole training set,
    ``complexity_cost_weight`` is 1 / (training examples) beside a criterion that takes the batch's mean.

    ``MOPED_`` looks for BLiTZ's own posteriors and leaves this layer as it is. Functions of topoprior,
    such as ``tp.predict``, work on the layer as well.

    Args:
        in_channels, out_channels, kernel_size, groups, stride, padding, dilation, bias: those of BLiTZ's
            layer, **in its order**, groups before stride; sizes are ints or pairs.
        padding_mode, device, dtype: those of :class:`torch.nn.Conv2d`.
        prior: as in :class:`~topoprior.BayesConv2d`.
        freeze: use the posterior mean instead of draws.

    Raises:
        ValueError: unknown prior, or one that does not serve this kernel size.

    Example:
        >>> from blitz.utils import variational_estimator
        >>> @variational_estimator
        ... class Net(torch.nn.Sequential):
        ...     pass
        >>> net = Net(BlitzConv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(10))
        >>> x, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
        >>> loss = net.sample_elbo(x, y, torch.nn.CrossEntropyLoss(), 3, complexity_cost_weight=1 / 1000)
        >>> loss.backward()
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        groups: int = 1,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        prior: str | Path | WeightPrior = "klein-3x3",
        freeze: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            prior=prior,
        )
        self.freeze = freeze

    @property
    def freeze(self) -> bool:
        """Whether forward passes use the posterior mean; ``freeze_`` and ``unfreeze_`` set it."""
        return self.use_mean

    @freeze.setter
    def freeze(self, freeze: bool) -> None:
        self.use_mean = bool(freeze)

    # Properties, not attributes set by forward: what a forward pass leaves behind goes stale with the next
    # step of the optimizer, is missing in a frozen network, and cannot be deep-copied.

    @property
    def log_variational_posterior(self) -> Tensor:
        """E_q[log q(w) - log p(w)] = KL(posterior || prior), the whole of it: a scalar, in nats."""
        return self.kl()

    @property
    def log_prior(self) -> float:
        """0: the KL in closed form is not the difference of two numbers."""
        return 0.0
