"""Whole networks: torch.nn layers to Bayesian ones and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import skip_init

from topoprior.nn.advice import note_conversion
from topoprior.nn.base import BayesLayer, PriorLike
from topoprior.nn.convolution import transpose_kernels
from topoprior.nn.layers import BayesConvTranspose2d
from topoprior.nn.rules import Rules, arguments_of
from topoprior.nn.selection import (
    COUNTERPARTS,
    Selector,
    convertible_layers,
    layer_types,
    reasons_to_leave,
    recurrent_layers,
    select,
)
from topoprior.priors.delta import check_family
from topoprior.utils.checks import check_module, check_positive, check_values
from topoprior.utils.real_module import check_dtype


def to_bayesian(
    model: nn.Module,
    prior: PriorLike | Sequence[PriorLike] = "klein-3x3",
    *,
    init: str = "prior",
    relative_scale: float = 0.02,
    linear_prior: PriorLike | None = None,
    include: Selector | Sequence[Selector] | None = None,
    exclude: Selector | Sequence[Selector] | None = None,
    fallback: PriorLike | None = "gaussian",
    posterior: str = "mean-field",
    inplace: bool = False,
) -> nn.Module:
    """The model with Bayesian layers in place of its convolutions: Conv1d, 2d, 3d and ConvTranspose2d.

    Geometry, device, dtype, training mode, ``requires_grad`` and sharing of layers are kept;
    :func:`topoprior.summary` lists what became of each layer.

    Args:
        model: any network; it stays as it is unless ``inplace``.
        prior: of the convolutions, or several, such as ["klein-3x3", "klein-7x7"]: the first that serves.
        init: "prior": each posterior starts around a draw from its prior. "pretrained": around the model's
            own weights, or the nearest that the posterior can represent; what is left over is the layer's
            ``projection_residual``. Biases are kept exactly.
        relative_scale: with "pretrained", how far draws stray: every std of weights is at most this times the
            root mean square of the layer's weights, so that a draw computes nearly what the mean computes,
            whatever size the weights have (those of a bias: of its own or the weights', whichever is
            larger; latents: see ``project_`` of the posterior). Weights that are all 0 are measured
            by the prior instead. A posterior c times narrower has a KL larger by log c for each number; training
            widens what the data leave open. Large values leave the prior's ``init_scale`` as it is.
        linear_prior: also convert Linear layers, with this prior. By default they stay: the noise of a
            Bayesian last layer goes straight into the logits.
        include, exclude: which layers: a glob of names ("layer4.*"), a module type, a predicate
            ``f(name, layer) -> bool``, or several of them. A name or type stands for everything inside it.
        fallback: prior where ``prior`` does not serve the kernel size, and of depthwise convolutions where
            ``prior`` is one of kernels of its own size, since those are no filter banks. None leaves such
            layers deterministic.
        posterior: of all layers: "mean-field", or "delta" (:class:`~topoprior.priors.DeltaPosterior`), which starts at the
            draw or projection itself, without stds.

    Left as they are, with a warning: layers that are parametrized or pruned, that carry hooks or more than a
    weight and a bias, share a parameter with another module, or are of a subclass that may compute
    something else; ConvTranspose1d and 3d and recurrent layers, which have no counterpart. Layers whose
    parent reads their weights (in MultiheadAttention and the like) are left without one.

    Raises:
        ValueError: no ``prior``, nothing to convert, a name that matches nothing, an unknown ``init`` or ``posterior``, a ``relative_scale``
            that is not positive, a layer without weights yet (lazy modules).
        TypeError: ``model`` is no module, a selector of another type, weights that are no real floating-point numbers
            (complex, integers, 8 bits).

    Warns:
        UserWarning: layers left as they are, as above; a ``prior`` that serves less than a tenth of the convolutions.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2))
        >>> bayes = to_bayesian(net)
        >>> bayes[0].prior_name, bayes[2].prior_name, bayes[4]
        ('klein-3x3', 'gaussian', Linear(in_features=8, out_features=2, bias=True))
    """
    check_module(model)
    if init not in ("prior", "pretrained"):
        raise ValueError(f"init: expected 'prior' or 'pretrained', found {init!r}")
    if inplace and type(model) in COUNTERPARTS:
        raise ValueError("inplace: the model itself is the layer to replace; use what to_bayesian returns")
    check_family(posterior)
    scale = check_positive("relative_scale", relative_scale)
    given, rules = model, Rules(prior, linear_prior, fallback, posterior, init, scale)
    model = model if inplace else copied(model)
    chosen = select(model, include, () if exclude is None else exclude)
    reasons = reasons_to_leave(model)
    replacements: dict[int, nn.Module] = {}
    warned = []
    for name, module in convertible_layers(model):
        if id(module) not in chosen or (isinstance(module, nn.Linear) and linear_prior is None):
            continue
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(f"model: layer {name!r} has no weights yet; run one forward pass first")
        reason = reasons.get(id(module))
        if reason is None:
            check_dtype(
                f"model: layer {name!r}, which exclude={name!r} leaves as it is",
                module.get_parameter("weight"),
            )
            if init == "pretrained":
                for part, value in module.named_parameters(recurse=False):
                    check_values(f"model: layer {name!r}, its {part}", value)
            layer = rules.convert(module)
            if layer is not None:
                layer.converted_from = name
                replacements[id(module)] = layer
        elif not reason.startswith("its parent"):
            warned.append(f"{name} ({reason})")
    warned += [
        f"{name} (no Bayesian {type(module).__name__})"
        for name, module in recurrent_layers(model)
        if id(module) in chosen
    ]
    if warned:
        warnings.warn(f"layers left deterministic: {', '.join(warned)}", stacklevel=2)
    if not replacements:
        raise ValueError(_nothing_to_convert(model))
    if word := rules.served_few():
        warnings.warn(word, stacklevel=2)
    if not inplace:
        note_conversion(given)
    return _replace(model, replacements)


def to_deterministic(model: nn.Module, *, sample: bool = False, inplace: bool = False) -> nn.Module:
    """The model with torch.nn layers again, of the posterior's mean weights: for export and serving.

    Args:
        model: stays as it is unless ``inplace``.
        sample: one draw of the weights instead of the mean.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: no Bayesian layer; ``inplace`` where the model itself is one.

    Example:
        >>> from topoprior import posterior_mean
        >>> net, x = to_bayesian(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())), torch.ones(1, 1, 5, 5)
        >>> with posterior_mean(net):
        ...     torch.equal(to_deterministic(net)(x), net(x))
        True
    """
    check_module(model)
    if inplace and isinstance(model, BayesLayer):
        raise ValueError(
            "inplace: the model itself is the layer to replace; use what to_deterministic returns"
        )
    model = model if inplace else copied(model)
    layers = [module for module in model.modules() if isinstance(module, BayesLayer)]
    if not layers:
        raise ValueError(f"model: found no Bayesian layer, only {layer_types(model)}")
    with torch.no_grad():
        return _replace(model, {id(layer): _plain(layer, sample) for layer in layers})


def _plain(layer: BayesLayer, sample: bool) -> nn.Module:
    kind = next((plain for plain, bayes in COUNTERPARTS.items() if isinstance(layer, bayes)), None)
    if kind is None:
        raise TypeError(f"model: no torch.nn counterpart is known for {type(layer).__name__}")
    posteriors = (layer.weight_posterior, layer.bias_posterior)
    weight, bias = (p if p is None else p.rsample() if sample else p.mean() for p in posteriors)
    assert weight is not None
    if isinstance(layer, BayesConvTranspose2d):
        weight = transpose_kernels(weight, layer.groups)
    options = {"bias": bias is not None, "device": weight.device, "dtype": weight.dtype}
    plain: Any = skip_init(kind, **arguments_of(layer), **options)
    for name, value, posterior in zip(("weight", "bias"), (weight, bias), posteriors, strict=True):
        if value is not None and posterior is not None:
            learned = any(p.requires_grad for p in posterior.parameters())
            setattr(plain, name, nn.Parameter(value.clone(), requires_grad=learned))
    return plain.train(layer.training)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where pruning or weight norm left a computed weight, which torch does not copy.

    Their hooks compute it anew in every forward pass.
    """
    memo = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, memo)


