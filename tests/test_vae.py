"""CoveringVAE: continuous across seams, a true ELBO, the right homotopy class, a reusable decoder."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import topoprior as tp
from topoprior.kernels import klein_kernels, sample_klein_kernels
from topoprior.spectral import fit_covering, graph_eigenvectors, warm_start
from topoprior.vae_training import fit, negative_elbo

K = tp.KleinBottle()


def random_vae(space=K, **options):
    return tp.CoveringVAE(space, (3, 3), encoder_hidden=(16,), decoder_hidden=(16,), **options)


def flat_z3():
    turn = torch.tensor(
        [[-0.5, -math.sqrt(0.75), 0], [math.sqrt(0.75), -0.5, 0], [0, 0, 1]], dtype=torch.float64
    )
    lattice = [[1, -0.5, 0], [0, math.sqrt(0.75), 0], [0, 0, 1]]
    return tp.FlatManifold(lattice, [(turn, [0, 0, 1 / 3]), (turn @ turn, [0, 0, 2 / 3])])


SPACES = {
    "klein": K,
    "torus": tp.Torus(2),
    "circle": tp.Circle(),
    "euclidean": tp.Euclidean(2),
    "Z/3": flat_z3(),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_training_step_on_every_space(space, likelihood):
    vae = random_vae(space, likelihood=likelihood)
    x = torch.rand(6, 3, 3)
    elbo = vae.elbo(x, num_samples=2)
    assert elbo.value.shape == (6,)
    assert (elbo.kl >= 0).all()
    (-elbo.value.mean()).backward()
    for name, parameter in vae.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    assert vae.sample(4).shape == (4, 3, 3)


@pytest.mark.parametrize("space", [K, tp.Torus(2), SPACES["Z/3"]], ids=["klein", "torus", "Z/3"])
def test_decoding_any_lift_agrees(space):
    vae = random_vae(space).double()
    x = space.sample_uniform(torch.Size([20]), torch.float64, torch.device("cpu"))
    lifts = space.lifts(x, 1.0)
    gap = vae.decode(lifts) - vae.decode(x).unsqueeze(1)
    assert gap.abs().max() < 1e-10


def test_a_path_across_the_seam_decodes_to_a_continuous_path():
    vae = random_vae().double()
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    path = torch.stack([u, 0.1 + 0 * u], -1)  # from (0, .1) once round to (1, .1) ~ (0, -.1)
    path = torch.cat([path, torch.stack([0 * u, -0.1 + 0.2 * u], -1)])  # and back to (0, .1)
    images = vae.decode(K.project(path))  # canonical lifts jump at the seam; images must not
    steps = (images.roll(-1, 0) - images).flatten(1).norm(dim=1)
    assert steps.max() < 20 * steps.median()
    assert (K.project(path).diff(dim=0).norm(dim=1) > 0.5).any(), "the path does cross the seam"


@pytest.mark.parametrize("scale", ["diagonal", "full"])
def test_the_posterior_is_continuous_where_the_retraction_changes_sheet(scale):
    """Turn the encoder's features once round b: the lift jumps by a deck move, the law must not."""
    vae = random_vae(scale=scale, init_scale=0.1).double()
    features = K.embed(torch.stack([torch.linspace(0, 2, 4001), torch.full((4001,), 0.15)], -1).double())
    raw = torch.cat([torch.zeros(4001, vae._split[1]), torch.full((4001, vae._split[2]), 0.7)], 1).double()
    outputs = (features, *raw.split(vae._split[1:], 1))
    vae._encoder_outputs = lambda x: outputs
    q = vae.encode(torch.zeros(1))
    assert (q.loc.diff(dim=0).norm(dim=1) > 0.3).any(), "the lift does jump"
    density = q.log_prob(torch.tensor([0.4, 0.2], dtype=torch.float64)).exp()
    assert density.diff().abs().max() < 1e-2 * density.max()


def test_likelihoods_are_torchs():
    x = torch.rand(5, 3, 3)
    z = K.sample_uniform(torch.Size([5]), torch.float32, torch.device("cpu"))
    vae = random_vae()
    expected = Bernoulli(logits=vae.decode(z), validate_args=False).log_prob(x).sum((1, 2))
    torch.testing.assert_close(vae.log_likelihood(x, z), expected)
    vae = random_vae(likelihood="gaussian", init_noise=0.3)
    expected = Normal(vae.decode(z), 0.3).log_prob(x).sum((1, 2))
    torch.testing.assert_close(vae.log_likelihood(x, z), expected)


