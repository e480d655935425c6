"""The methods that are compared: kinds of 3x3 convolution, from which weights they start, and how they are trained.

Settings are those that validation data chose, with the same effort for every method: `settings/`, a file a profile,
made by `tune.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import topoprior as tp
from experiments.common.store import digest

KLEIN = "klein-3x3"
STARTS = ("own", "klein")
ENSEMBLE_SIZE = 5
SETTINGS_FOLDER = Path(__file__).with_name("settings")
_HE_GAIN = math.sqrt(2)


@dataclass(frozen=True)
class Settings:
    """How a method is trained.

    Args:
        learning_rate: the highest one of the one-cycle schedule.
        weight_decay: AdamW's, for the deterministic weights: all of them for "deterministic",
            those of the last layer for the Bayesian methods, whose prior does this work.
        options: of the prior (`tp.DecoderPrior`, `tp.Gaussian`, ...), or of BLiTZ's layer.
        temperature: factor of the KL that validation chose, where it may choose; a command line that
            names a temperature overrides it.
        relative_rate: the learning rate of the latents, where kernels are decoded, of the convolutions' weights
            or their means elsewhere, as a multiple of ``learning_rate``.
    """

    learning_rate: float
    weight_decay: float
    options: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    relative_rate: float = 1.0


Convolution = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class Method:
    """A kind of convolution: how to make a layer, how to draw weights from what is believed at first.

    start: "own", layers start around a draw from their own prior; "klein", around one from the Klein prior.
    members: networks that are trained and averaged, more than one for a deep ensemble.
    """

    name: str
    settings: Settings
    convolution: Convolution
    sample_prior: Callable[[tuple[int, ...]], Tensor]
    bayesian: bool = True
    members: int = 1
    start: str = "own"


# --- settings ----------------------------------------------------------------------------------


def read_settings(profile: str = "compare", folder: Path = SETTINGS_FOLDER) -> dict[str, Settings]:
    """Each method's settings. A profile is a network, a budget and a temperature they were chosen for."""
    path = folder / f"{profile}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        raise ValueError(f"no settings for {profile!r} in {folder.name}/, only for {known}")
    chosen = json.loads(path.read_text(encoding="utf-8"))["methods"]
    return {name: Settings(**entry) for name, entry in chosen.items()}


SETTINGS = read_settings()


# --- methods -----------------------------------------------------------------------------------

_PRIORS: dict[str, Callable[..., tp.WeightPrior]] = {
    "klein": lambda **options: tp.DecoderPrior.from_pretrained(KLEIN, **options),
    "klein-residual": lambda **options: tp.DecoderPrior.from_pretrained(
        KLEIN, **{"residual_fraction": 0.1, **options}
    ),
    "klein-fixed": lambda **options: tp.FixedKernels(tp.DecoderPrior.from_pretrained(KLEIN, **options)),
    "euclidean-3x3": lambda **options: tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3", **options),
    "gaussian": tp.Gaussian,
    "laplace": tp.Laplace,
    "student-t": tp.StudentT,
    "scale-mixture": tp.ScaleMixture,
    "correlated-gaussian": tp.CorrelatedGaussian,
}
_BLITZ = ("blitz", "blitz-mixture")
_PLAIN = ("deterministic",)
# Networks of a method from several seeds, their probabilities averaged.
ENSEMBLES = {"klein-ensemble": "klein", "ensemble": "deterministic"}
METHODS = (*_PRIORS, *_BLITZ, *_PLAIN, *ENSEMBLES)
# Their own draws are Klein draws.
OF_THE_KLEIN_BOTTLE = ("klein", "klein-residual", "klein-fixed", "klein-ensemble")


def get_method(
    name: str,
    settings: Settings | None = None,
    *,
    start: str = "own",
    profile: Mapping[str, Settings] | None = None,
) -> Method:
    """The method of a name: one of `METHODS`, a prior that topoprior knows, or a checkpoint folder.

    Args:
        settings: instead of those in ``profile``.
        start: one of `STARTS`.
        profile: settings of all methods, `SETTINGS` by default.

    Raises:
        ValueError: no such prior, a damaged checkpoint (`CheckpointError`), or a start that is not known.
    """
    if start not in STARTS:
        raise ValueError(f"start {start!r}: choose one of {', '.join(STARTS)}")
    if name in ENSEMBLES:
        one = get_method(ENSEMBLES[name], settings, start=start, profile=profile)
        return replace(one, name=name, members=ENSEMBLE_SIZE)
    chosen = settings or _settings_like(name, SETTINGS if profile is None else profile)
    if name in _PLAIN:
        return Method(name, chosen, _plain, _plain_start, False, start=start)
    if name in _BLITZ:
        options = {"prior_pi": 1.0 if name == "blitz" else 0.5, **chosen.options}
        return Method(name, chosen, _blitz(options), _blitz_prior(options), start=start)
    if name in _PRIORS:
        prior = _PRIORS[name](**chosen.options)
    else:
        try:
            prior = tp.get_prior(name)
        except ValueError as error:
            raise ValueError(f"--priors: {error}; of this experiment: {', '.join(METHODS)}") from None
        if settings is None and isinstance(prior, tp.DecoderPrior):
            chosen = replace(_settings_like("klein", profile or SETTINGS), options={})

    def convolution(inputs: int, outputs: int) -> nn.Module:
        return tp.BayesConv2d(inputs, outputs, 3, padding=1, prior=prior)

    return Method(name, chosen, convolution, prior.sample, start=start)


