"""Which layers of a network can become Bayesian, which are asked for, and why others cannot."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from topoprior.nn.base import BayesLayer
from topoprior.nn.layers import BayesConv1d, BayesConv2d, BayesConv3d, BayesConvTranspose2d, BayesLinear

#: What can be converted, and to what.
COUNTERPARTS: dict[type[nn.Module], type[BayesLayer]] = {
    nn.Conv1d: BayesConv1d,
    nn.Conv2d: BayesConv2d,
    nn.Conv3d: BayesConv3d,
    nn.ConvTranspose2d: BayesConvTranspose2d,
    nn.Linear: BayesLinear,
}
# Layers with weights that have no counterpart here.
_UNSUPPORTED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose3d)
# Where torch keeps what a module has been told to do besides its forward pass.
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
# These read the weights of the layers in them instead of calling the layers. By name, for torchvision's.
_READ_THEIR_LAYERS = {
    "MultiheadAttention",
    "TransformerEncoderLayer",
    "ShiftedWindowAttention",
    "ShiftedWindowAttentionV2",
}
Selector: TypeAlias = str | type[nn.Module] | Callable[[str, nn.Module], bool]


def convertible_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and layers of the types in :data:`COUNTERPARTS` and their subclasses, each layer once; also those
    that one would expect there and that :func:`reasons_to_leave` gives the reason for."""
    kinds = (*COUNTERPARTS, *_UNSUPPORTED)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def reasons_to_leave(model: nn.Module) -> dict[int, str]:
    """For layers, by id, that cannot be converted: why."""
    owners = Counter(id(p) for m in model.modules() for p in _parameters_in(vars(m)))
    parents = [m for m in model.modules() if {c.__name__ for c in type(m).__mro__} & _READ_THEIR_LAYERS]
    reasons = {
        id(child): f"its parent {type(parent).__name__} reads its weights"
        for parent in parents
        for child in parent.children()
    }
    for _, module in convertible_layers(model):
        if id(module) in reasons or isinstance(module, LazyModuleMixin):
            continue
        parameters = list(module._parameters.values())
        own = [*module._parameters, *module._buffers, *module._modules]
        if isinstance(module, _UNSUPPORTED):
            reasons[id(module)] = f"no Bayesian {type(module).__name__}"
        elif parametrize.is_parametrized(module):
            reasons[id(module)] = (
                "parametrized; torch.nn.utils.parametrize.remove_parametrizations frees it"
            )
        elif "weight" not in module._parameters:
            reasons[id(module)] = "pruned or weight-normed; torch.nn.utils has a remove function for it"
        elif type(module) not in COUNTERPARTS:
            reasons[id(module)] = f"a subclass, {type(module).__name__}, that may compute something else"
        elif any(owners[id(p)] > 1 for p in parameters if p is not None):
            reasons[id(module)] = "shares a parameter with another module"
        elif any(getattr(module, hooks, None) for hooks in _HOOKS):
            reasons[id(module)] = "carries hooks"
        elif more := [name for name in own if name not in ("weight", "bias")]:
            reasons[id(module)] = f"holds more than weight and bias: {', '.join(more)}"
        elif "forward" in vars(module):
            reasons[id(module)] = "has a forward of its own"
    return reasons


def _parameters_in(value: Any) -> Iterator[nn.Parameter]:
    """A module's own, and those that a list or the like in it holds."""
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parameters_in(part)


def recurrent_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and layers that carry a state from step to step; they have no Bayesian counterpart."""
    kinds = (nn.RNNBase, nn.RNNCellBase)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def select(
    model: nn.Module, include: Selector | Iterable[Selector] | None, exclude: Selector | Iterable[Selector]
) -> set[int]:
    """Ids of the modules that ``include`` (None: all) but not ``exclude`` names, with all inside them."""
    everything = {id(module) for module in model.modules()}
    chosen = everything if include is None else _matches(model, include, "include")
    return chosen - _matches(model, exclude, "exclude")


def _matches(model: nn.Module, selectors: Selector | Iterable[Selector], argument: str) -> set[int]:
    """Ids of the modules that one of the selectors names."""
    if isinstance(selectors, str | type) or callable(selectors):
        selectors = [selectors]
    found: set[int] = set()
    for selector in selectors:
        if isinstance(selector, str):
            # A shared module has several names, and each will do.
            names = model.named_modules(remove_duplicate=False)
            tops = [module for name, module in names if fnmatch.fnmatchcase(name, selector)]
            if not tops:
                raise ValueError(f"{argument}: {selector!r} matches no module of the model")
            found.update(id(inner) for module in tops for inner in module.modules())
        elif isinstance(selector, type):
            tops = [module for module in model.modules() if isinstance(module, selector)]
            found.update(id(inner) for module in tops for inner in module.modules())
        elif callable(selector):
            found.update(id(m) for name, m in convertible_layers(model) if selector(name, m))
        else:
            raise TypeError(
                f"{argument}: expected names, module types or predicates, found {type(selector).__name__}"
            )
    return found


def layer_types(model: nn.Module) -> str:
    """The types of a model's layers with their numbers, for error messages: its innermost modules, and Bayesian layers
    in place of what is in them."""
    inside = {
        id(part)
        for m in model.modules()
        if isinstance(m, BayesLayer)
        for part in m.modules()
        if part is not m
    }
    leaves = Counter(
        type(m).__name__
        for m in model.modules()
        if isinstance(m, BayesLayer) or not (any(m.children()) or id(m) in inside)
    )
    return ", ".join(f"{count} {name}" for name, count in leaves.most_common())
