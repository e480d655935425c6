"""Bayesian layers and functions of whole networks."""

from topoprior.nn.base import BayesLayer
from topoprior.nn.batch_norm import update_bn
from topoprior.nn.contexts import frozen_sample, posterior_mean
from topoprior.nn.convert import to_bayesian, to_deterministic
from topoprior.nn.fixed_draws import FixedDraws, freeze_draws
from topoprior.nn.inference import predict, sample_outputs
from topoprior.nn.latents import compile_posteriors, faster_latents, parameter_groups
from topoprior.nn.layers import BayesConv1d, BayesConv2d, BayesConv3d, BayesConvTranspose2d, BayesLinear
from topoprior.nn.loss import elbo_loss, kl_divergence, kl_per_layer, kl_warmup
from topoprior.nn.selection import convertible_layers, layer_types
from topoprior.nn.summary import LayerSummary, ModelSummary, summary
from topoprior.nn.uncertainty import expected_entropy, mutual_information, predictive_entropy

__all__ = [
    "BayesConv1d",
    "BayesConv2d",
    "BayesConv3d",
    "BayesConvTranspose2d",
    "BayesLayer",
    "BayesLinear",
    "FixedDraws",
    "LayerSummary",
    "ModelSummary",
    "compile_posteriors",
    "convertible_layers",
    "elbo_loss",
    "expected_entropy",
    "faster_latents",
    "freeze_draws",
    "frozen_sample",
    "kl_divergence",
    "kl_per_layer",
    "kl_warmup",
    "layer_types",
    "mutual_information",
    "parameter_groups",
    "posterior_mean",
    "predict",
    "predictive_entropy",
    "sample_outputs",
    "summary",
    "to_bayesian",
    "to_deterministic",
    "update_bn",
]
