"""Batches of no example, data of a dozen, likelihoods that broadcast."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

import topoprior as tp
from tests.vae.test_model import SPACES, random_vae
from topoprior.vae.training import fit


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_an_empty_batch_gives_empty_tensors(space, likelihood):
    vae = random_vae(space, likelihood=likelihood)
    for shape in ((0,), (2, 0)):
        x = torch.rand(*shape, 3, 3)
        elbo = vae.elbo(x, num_samples=2)
        assert elbo.value.shape == elbo.kl.shape == shape
        assert vae.latents(x).shape == (*shape, space.cover_dim)
        assert vae(x).shape == x.shape
        assert vae.log_likelihood(x, vae.latents(x)).shape == shape
    assert vae.sample(0).shape == (0, 3, 3)
    vae.elbo(torch.rand(0, 3, 3)).value.sum().backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in vae.parameters())


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_likelihood_broadcasts_data_against_latents(likelihood):
    """Every example under every latent, against torch's distributions, one pair at a time."""
    vae = random_vae(likelihood=likelihood)
    x, z = torch.rand(5, 1, 3, 3), torch.rand(4, 2)
    with torch.no_grad():
        found = vae.log_likelihood(x, z)
        assert found.shape == (5, 4)
        for i in range(5):
            for j in range(4):
                output = vae.decode(z[j])
                law = (
                    Bernoulli(logits=output, validate_args=False)
                    if vae.log_noise is None
                    else Normal(output, vae.log_noise.exp())
                )
                torch.testing.assert_close(found[i, j], Independent(law, 2).log_prob(x[i, 0]))
        torch.testing.assert_close(vae.log_likelihood(x[0, 0], z), found[0])
        torch.testing.assert_close(vae.log_likelihood(x[:, 0], z[0]), found[:, 0])


@pytest.mark.parametrize("space", [tp.Circle(), tp.KleinBottle(), tp.Sphere(2)], ids=repr)
def test_a_dozen_images_train(space):
    for count in (12, 16, 20):
        vae = tp.CoveringVAE(space, (9,), encoder_hidden=(8,), decoder_hidden=(8,))
        history = fit(vae, torch.rand(count, 9), epochs=1, progress=False)
        assert torch.tensor(history.train).isfinite().all()
    with pytest.raises(ValueError, match="x: expected more than 11 points, found 5"):
        fit(vae, torch.rand(5, 9), epochs=1, progress=False)
    fit(vae, torch.rand(5, 9), epochs=1, warm=False, progress=False)
