"""CoveringVAE: continuous across seams, a true ELBO, the right homotopy class, a reusable decoder."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

import topoprior as tp
from tests.vae.cases import small_training
from topoprior.kernels.klein import klein_kernels, sample_klein_kernels
from topoprior.vae.training import fit, negative_elbo

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
    "moebius": tp.MoebiusBand(),
    "cylinder": tp.Cylinder(),
    "Z/3": flat_z3(),
    "sphere": tp.Sphere(2),
    "projective plane": tp.RealProjectiveSpace(2),
    "rotations": tp.RotationGroup(),
    "lens space": tp.LensSpace(3, 1),
}
COMPACT = {name: space for name, space in SPACES.items() if math.isfinite(space.volume)}


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


@pytest.mark.parametrize("space", COMPACT.values(), ids=COMPACT)
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
    twists = vae.posterior.outputs - 2
    raw = torch.cat([torch.zeros(4001, 2), torch.full((4001, twists), 0.7)], 1).double()
    outputs = (features, raw)
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


@pytest.mark.parametrize("name", ["klein", "sphere", "projective plane"])
def test_elbo_is_below_the_evidence(name):
    """log p(x) by quadrature (a grid of 40,000 points, or as many random ones) above the mean of 4,000 draws."""
    space = SPACES[name]
    vae = random_vae(space, likelihood="gaussian", init_noise=0.5, init_scale=0.1)
    x = torch.rand(4, 3, 3)
    line = (torch.arange(200) + 0.5) / 200
    grid = torch.cartesian_prod(line, line)
    if name != "klein":
        grid = space.sample_uniform(torch.Size([len(grid)]), torch.float32, torch.device("cpu"))
    with torch.no_grad():
        evidence = vae.log_likelihood(x.unsqueeze(1), grid).logsumexp(1) - math.log(len(grid))
        elbo = vae.elbo(x, num_samples=4000).value
    assert (elbo < evidence).all()
    assert (elbo > evidence - 20).all()


def test_the_likelihood_under_transformations():
    """Where values cannot be read, in vmap and compilation, they are not checked."""
    vae = tp.CoveringVAE(tp.KleinBottle(), (2, 2), encoder_hidden=(4,), decoder_hidden=(4,))
    x, z = torch.rand(3, 2, 2), torch.rand(3, 2)
    expected = vae.log_likelihood(x, z)
    torch.testing.assert_close(torch.func.vmap(vae.log_likelihood)(x, z), expected)
    compiled = torch.compile(vae.log_likelihood, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, z), expected)
    with pytest.raises(ValueError, match="x: expected values in"):
        vae.log_likelihood(x + 1, z)


def test_kl_with_open_directions():
    """On the cylinder, a product: against the exact KL of the parts. On the band, not below it."""
    scale = torch.tensor([0.2, 0.7])
    vae = random_vae(tp.Cylinder(), prior_scale=0.5)
    q = tp.WrappedNormal(tp.Cylinder(), torch.tensor([0.3, -0.4]), scale)
    expected = tp.kappa(scale[0]) + kl_divergence(Normal(-0.4, 0.7), Normal(0.0, 0.5))
    torch.testing.assert_close(vae.posterior.kl(q, scale), expected)
    draws = q.sample((200_000,))
    # False alarms: 4 standard errors.
    samples = q.log_prob(draws) - vae.prior.log_prob(draws)
    assert abs(samples.mean() - expected) < 4 * samples.std() / len(draws) ** 0.5
    vae = random_vae(tp.MoebiusBand(), prior_scale=0.5)
    q = tp.WrappedNormal(tp.MoebiusBand(), torch.tensor([0.3, -0.4]), scale)
    draws = q.sample((200_000,))
    exact = (q.log_prob(draws) - vae.prior.log_prob(draws)).mean()
    bound = vae.posterior.kl(q, scale)
    assert -0.01 < bound - exact < math.log(2) + 0.01


def test_scale_is_shared_where_the_holonomy_mixes_coordinates():
    scale = random_vae(SPACES["Z/3"]).encode(torch.rand(3, 3, 3)).scale
    torch.testing.assert_close(scale[:, 0], scale[:, 1])
    assert not torch.allclose(scale[:, 0], scale[:, 2])
    with pytest.raises(ValueError, match="reflections"):
        random_vae(SPACES["Z/3"], scale="full")


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


def test_a_trained_encoder_is_certified():
    """And the history says so; one that was never trained, or trained on the wrong space, is not."""
    kernels, _ = sample_klein_kernels(2000)
    vae = tp.CoveringVAE(K, (3, 3), encoder_hidden=(64, 64), decoder_hidden=(), likelihood="gaussian")
    assert not vae.certify(kernels).certified
    history = fit(vae, kernels, epochs=4, learning_rate=3e-3, progress=False)
    assert history.fit["certified"], history.fit
    assert history.certified
    assert vae.certify(kernels).certified


def test_a_wrong_space_is_warned_of():
    x = tp.Circle().embed(torch.rand(400, 1))
    vae = tp.CoveringVAE(tp.Torus(2), (2,), encoder_hidden=(16,), decoder_hidden=(), likelihood="gaussian")
    with (
        pytest.warns(UserWarning, match="the warm start on Torus.* is not certified"),
        pytest.warns(UserWarning, match="the encoder's map to Torus.* is not certified"),
    ):
        history = fit(vae, x, epochs=1, progress=False)
    assert not history.certified
    assert history.fit["certified"] is False


def test_early_stopping():
    _, history = small_training(None, 30, patience=1, learning_rate=1e-9)
    assert len(history.validation) < 30
    assert history.validation[-1] >= min(history.validation)


def test_bfloat16_training_keeps_float32_parameters():
    vae, history = small_training(None, 4, precision=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in vae.parameters())
    assert vae.precision is None
    _, expected = small_training(None, 4)
    assert history.validation[-1] == pytest.approx(expected.validation[-1], rel=0.2)


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
