"""Trainings that several tests run."""

import torch

import topoprior as tp
from topoprior.vae.training import fit


def small_training(path, epochs, interrupt=None, **options):
    """Eight epochs on points of a circle, or killed after ``interrupt`` of them."""
    torch.manual_seed(5)
    x = torch.cat([tp.Circle().embed(torch.rand(200, 1)), torch.randn(200, 1) / 10], 1)
    vae = tp.CoveringVAE(tp.Circle(), (3,), encoder_hidden=(8,), decoder_hidden=(), likelihood="gaussian")
    if interrupt is not None:
        calls = iter(range(interrupt))

        def killed(*args, **kwargs):
            next(calls)
            return elbo(*args, **kwargs)

        elbo, vae.elbo_and_draws = vae.elbo_and_draws, killed
    options = {"warm": False, "seed": 3, "progress": False, "checkpoint": path, **options}
    history = fit(vae, x[:150], validation=x[150:], epochs=epochs, batch_size=50, **options)
    return vae, history
