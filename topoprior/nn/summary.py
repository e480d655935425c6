"""A table of a model's layers: priors, parameters, KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topoprior.nn.base import BayesLayer
from topoprior.nn.loss import kl_per_layer
from topoprior.nn.selection import convertible_layers, reasons_to_leave
from topoprior.nn.verdict import at_prior, objections, warn
from topoprior.utils.checks import check_int, check_module

_FAR = 10.0


@dataclass(frozen=True)
class LayerSummary:
    """One layer; ``prior``, ``kl``, ``kl_kind`` and ``residual`` are None where it is deterministic."""

    name: str
    type: str
    shape: tuple[int, ...]
    prior: str | None
    parameters: int
    deterministic_parameters: int
    kl: float | None
    kl_kind: str | None
    residual: float | None
    note: str

    @property
    def divergence(self) -> float | None:
        """The KL; None where there is none: a deterministic layer, or a point, whose -log p is no KL."""
        return None if self.kl_kind == "-log p" else self.kl

    @property
    def at_prior(self) -> bool:
        """Whether the posterior is the prior nearly: less than .01 nats a weight."""
        return self.divergence is not None and at_prior(self.divergence, math.prod(self.shape))


@dataclass(frozen=True)
class ModelSummary:
    """What :func:`summary` returns: ``rows``, totals, and a table as text.

    ``parameters`` counts all of the model, ``deterministic_parameters`` all of the same model with
    torch.nn layers; ``kl`` is in nats. ``num_data`` and ``num_classes`` are those that :func:`summary` was given.
    """

    rows: list[LayerSummary]
    parameters: int
    deterministic_parameters: int
    num_data: int | None = None
    num_classes: int | None = None

    @property
    def kl(self) -> float:
        return math.fsum(row.kl for row in self.rows if row.kl is not None)

    @property
    def kl_kind(self) -> str:
        """ "exact" where that of every layer is; otherwise all the kinds that occur."""
        kinds = {row.kl_kind for row in self.rows if row.kl_kind is not None}
        return " + ".join(sorted(kinds)) if kinds else "exact"

    @property
    def parameter_ratio(self) -> float:
        """Parameters over those of the deterministic model."""
        return self.parameters / max(1, self.deterministic_parameters)

    @property
    def kl_per_example(self) -> float | None:
        """KL / N in nats: what an example pays for the weights' having left their prior. Points pay nothing."""
        if self.num_data is None:
            return None
        return math.fsum(row.divergence or 0.0 for row in self.rows) / self.num_data

    @property
    def fallen(self) -> list[str]:
        """Layers whose posterior is the prior."""
        return [row.name for row in self.rows if row.at_prior]

    def verdict(self) -> str:
        """What KL / N says, "" without ``num_data`` or where all is a point.

        The posterior's own KL / N is at most -log p(data) / N, and a constant prediction of C classes loses ln C. So where a model
        says more than a constant, its posterior has KL / N below ln C; far above it, training was stopped early and the stds are
        a noise level that was set by the start. Below it is necessary, and not sufficient.
        """
        cost = self.kl_per_example
        if cost is None or not any(row.divergence is not None for row in self.rows):
            return ""
        lines = [f"KL / N: {cost:,.3g} nats an example"]
        if self.num_classes is not None:
            bound = math.log(self.num_classes)
            lines[0] += f", ln {self.num_classes} = {bound:.3g}: "
            if cost <= bound:
                lines[0] += "as low as a posterior's, which alone does not make it one"
            elif cost <= _FAR * bound:
                lines[0] += "a posterior that says more than a constant prediction has less; train on"
            else:
                lines[0] += "far from a posterior: not converged, stds are those of the start"
        if self.fallen:
            lines.append(f"fallen back to the prior: {', '.join(self.fallen)}")
        return "\n".join(lines)

    def objections(self) -> list[str]:
        """Why this is no posterior to trust, a sentence each: KL / N above ln C, layers at their prior."""
        if self.kl_per_example is None:
            return []
        return objections(self.kl_per_example, self.fallen, self.num_classes)

    def __str__(self) -> str:
        columns = ("layer", "type", "weight", "prior", "parameters", "KL / nats", "residual", "note")
        kinds = {row.kl_kind for row in self.rows if row.kl_kind is not None}
        table = [columns, *(_cells(row, len(kinds) > 1) for row in self.rows)]
        shown = [i for i in range(len(columns)) if i < 6 or any(line[i] for line in table[1:])]
        widths = [max(len(line[i]) for line in table) for i in shown]
        lines = [_line([line[i] for i in shown], widths, shown) for line in table]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join(
            [
                *lines,
                lines[1],
                f"parameters: {self.parameters:,}, {self.parameter_ratio:.2f} times the deterministic "
                f"{self.deterministic_parameters:,}",
                f"KL: {self.kl:,.1f} nats ({self.kl_kind})",
                *self.verdict().splitlines(),
            ]
        )