def _settings_like(name: str, profile: Mapping[str, Settings]) -> Settings:
    """A method's settings; of one that was not tuned, those of its nearest relative."""
    if name in profile:
        return profile[name]
    if name == "blitz-mixture":
        return profile["blitz"]
    if name in ("klein-residual", "euclidean-3x3", "klein-fixed"):
        return profile["klein"]
    options = profile["gaussian"].options if name in _PRIORS else {}
    return replace(profile["gaussian"], options=options)


# --- where layers start ------------------------------------------------------------------------


@torch.no_grad()
def start_from_klein_(network: nn.Module) -> None:
    """Center every 3x3 convolution, of whatever kind, on weights drawn from the Klein prior."""
    layer: Any
    draw = tp.DecoderPrior.from_pretrained(KLEIN).sample
    for layer in network.modules():
        if isinstance(layer, tp.BayesConv2d):
            layer.weight_posterior.project_(draw(layer.weight_posterior.shape))
        elif isinstance(layer, nn.Conv2d):
            if layer.kernel_size == (3, 3):
                layer.weight.copy_(draw(layer.weight.shape))
        elif hasattr(layer, "weight_mu") and layer.weight_mu.dim() == 4:  # BLiTZ
            layer.weight_mu.copy_(draw(layer.weight_mu.shape))


# --- convolutions of others --------------------------------------------------------------------


def _plain(inputs: int, outputs: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    # The same start as the Bayesian layers, which draw it from priors with He's variance.
    nn.init.kaiming_normal_(conv.weight, a=0, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _plain_start(shape: tuple[int, ...]) -> Tensor:
    return nn.init.kaiming_normal_(torch.empty(shape), nonlinearity="relu")


def _blitz_scales(options: Mapping[str, float], fan_in: int) -> tuple[float, float]:
    """Stds of the mixture's wide and narrow part, exp(-6) times as wide (Blundell et al. 2015)."""
    pi, ratio = options["prior_pi"], math.exp(-6)
    unit_energy = pi + (1 - pi) * ratio**2
    wide = options["prior_scale"] * _HE_GAIN / math.sqrt(fan_in * unit_energy)
    return wide, ratio * wide


def _blitz(options: Mapping[str, float]) -> Convolution:
    try:
        from blitz.modules import BayesianConv2d
    except ImportError:
        raise ValueError(
            "--priors: blitz needs pip install blitz-bayesian-pytorch, or leave it out"
        ) from None

    def convolution(inputs: int, outputs: int) -> nn.Module:
        wide, narrow = _blitz_scales(options, 9 * inputs)
        layer = BayesianConv2d(
            inputs, outputs, (3, 3), padding=1,
            prior_sigma_1=wide, prior_sigma_2=narrow, prior_pi=options["prior_pi"],
            posterior_rho_init=options["posterior_rho_init"],
        )  # fmt: skip
        with torch.no_grad():
            layer.weight_mu.copy_(_blitz_prior(options)(tuple(layer.weight_mu.shape)))
        return layer

    return convolution


def _blitz_prior(options: Mapping[str, float]) -> Callable[[tuple[int, ...]], Tensor]:
    def sample(shape: tuple[int, ...]) -> Tensor:
        wide, narrow = _blitz_scales(options, math.prod(shape[1:]))
        if options["prior_pi"] == 1:
            return torch.randn(shape) * wide
        scale = torch.where(torch.rand(shape) < options["prior_pi"], wide, narrow)
        return torch.randn(shape) * scale

    return sample


def blitz_sequential() -> type[nn.Sequential]:
    from blitz.utils import variational_estimator

    @variational_estimator
    class BlitzSequential(nn.Sequential):
        """A sequence with BLiTZ's methods, among them `nn_kl_divergence`."""

    return BlitzSequential


def is_blitz(method: Method) -> bool:
    return method.name in _BLITZ


def prior_digest(name: str) -> str:
    """Of a checkpoint folder: it may change under the same name. Empty for the others."""
    if name in METHODS or not Path(name).is_dir():
        return ""
    return digest(*(path.read_bytes() for path in sorted(Path(name).iterdir()) if path.is_file()))
