"""Numbers are real and have 16 bits or more, everywhere: other dtypes are refused by name, before anything changes."""

import json

import pytest
import safetensors.torch
import torch

import topoprior as tp
from topoprior.priors import DeltaPosterior, prior_names
from topoprior.priors.coordinates import Part, Uniform
from topoprior.spaces import Harmonics
from topoprior.utils.files import CheckpointError

REFUSED = [torch.complex64, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
SHAPE = {"klein-5x5": (4, 3, 5, 5), "klein-7x7": (4, 3, 7, 7)}
K = tp.KleinBottle()


@pytest.mark.parametrize("dtype", REFUSED, ids=str)
def test_what_is_made_with_a_dtype(dtype):
    makers = [lambda name=name: tp.get_prior(name).posterior(SHAPE.get(name, (4, 3, 3, 3)), dtype=dtype) for name in prior_names()]  # fmt: skip
    makers += [
        lambda: DeltaPosterior(tp.get_prior("klein-3x3"), (4, 3, 3, 3), dtype=dtype),
        lambda: tp.get_prior("klein-3x3").coordinates((4, 3, 3, 3), dtype=dtype),
        lambda: tp.Gaussian(1.0).coordinates((4, 3), dtype=dtype),
        lambda: K.sample_uniform(torch.Size([2]), dtype, None),
        lambda: tp.Sphere(2).sample_uniform(torch.Size([2]), dtype, None),
        lambda: tp.Product(K, tp.Sphere(2)).sample_uniform(torch.Size([2]), dtype, None),
        lambda: tp.inference.sample_density(
            lambda x: K.embed(x["z"])[0], {"z": Part(torch.Size([2]), Uniform(K))}, dtype=dtype, num_samples=1, warmup=1
        ),
    ]  # fmt: skip
    for make in makers:
        with pytest.raises(TypeError, match=f"dtype: expected dtype float16.*found {dtype}"):
            make()


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_what_is_moved_to_a_dtype(dtype):
    modules = [tp.CoveringVAE(K, (3, 3)), tp.get_prior("laplace").posterior((4, 3)), tp.get_prior("klein-3x3").posterior((4, 3, 3, 3))]  # fmt: skip
    for module in modules:
        before = {name: p.clone() for name, p in module.named_parameters()}
        with pytest.raises(TypeError, match=f"expected dtype float16.*{dtype}"):
            module.to(dtype)
        assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
        assert next(module.double().parameters()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_points_kernels_and_data(dtype):
    points, kernels = torch.zeros(3, 2).to(dtype), torch.ones(4, 3, 3, 3).to(dtype)
    vae, prior = tp.CoveringVAE(K, (3, 3)), tp.get_prior("klein-3x3")
    calls = [
        lambda: K.embed(points),
        lambda: K.wrap(points),
        lambda: K.distance(points, points),
        lambda: K.retract(torch.zeros(3, K.num_features).to(dtype)),
        lambda: tp.UniformOn(K).log_prob(points),
        lambda: tp.WrappedNormal(K, torch.zeros(2), 0.2).log_prob(points),
        lambda: prior.decode(points),
        lambda: prior.posterior((4, 3, 3, 3)).project_(kernels),
        lambda: vae.elbo(kernels[:, 0]),
        lambda: vae.decode(points),
        lambda: tp.identify_covering(torch.zeros(100, 5).to(dtype)),
        lambda: tp.DecoderPrior(prior.harmonics, prior.coefficients.to(dtype), (3, 3)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=f"expected .*(real|floating-point) numbers, found .*{dtype}"):
            call()


def test_integers_are_points():
    torch.testing.assert_close(K.wrap(torch.tensor([2, -4])), torch.zeros(2))
    half = tp.Torus(2).wrap(torch.tensor([[7, 1]], dtype=torch.uint8))
    assert half.dtype == torch.float32


def test_complex_numbers_in_a_checkpoint(tmp_path):
    """In the format of today, and in that from before digests, both by a file that is whole."""
    prior = tp.get_prior("klein-3x3")
    prior.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sha256"]
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (name,) = (name for name, value in tensors.items() if value.shape == prior.coefficients.shape)
    for dtype in (torch.complex64, torch.int64, torch.bool):
        wrong = {**tensors, name: tensors[name].to(dtype)}
        safetensors.torch.save_file(wrong, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=f"model.safetensors: .*{name}"):
            tp.get_prior(tmp_path)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    torch.testing.assert_close(tp.get_prior(tmp_path).coefficients, prior.coefficients)
    harmonics = Harmonics(K, 5)
    with pytest.raises(TypeError, match="coefficients: expected a torch.Tensor of real numbers"):
        tp.DecoderPrior(harmonics, torch.ones(5, 9, dtype=torch.complex128), (3, 3))
