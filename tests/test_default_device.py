"""Public functions under another default device or dtype: what they give is where, and what, their arguments are."""

from contextlib import contextmanager

import pytest
import torch

import topoprior as tp
from topoprior.kernels import describe_kernels, extract_patches
from topoprior.kernels.klein import klein_energy, klein_kernels, nearest_klein
from topoprior.topology import certify, identify_covering, trustworthiness, warm_start
from topoprior.vae.training import fit

K, CIRCLE = tp.KleinBottle(), tp.Circle()
SIZES = {"klein-3x3": (3, 2, 3, 3), "euclidean-3x3": (2, 2, 3, 3), "klein-fixed": (2, 2, 3, 3)}


@pytest.fixture
def given():
    """Data, made before any default changes."""
    z = torch.rand(60, 2)
    x = CIRCLE.embed(torch.rand(200, 1))
    net = torch.nn.Sequential(tp.BayesConv2d(2, 3, 3), torch.nn.Flatten(), tp.BayesLinear(27, 3))
    vae = tp.CoveringVAE(CIRCLE, (2,), likelihood="gaussian", encoder_hidden=(4,), decoder_hidden=())
    return {
        "z": z, "kernels": klein_kernels(torch.rand(150, 2)), "x": x, "net": net, "vae": vae,
        "images": torch.rand(4, 2, 5, 5), "labels": torch.tensor([0, 1, 2, 0]), "photo": torch.rand(20, 20),
        "weights": {name: torch.randn(shape) for name, shape in SIZES.items()},
        "posteriors": {name: tp.get_prior(name).posterior(shape) for name, shape in SIZES.items()},
        "plain": torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3)),
        "one": torch.tensor([0.3]),
        "q": tp.WrappedNormal(K, torch.rand(2), torch.rand(2)),
        "full": tp.WrappedNormal(K, torch.rand(2), scale_tril=torch.tensor([[0.3, 0.0], [0.1, 0.2]])),
    }  # fmt: skip


def _fitted(g):
    fit(g["vae"], g["x"], epochs=1, progress=False)
    return g["vae"].latents(g["x"])


CALLS = {
    "decode": lambda g: tp.get_prior("klein-3x3").decode(g["z"]),
    "klein kernels": lambda g: klein_kernels(g["z"]),
    "nearest klein": lambda g: nearest_klein(g["kernels"])[0],
    "klein energy": lambda g: klein_energy(g["kernels"]),
    "describe": lambda g: g["one"].new_tensor(describe_kernels(g["kernels"])["klein_energy"]),
    "patches": lambda g: extract_patches(g["photo"], 3, 10),
    "distance": lambda g: K.distance(g["z"], g["z"].flip(0)),
    "lifts": lambda g: K.lifts(g["z"], 1.0),
    "retract": lambda g: K.retract(K.embed(g["z"])),
    "density": lambda g: g["q"].log_prob(g["z"]),
    "density, full": lambda g: g["full"].log_prob(g["z"]),
    "exact kl": lambda g: torch.distributions.kl_divergence(g["q"], tp.UniformOn(K)),
    "cover kl": lambda g: tp.cover_kl(g["full"], tp.UniformOn(K)),
    "entropy": lambda g: g["q"].entropy(),
    "draws": lambda g: g["full"].rsample((3,)),
    "kappa": lambda g: tp.kappa(g["z"]),
    "forward": lambda g: g["net"](g["images"]),
    "predict": lambda g: tp.predict(g["net"], g["images"], 4, antithetic=True),
    "loss": lambda g: tp.elbo_loss(g["net"](g["images"]), g["labels"], g["net"], 100),
    **{
        f"project, {name}": lambda g, name=name: g["posteriors"][name].project_(g["weights"][name])
        for name in SIZES
        if name != "klein-fixed"
    },
    "conversion": lambda g: tp.to_bayesian(g["plain"], init="pretrained")[0].kl(),
    "warm start": lambda g: warm_start(g["x"], CIRCLE, rounds=2).latents,
    "certificate": lambda g: g["one"].new_tensor(float(certify(g["x"], g["x"][:, :1], CIRCLE).onto)),
    "of a vae": lambda g: g["one"].new_tensor(float(g["vae"].certify(g["x"]).onto)),
}
# What draws from the process's generator in double precision draws other numbers than in single.
DRAWS = ("draws", "forward", "predict", "loss", "warm start", "conversion", "patches", "describe")


@contextmanager
def double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CALLS)
def test_the_default_device_does_not_matter(name, given):
    torch.manual_seed(1)
    expected = CALLS[name](given)
    torch.manual_seed(1)
    with torch.device("meta"):
        found = CALLS[name](given)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", CALLS)
def test_the_default_dtype_does_not_matter(name, given):
    torch.manual_seed(1)
    with double():
        found = CALLS[name](given)
    assert found.isfinite().all()
    if name not in DRAWS:
        # Laws that are given no dtype, such as the uniform one, take the default.
        torch.testing.assert_close(found.float(), CALLS[name](given).float())


@pytest.mark.parametrize("context", [lambda: torch.device("meta"), double], ids=["device", "dtype"])
def test_trainings_under_other_defaults(context, given):
    with context():
        assert _fitted(given).isfinite().all()
        prior, _ = tp.priors.train_prior(
            given["kernels"], tp.Euclidean(2), epochs=1, device="cpu", progress=False
        )
    assert prior.decode(given["z"]).isfinite().all()


def test_identified_under_other_defaults(given):
    candidates = {"circle": CIRCLE}
    torch.manual_seed(0)
    expected = identify_covering(given["x"], candidates)
    with torch.device("meta"), double():
        torch.manual_seed(0)
        found = identify_covering(given["x"], candidates)
    assert str(found)[:20] == str(expected)[:20]


def test_scores(given):
    distances = torch.cdist(given["x"], given["x"])
    with torch.device("meta"):
        assert trustworthiness(distances, distances) == 1


@pytest.mark.parametrize("name", ["klein-3x3", "klein-5x5", "euclidean-3x3", "klein-fixed", "gaussian"])
def test_weights_of_every_prior_are_drawn_under_other_defaults(name):
    prior = tp.get_prior(name)
    shape = (2, 3, 5, 5) if name == "klein-5x5" else (2, 3, 3, 3)
    with torch.device("meta"):
        assert prior.sample(shape).device.type == "meta"
        covariance = prior.kernel_covariance(shape)
    torch.testing.assert_close(covariance, prior.kernel_covariance(shape))


@pytest.mark.parametrize("make", [tp.moment_matched, tp.linear_decoder])
def test_controls_under_other_defaults(make):
    expected = make("klein-3x3").kernel_covariance((2, 3, 3, 3))
    with torch.device("meta"):
        control = make("klein-3x3")
        assert control.sample((2, 3, 3, 3)).device.type == "meta"
        torch.testing.assert_close(control.kernel_covariance((2, 3, 3, 3)), expected)
        layer = tp.BayesConv2d(3, 2, 3, prior=control)
        assert layer(torch.empty(1, 3, 5, 5)).shape == (1, 2, 3, 3)
    torch.manual_seed(0)
    single = control.sample((2, 3, 3, 3))
    with double():
        torch.manual_seed(0)
        assert control.sample((2, 3, 3, 3)).dtype == torch.float64
    assert single.dtype == torch.float32
