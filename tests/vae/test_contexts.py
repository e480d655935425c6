"""Autoencoders of every posterior family, made and used under another default device or dtype: as without."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import topoprior as tp

CASES = {
    "klein": lambda: (tp.KleinBottle(), "diagonal"),
    "klein, full": lambda: (tp.KleinBottle(), "full"),
    "torus, full": lambda: (tp.Torus(2), "full"),
    "plane": lambda: (tp.Euclidean(2), "diagonal"),
    "plane, full": lambda: (tp.Euclidean(2), "full"),
    "cylinder": lambda: (tp.Cylinder(), "diagonal"),
    "moebius": lambda: (tp.MoebiusBand(), "diagonal"),
    "hantzsche-wendt": lambda: (tp.HantzscheWendt(), "diagonal"),
    "sphere": lambda: (tp.Sphere(2), "diagonal"),
    "projective": lambda: (tp.RealProjectiveSpace(2), "diagonal"),
}


def make(name, likelihood="gaussian"):
    covering, scale = CASES[name]()
    return tp.CoveringVAE(
        covering,
        (4,),
        scale=scale,
        likelihood=likelihood,
        num_harmonics=8,
        encoder_hidden=(8,),
        decoder_hidden=(),
    )


def everything(vae, x):
    """What the parts give, from one state of the generator."""
    torch.manual_seed(3)
    elbo = vae.elbo(x, 2)
    return elbo.log_likelihood, elbo.kl, vae(x), vae.latents(x), vae.sample(3), vae.encode(x).sample()


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("under", [torch.device, default_device], ids=["with", "set_default_device"])
@pytest.mark.parametrize("name", CASES)
def test_made_without_values_and_filled_later(name, under):
    """On "meta" all has the right shape; with a state loaded, the same numbers as of a plain one."""
    plain, x = make(name), torch.rand(5, 4)
    with under("meta"):
        vae = make(name)
        found = everything(vae, torch.rand(5, 4))
    expected = everything(plain, x)
    assert all(part.is_meta for part in found)
    assert [part.shape for part in found] == [part.shape for part in expected]
    vae.to_empty(device="cpu").load_state_dict(plain.state_dict())
    for a, b in zip(everything(vae, x), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_what_is_used_under_another_default_device_follows_its_numbers(name):
    vae, x = make(name), torch.rand(5, 4)
    expected = everything(vae, x)
    with torch.device("meta"):
        found = everything(vae, x)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("name", CASES)
def test_a_default_of_float64(name, likelihood):
    """Made and used in double precision, used so when the default is another, the same numbers after a cast."""
    with default_dtype(torch.float64):
        vae, x = make(name, likelihood), torch.rand(5, 4)
        expected = everything(vae, x)
    assert all(part.dtype == torch.float64 for part in expected)
    for a, b in zip(everything(vae, x), expected, strict=True):
        assert torch.equal(a, b)
    vae.elbo(x).value.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())
    single = everything(vae.float(), x.float())
    assert all(part.dtype == torch.float32 for part in single)
    # Not the draws: those of single precision are others.
    torch.testing.assert_close(single[2], expected[2].float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_a_default_of_float64_and_a_model_of_float32(name):
    vae, x = make(name), torch.rand(5, 4)
    expected = everything(vae, x)
    with default_dtype(torch.float64):
        found = everything(vae, x)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