def test_elbo_is_below_the_evidence():
    """log p(x) by quadrature over the Klein bottle (a 200 x 200 grid) is above the mean of 4,000 draws."""
    vae = random_vae(likelihood="gaussian", init_noise=0.5, init_scale=0.1)
    x = torch.rand(4, 3, 3)
    line = (torch.arange(200) + 0.5) / 200
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        evidence = vae.log_likelihood(x.unsqueeze(1), grid).logsumexp(1) - math.log(len(grid))
        elbo = vae.elbo(x, num_samples=4000).value
    assert (elbo < evidence).all()
    assert (elbo > evidence - 20).all()


def test_scale_is_shared_where_the_holonomy_mixes_coordinates():
    scale = random_vae(SPACES["Z/3"]).encode(torch.rand(3, 3, 3)).scale
    torch.testing.assert_close(scale[:, 0], scale[:, 1])
    assert not torch.allclose(scale[:, 0], scale[:, 2])
    with pytest.raises(ValueError, match="reflections"):
        random_vae(SPACES["Z/3"], scale="full")


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="likelihood"):
        random_vae(likelihood="poisson")
    with pytest.raises(ValueError, match="x: expected shape"):
        random_vae().elbo(torch.rand(5, 4, 4))
    with pytest.raises(ValueError, match="epochs"):
        fit(random_vae(), torch.rand(50, 3, 3), epochs=0)


def test_graph_eigenvectors_of_a_circle_are_its_harmonics():
    angle = 2 * math.pi * torch.arange(400).double() / 400
    psi = graph_eigenvectors(torch.stack([angle.cos(), angle.sin()], 1), 2)
    wave = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1)
    overlap = psi.T @ wave / 400
    torch.testing.assert_close(overlap @ overlap.T, torch.eye(2).double(), atol=1e-3, rtol=0)


def test_warm_start_finds_the_klein_bottle():
    """On Klein kernels, whose metric is far from flat: distances of latents follow the true ones."""
    kernels, points = sample_klein_kernels(1000)
    start = warm_start(kernels, K, landmarks=1000)
    assert start.residual < 0.06
    some, truth = start.latents[:300], points[start.rows[:300]]
    found = K.distance(some[:, None], some[None]).flatten()
    true = K.distance(truth[:, None], truth[None]).flatten()
    assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.9


def test_a_wrong_space_leaves_a_large_residual():
    """Points of a square do not fit the circle, points of a circle do: the residual says so."""
    square = graph_eigenvectors(torch.rand(600, 2), 2).float()
    angle = 2 * math.pi * torch.arange(600) / 600
    circle = graph_eigenvectors(torch.stack([angle.cos(), angle.sin()], 1), 2).float()
    assert fit_covering(square, tp.Circle(), rounds=2)[1] > 0.06
    assert fit_covering(circle, tp.Circle(), rounds=2)[1] < 0.02


def test_training_restores_the_best_state_and_improves():
    kernels, _ = sample_klein_kernels(1200)
    vae = tp.CoveringVAE(K, (3, 3), encoder_hidden=(64,), decoder_hidden=(), likelihood="gaussian")
    before = negative_elbo(vae, kernels[:200])
    history = fit(
        vae, kernels[200:], validation=kernels[:200], epochs=8, learning_rate=3e-3, progress=False
    )
    after = negative_elbo(vae, kernels[:200])
    assert len(history.train) == len(history.validation) == 8
    assert after < before - 10
    assert after < min(history.validation) + 1


def test_distilled_decoder_reproduces_a_network():
    """A small MLP on harmonics, distilled: the residual falls with the number of harmonics."""
    vae = random_vae(num_harmonics=8)
    z = K.sample_uniform(torch.Size([500]), torch.float32, torch.device("cpu"))
    errors = []
    for num in (10, 40, 160):
        prior = tp.DecoderPrior.from_decoder(vae.decode, K, (3, 3), num_harmonics=num, tolerance=0.0)
        with torch.no_grad():
            target, found = vae.decode(z), prior.decode(z)
            found = found * (target * found).sum() / found.square().sum()
            errors.append(((found - target).norm() / target.norm()).item())
    assert errors[0] > errors[2]
    assert errors[2] < 1e-3


def test_analytic_kernels():
    points = torch.rand(50, 2, dtype=torch.float64)
    other = torch.stack([points[:, 0] + 1, -points[:, 1]], 1)
    torch.testing.assert_close(klein_kernels(points, 5), klein_kernels(other, 5))
    line = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    energy = klein_kernels(torch.cartesian_prod(line, line)).square().sum((1, 2)).mean()
    assert energy.item() == pytest.approx(1)
    # theta1 = 0: t = x; theta2 = 0: 2 t^2 - 1 = (1, -1, 1) along every row
    ridge = klein_kernels(torch.zeros(2))
    torch.testing.assert_close(ridge / ridge[0, 0], torch.tensor([[1.0, -1.0, 1.0]] * 3))
    with pytest.raises(ValueError, match="size"):
        klein_kernels(points, 1)