def _replace(model: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """The model with modules, given by id, replaced wherever they occur: as children, and in lists and the like of parents."""
    for module in list(model.modules()):
        for name, value in list(vars(module).items()):
            vars(module)[name] = _with_replaced(value, replacements)
    return replacements.get(id(model), model)


def _with_replaced(value: Any, replacements: dict[int, nn.Module]) -> Any:
    """A module's replacement; lists and dicts, changed in place, and tuples of such."""
    if type(value) is tuple:
        return tuple(_with_replaced(part, replacements) for part in value)
    if isinstance(value, list | dict):
        for key in range(len(value)) if isinstance(value, list) else list(value):
            value[key] = _with_replaced(value[key], replacements)
    return replacements.get(id(value), value)


def _nothing_to_convert(model: nn.Module) -> str:
    kinds = ", ".join(kind.__name__ for kind in COUNTERPARTS if kind is not nn.Linear)
    if any(isinstance(module, BayesLayer) for module in model.modules()):
        return (
            f"model: its layers are Bayesian already, so there is nothing to convert: found {layer_types(model)}; "
            "to_deterministic(model) goes back, and can be converted anew"
        )
    return (
        f"model: found no layer to convert; expected one of {kinds}, or Linear where linear_prior is given, "
        f"that include, exclude and fallback leave; found {layer_types(model)}"
    )
