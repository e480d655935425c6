"""Shipped priors: what they decode, how near they come, their homology, the import."""

import math
import subprocess
import sys

import pytest
import torch

import topoprior as tp
from topoprior.kernels.klein import klein_energy, klein_kernels, nearest_klein, sample_klein_kernels

K = tp.KleinBottle()


@pytest.fixture
def klein():
    return tp.DecoderPrior.from_pretrained("klein-3x3")


def uniform(num=4000):
    return K.sample_uniform(torch.Size([num]), torch.float32, torch.device("cpu"))


def test_decoder_has_unit_energy_and_no_seam(klein):
    z = uniform(40_000)
    energy = klein.decode(z).square().sum((1, 2))
    assert abs(energy.mean() - 1) < 5 * energy.std() / math.sqrt(len(z))
    lifts = K.lifts(z[:100], 2.0)
    torch.testing.assert_close(
        klein.decode(lifts),
        klein.decode(z[:100]).unsqueeze(1).expand(-1, lifts.shape[1], 3, 3),
        atol=1e-5,
        rtol=0,
    )


def test_decoder_reaches_every_klein_kernel(klein):
    """Every analytic kernel has a decoded one within 1 percent, by search on a 400 x 400 grid."""
    line = torch.arange(400) / 400
    decoded = klein.decode(torch.cartesian_prod(2 * line, line)).flatten(1)
    kernels = klein_kernels(uniform(300)).flatten(1)
    error = torch.cdist(kernels, decoded).amin(1) / kernels.norm(dim=1)
    assert error.square().mean().sqrt() < 0.01


def test_the_natural_prior_is_near_the_analytic_one_and_not_the_same():
    """Learned from patches: most of its kernels are near analytic ones, with unit energy and no seam."""
    natural = tp.DecoderPrior.from_pretrained("klein-natural-3x3")
    z = uniform(2000)
    kernels = natural.decode(z)
    assert natural.covering == K
    torch.testing.assert_close(natural.decode(K.lifts(z, 1.0)[:, 1]), kernels, atol=1e-5, rtol=0)
    assert kernels.mean((1, 2)).abs().max() < 0.05  # the patches have no means
    distance = nearest_klein(kernels)[0]
    assert 0.05 < distance.median() < 0.3
    assert klein_energy(kernels).mean() > 0.9


@pytest.mark.parametrize("name", ["klein-3x3", "klein-natural-3x3"])
@pytest.mark.parametrize(("field", "betti"), [(2, (1, 2)), (3, (1, 1))])
def test_decoded_kernels_have_the_homology_of_the_klein_bottle(name, field, betti):
    homology = pytest.importorskip("topoprior.topology.homology")
    pytest.importorskip("ripser")
    prior = tp.DecoderPrior.from_pretrained(name)
    diagrams = homology.persistence(prior.decode(uniform()), field=field, max_dim=1)
    assert homology.betti_numbers(diagrams) == betti


@pytest.mark.slow
@pytest.mark.parametrize(("field", "betti"), [(2, (1, 2, 1)), (3, (1, 1, 0))])
def test_decoded_kernels_have_the_second_homology_too(klein, field, betti):
    homology = pytest.importorskip("topoprior.topology.homology")
    pytest.importorskip("ripser")
    assert homology.betti_numbers(homology.persistence(klein.decode(uniform()), field=field)) == betti


def test_homology_tells_a_torus_from_a_klein_bottle():
    homology = pytest.importorskip("topoprior.topology.homology")
    pytest.importorskip("ripser")
    torus = tp.Torus(2).embed(torch.rand(3000, 2))
    assert homology.betti_numbers(homology.persistence(torus, field=3, max_dim=1)) == (1, 2)


def test_import_is_light():
    code = (
        "import sys, topoprior; heavy = {'torchvision', 'matplotlib', 'ripser', 'gudhi', 'blitz', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def one_posterior(prior, *, channels):
    return prior.posterior((*channels, *prior.kernel_size))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("klein-3x3", 8), ("klein-5x5", 8), ("circle-3x3", 6), ("torus-3x3", 8), ("euclidean-3x3", 8)],
)
def test_numbers_a_kernel(name, numbers):
    posterior = one_posterior(tp.get_prior(name), channels=(5, 7))
    assert sum(p.numel() for p in posterior.parameters()) == 35 * numbers


def test_circle_decodes_straight_edges():
    edges = tp.get_prior("circle-3x3").decode(torch.rand(100, 1)).double()
    line = torch.linspace(-1, 1, 3, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    angle = torch.atan2((edges * y).sum((1, 2)), (edges * x).sum((1, 2)))[:, None, None]
    torch.testing.assert_close(edges, (x * angle.cos() + y * angle.sin()) / math.sqrt(6), atol=1e-6, rtol=0)


def test_what_each_decoder_leaves_out_of_the_klein_kernels():
    """Circle > plane > torus > Klein bottle: the figures of docs/concepts/priors.md."""
    kernels = sample_klein_kernels(1000)[0].unsqueeze(1)
    left = {
        name: one_posterior(tp.get_prior(name), channels=(1000, 1)).project_(kernels).item()
        for name in ("klein-3x3", "torus-3x3", "euclidean-3x3", "circle-3x3")
    }
    assert left["klein-3x3"] < 0.005
    assert 0.02 < left["torus-3x3"] < 0.06
    assert 0.1 < left["euclidean-3x3"] < 0.25
    assert 0.75 < left["circle-3x3"] < 0.85


def test_a_vae_on_a_closed_space_is_no_euclidean_prior():
    vae = tp.CoveringVAE(tp.KleinBottle(), (3, 3), likelihood="gaussian")
    with pytest.raises(ValueError, match="Euclidean latents"):
        tp.EuclideanDecoderPrior.from_vae(vae)