def summary(
    model: nn.Module, num_data: int | None = None, *, num_classes: int | None = None
) -> ModelSummary:
    """The Bayesian layers of a model, and the convolutions and linear layers that are not Bayesian.

    ``print`` it for a table; ``rows`` has the numbers. ``prior`` is the name that a layer was given, or that of the
    checkpoint or the class of a prior that is an object, and whether it has a residual or learns its scales. ``residual`` says how much of a pretrained weight
    the prior cannot represent, |w - mean| / |w|.

    Args:
        num_data: N, training examples: with it the table says what KL / N means (:meth:`ModelSummary.verdict`), and
            which layers have fallen back to their prior. :func:`topoprior.elbo_loss` says so of long trainings.
        num_classes: C; with it KL / N is compared with ln C.

    Raises:
        TypeError: ``model`` is no module, ``num_data`` or ``num_classes`` no int.
        ValueError: ``num_data`` below 1, ``num_classes`` below 2.

    Warns:
        UserWarning: given ``num_data``: layers that have fallen back to their prior; with ``num_classes`` too: KL above
            N ln C (:meth:`ModelSummary.objections`).

    Example:
        >>> import topoprior as tp
        >>> net = nn.Sequential(tp.BayesConv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> [(row.name, row.prior, row.parameters) for row in summary(net).rows]
        [('0', 'klein-3x3', 208), ('2', None, 18)]
        >>> round(summary(net).parameter_ratio, 2)
        0.93
    """
    check_module(model)
    num_data = None if num_data is None else check_int("num_data", num_data)
    num_classes = None if num_classes is None else check_int("num_classes", num_classes, 2)
    plain, reasons = dict(convertible_layers(model)), reasons_to_leave(model)
    rows = []
    with torch.no_grad():
        kls = kl_per_layer(model)
    for name, module in model.named_modules():
        if isinstance(module, BayesLayer):
            rows.append(_bayesian(name, module, float(kls[name])))
        elif name in plain:
            rows.append(_deterministic(name, module, reasons.get(id(module), "")))
    total = _count(model)
    extra = sum(row.parameters - row.deterministic_parameters for row in rows)
    found = ModelSummary(rows, total, total - extra, num_data, num_classes)
    warn(found.objections(), 2)
    return found


def _bayesian(name: str, layer: BayesLayer, kl: float) -> LayerSummary:
    posterior = layer.weight_posterior
    plain = math.prod(posterior.shape) + (0 if layer.bias_posterior is None else posterior.shape[0])
    return LayerSummary(
        name,
        type(layer).__name__,
        tuple(posterior.shape),
        layer.describe_prior(),
        _count(layer),
        plain,
        kl,
        posterior.kl_kind,
        layer.projection_residual,
        layer.note,
    )


def _deterministic(name: str, layer: Any, reason: str) -> LayerSummary:
    shape = tuple(getattr(layer.weight, "shape", ()))
    count = _count(layer)
    return LayerSummary(name, type(layer).__name__, shape, None, count, count, None, None, None, reason)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if not nn.parameter.is_lazy(p))


def _cells(row: LayerSummary, show_kind: bool) -> tuple[str, ...]:
    kl = "" if row.kl is None else f"{row.kl:,.1f}"
    return (
        row.name,
        row.type,
        "x".join(map(str, row.shape)),
        row.prior or "-",
        f"{row.parameters:,}",
        f"{kl} {row.kl_kind}" if show_kind and kl else kl,
        "" if row.residual is None else f"{row.residual:.3f}",
        row.note,
    )


def _line(cells: list[str], widths: list[int], columns: list[int]) -> str:
    numbers = (4, 5, 6)
    padded = [
        cell.rjust(width) if column in numbers else cell.ljust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    ]
    return "  ".join(padded).rstrip()
