"""What an autoencoder and its training refuse: data and numbers out of range, by name."""

import math

import pytest
import torch

import topoprior as tp
from topoprior.vae.training import fit, negative_elbo

K = tp.KleinBottle()


def random_vae(**options):
    return tp.CoveringVAE(K, (3, 3), encoder_hidden=(16,), decoder_hidden=(16,), **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"likelihood": "poisson"}, ValueError, "likelihood: expected one of"),
        ({"encoder_hidden": (16, 0)}, ValueError, "encoder_hidden: expected at least 1, found 0"),
        ({"decoder_hidden": (1.5,)}, TypeError, "decoder_hidden: expected an int, found 1.5"),
        ({"num_harmonics": 0}, ValueError, "num_harmonics: expected at least 1"),
        ({"init_scale": 0.0}, ValueError, "init_scale: expected a positive number, found 0.0"),
        ({"init_noise": -1}, ValueError, "init_noise: expected a positive number, found -1"),
        ({"init_noise": math.nan}, ValueError, "init_noise: expected a positive number, found nan"),
        ({"prior_scale": "wide"}, TypeError, "prior_scale: expected a number, found 'wide'"),
    ],
)
def test_bad_options_of_a_vae_are_named(options, error, message):
    with pytest.raises(error, match=message):
        tp.CoveringVAE(K, (3, 3), **options)


DATA = torch.full((50, 3, 3), 0.5)


def with_value(value):
    x = DATA.clone()
    x[7, 1, 2] = value
    return x


BAD_DATA = [
    (with_value(math.nan), ValueError, "expected finite values"),
    (with_value(-math.inf), ValueError, "expected finite values"),
    (with_value(1.5), ValueError, r"expected values in \[0, 1\] .* found 0.5 to 1.5"),
    (DATA[:0], ValueError, "expected at least one example"),
    (DATA.numpy(), TypeError, "expected a torch.Tensor, found ndarray"),
    (DATA.double(), TypeError, "expected torch.float32, .* found torch.float64"),
    (DATA.byte(), TypeError, "expected floating-point numbers, found torch.uint8"),
    (DATA[:, :2], ValueError, r"expected shape \(N, 3, 3\), found \(50, 2, 3\)"),
    (DATA[0], ValueError, r"expected shape \(N, 3, 3\), found \(3, 3\)"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_DATA)
def test_bad_data_are_named_wherever_they_come_in(x, error, message):
    with pytest.raises(error, match=f"x: {message}"):
        fit(random_vae(), x)
    with pytest.raises(error, match=f"validation: {message}"):
        fit(random_vae(), DATA, validation=x)
    with pytest.raises(error, match=f"x: {message}"):
        negative_elbo(random_vae(), x)


def test_the_likelihood_checks_values():
    vae, z = random_vae(), torch.zeros(50, 2)
    for x in (with_value(math.nan), with_value(1.5)):
        for call in (vae.elbo, lambda x: vae.log_likelihood(x, z)):
            with pytest.raises(ValueError, match="x: expected"):
                call(x)
    gaussian = random_vae(likelihood="gaussian")
    assert gaussian.log_likelihood(with_value(1.5), z).isfinite().all(), "any real number will do"
    with pytest.raises(ValueError, match="x: expected finite"):
        gaussian.elbo(with_value(math.inf))
    with pytest.raises(ValueError, match="x: expected shape"):
        vae.elbo(torch.rand(5, 4, 4))
    with pytest.raises(ValueError, match="num_samples: expected at least 1, found 0"):
        vae.elbo(DATA, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, found 0"),
        ({"epochs": 2.5}, TypeError, "epochs: expected an int, found 2.5"),
        ({"batch_size": True}, TypeError, "batch_size: expected an int"),
        ({"patience": 0}, ValueError, "patience: expected at least 1, found 0"),
        ({"coverage": -1.0}, ValueError, "coverage: expected a number, at least 0, found -1.0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate: expected a positive number"),
        ({"precision": "bfloat16"}, TypeError, "precision: expected a floating-point torch.dtype"),
        ({"precision": torch.int8}, TypeError, "precision: expected a floating-point torch.dtype"),
    ],
)
def test_bad_options_of_a_training_are_named(options, error, message):
    with pytest.raises(error, match=message):
        fit(random_vae(), DATA, **options)


def test_integers_count_as_real_numbers_and_lists_are_named():
    vae = tp.CoveringVAE(tp.KleinBottle(), (2,), encoder_hidden=(4,), decoder_hidden=())
    x, z = torch.tensor([[0, 1], [1, 1]]), torch.tensor([[0, 1], [1, 2]])
    assert torch.equal(vae.latents(x), vae.latents(x.float()))
    assert torch.equal(vae.decode(z), vae.decode(z.float()))
    assert torch.equal(vae.log_likelihood(x, z), vae.log_likelihood(x.float(), z.float()))
    torch.manual_seed(0)
    found = vae.elbo(x).value
    torch.manual_seed(0)
    assert torch.equal(found, vae.elbo(x.float()).value)
    for call in (vae.latents, vae.decode, vae.elbo, vae.encode):
        with pytest.raises(TypeError, match="expected a torch.Tensor of real numbers, found list"):
            call([[0.0, 1.0]])
