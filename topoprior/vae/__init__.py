"""Variational autoencoders whose latent space is a covering."""

from topoprior.vae.model import CoveringVAE, Elbo, mlp
from topoprior.vae.posteriors import FlatPosterior, Posterior, SphericalPosterior, make_posterior
from topoprior.vae.run import Run
from topoprior.vae.training import History, fit, negative_elbo

__all__ = [
    "CoveringVAE",
    "Elbo",
    "FlatPosterior",
    "History",
    "Posterior",
    "Run",
    "SphericalPosterior",
    "fit",
    "make_posterior",
    "mlp",
    "negative_elbo",
]
