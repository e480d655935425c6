"""Networks drawn once from the posterior, for serving: plain torch.nn layers, no sampling at prediction time."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from topoprior.nn.base import BayesLayer
from topoprior.nn.batches import Output, pick
from topoprior.nn.contexts import bayes_layers
from topoprior.nn.convert import copied, to_deterministic
from topoprior.nn.selection import layer_types
from topoprior.utils.checks import check_int

if TYPE_CHECKING:
    from typing_extensions import Self


class FixedDraws(nn.Module):
    """Networks that share all but what was drawn for each: :func:`freeze_draws` makes one.

    The networks are in ``members``; called, it returns what each of them returns, stacked, (num_samples, batch, ...). They stay in
    evaluation mode: what they answer is to depend on their input alone.
    """

    def __init__(self, members: list[nn.Module], output: Output = None) -> None:
        super().__init__()
        self.members, self.output = nn.ModuleList(members), output
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return torch.stack([pick(member(*args, **kwargs), self.output) for member in self.members])


@torch.no_grad()
def freeze_draws(model: nn.Module, num_samples: int = 32, *, output: Output = None) -> FixedDraws:
    r"""``num_samples`` networks with weights w_s ~ q, drawn now and kept: predictions without drawing.

    Every answer then is a function of the input alone, so that a service can repeat and cache it, threads can share it,
    and ``torch.export``, ``torch.onnx.export`` and safetensors take it as any network of torch.nn layers. The cost is that of
    ``num_samples`` passes of the deterministic network; weights of two spatial dimensions lie in memory as CPUs read
    them fastest (``torch.channels_last``). Everything that is not Bayesian is shared by the members and in evaluation
    mode, and nothing asks for gradients. The drawn weights take ``num_samples`` times the memory of one network's.

    Args:
        model: with Bayesian layers; it stays as it is.
        num_samples: networks to draw.
        output: which part of what the model returns, if not a tensor, as in :func:`sample_outputs`.

    Returns:
        a module: input (batch, ...) to outputs (num_samples, batch, ...).

    Raises:
        TypeError: ``model`` is no module, ``num_samples`` no int.
        ValueError: no Bayesian layer, ``num_samples`` below 1.

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.Flatten(), tp.BayesLinear(36, 3))
        >>> frozen, x = freeze_draws(net, 8), torch.ones(2, 1, 5, 5)
        >>> probabilities = frozen(x).softmax(2)
        >>> probabilities.shape, torch.equal(frozen(x).softmax(2), probabilities)
        (torch.Size([8, 2, 3]), True)

        Kept in a file, and read into draws of the same network:

        >>> from safetensors.torch import load_file, save_file
        >>> plain = torch.contiguous_format  # what members share is written for each of them
        >>> tensors = {name: t.clone(memory_format=plain) for name, t in frozen.state_dict().items()}
        >>> save_file(tensors, "frozen.safetensors")  # doctest: +SKIP
        >>> _ = freeze_draws(net, 8).load_state_dict(load_file("frozen.safetensors"))  # doctest: +SKIP
    """
    num_samples = check_int("num_samples", num_samples)
    if not bayes_layers(model):
        raise ValueError(f"model: found no Bayesian layer, only {layer_types(model)}")
    model = copied(model).eval().requires_grad_(False)
    own = [*bayes_layers(model), *model.parameters(), *model.buffers()]
    members = []
    for _ in range(num_samples):
        member = copy.deepcopy(
            model, {id(shared): shared for shared in own}
        )  # new modules, the same tensors
        members.append(
            _laid_out(to_deterministic(member, sample=True, inplace=not isinstance(member, BayesLayer)))
        )
    return FixedDraws(members, output)


def _laid_out(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.to(memory_format=torch.channels_last)
    return network
