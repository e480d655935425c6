"""Decoders: their interface, one of one's own, families of kernel sizes, states of another decoder."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import topoprior as tp
from topoprior.kernels.nearest import Decodes
from topoprior.priors import (
    DecoderPosterior,
    DeltaPosterior,
    KernelDecoder,
    PriorFamily,
    Uniform,
    prior_names,
    register_decoder,
)
from topoprior.priors.decoded import checkpoints
from topoprior.priors.decoded.decoder import Scales
from topoprior.priors.registry import _FORMATS, load_prior
from topoprior.utils.files import CheckpointError

NAMES = ["klein-3x3", "torus-3x3", "circle-3x3", "klein-natural-3x3", "euclidean-3x3"]


class Edge(KernelDecoder):
    """(cos 2 pi z, sin 2 pi z) sqrt(c_1), and a constant that c_2 holds: written without harmonics."""

    format = "tests.Edge/1"
    search: Decodes

    def __init__(self, level: float) -> None:
        self.space, self.kernel_size, self.level = tp.Circle(), (3,), level
        self.law, self.lengths, self.search = Uniform(self.space), [1.0], self
        self.extent = math.inf

    def __call__(self, z):
        angle, size = 2 * math.pi * z[..., 0], math.sqrt(1 - self.level**2)
        return torch.stack([size * angle.cos(), size * angle.sin(), torch.full_like(angle, self.level)], -1)

    def mean(self, loc, scale):
        decay = (-0.5 * (2 * math.pi * scale).square()).exp()
        kernel = self(loc)
        return torch.cat([kernel[..., :2] * decay, kernel[..., 2:]], -1)

    def latent_kl(self, loc, log_scale):
        exact = tp.WrappedNormal(self.space, loc, log_scale.exp())
        return kl_divergence(exact, tp.UniformOn(self.space))

    def linearize(self, x, basis):
        kernel = self(x.T)
        turned = torch.stack([-kernel[:, 1], kernel[:, 0], 0 * kernel[:, 2]], -1) * 2 * math.pi
        return (kernel @ basis).T, (turned @ basis).T[None]

    def cells(self):
        return torch.arange(12, dtype=torch.float64)[:, None] / 12, torch.tensor(
            [1 / 12], dtype=torch.float64
        )

    def apart(self, x):
        angle = 2 * math.pi * x
        return torch.cat([angle.cos(), angle.sin()], -1)

    def to_config(self):
        return {"level": self.level}

    def tensors(self):
        return {"none": torch.zeros(1)}

    @classmethod
    def from_checkpoint(cls, config, tensors):
        return cls(config["level"])


@pytest.mark.parametrize("name", NAMES)
def test_the_interface_agrees_with_itself(name):
    """What a layer computes its own way is what the plain formula says: weights, means, KLs."""
    decoder = tp.get_prior(name).decoder
    dim, scales = decoder.space.dim, (0.7, 0.2)
    known = decoder.known(scales)
    loc, alpha, beta = (torch.randn(*s, dtype=torch.float64) for s in ((20, dim), (20,), (20,)))
    scale = 0.1 * torch.rand(20, dim, dtype=torch.float64)
    weights = decoder.installed(loc).weights(loc, alpha, beta, known)
    expected = 0.7 * alpha[:, None] * decoder(loc) + 0.2 * beta[:, None]
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
    mean = decoder.installed(loc).mean_weights(loc, scale, alpha, beta, known)
    expected = 0.7 * alpha[:, None] * decoder.mean(loc, scale) + 0.2 * beta[:, None]
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-6)
    log_scale = torch.cat([scale.log(), torch.randn(20, 2, dtype=torch.float64)], -1)
    x = torch.cat([loc, torch.stack([alpha, beta], -1)], -1)
    amplitudes = torch.distributions.Normal(x[:, dim:], log_scale[:, dim:].exp())
    unit = torch.distributions.Normal(torch.zeros_like(alpha[0]), 1.0)
    plain = decoder.latent_kl(loc, log_scale[:, :dim]).sum()
    plain = plain + torch.distributions.kl_divergence(amplitudes, unit).sum()
    axes = (x.T, log_scale.T) if decoder.rows else (x, log_scale)
    torch.testing.assert_close(decoder.kl(*(t.contiguous() for t in axes)), plain)


def test_a_decoder_of_ones_own_is_a_prior():
    prior = tp.DecoderPrior(Edge(0.3), residual_fraction=0.1)
    posterior = prior.posterior((5, 4, 3), dtype=torch.float64)
    assert posterior.loc.shape == (5, 4, 3)
    assert prior.sample((5, 4, 3)).shape == posterior.rsample((2,)).shape[1:] == (5, 4, 3)
    amplitudes = kl_divergence(
        Normal(posterior.loc[..., 1:], posterior.log_scale[..., 1:].exp()), Normal(0.0, 1.0)
    )
    latents = posterior.decoder.latent_kl(posterior.loc[..., :1], posterior.log_scale[..., :1])
    expected = latents.sum() + amplitudes.sum() + posterior.residual.kl()
    torch.testing.assert_close(posterior.kl(), expected)
    plain = tp.DecoderPrior(Edge(0.3))
    weight = plain.sample((50, 4, 3)).double()
    assert plain.posterior(weight.shape, dtype=torch.float64).project_(weight) < 1e-3
    assert DeltaPosterior(plain, weight.shape, dtype=torch.float64).project_(weight) < 1e-3
    assert tp.FixedKernels(plain).posterior((5, 4, 3)).mean().shape == (5, 4, 3)
    layer = tp.BayesConv1d(4, 5, 3, prior=plain)
    (layer(torch.randn(2, 4, 9)).square().sum() + layer.kl()).backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_checkpoints_of_a_decoder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_DECODERS", dict(checkpoints._DECODERS))
    prior = tp.DecoderPrior(Edge(0.3), gain=1.0)
    prior.save_pretrained(tmp_path)
    for load in (load_prior, tp.get_prior, tp.DecoderPrior.from_pretrained):
        with pytest.raises(CheckpointError, match="format .* found 'tests.Edge/1'"):
            load(tmp_path)
    register_decoder(Edge, tp.DecoderPrior)
    try:
        again = tp.get_prior(tmp_path)
    finally:
        del _FORMATS["tests.Edge/1"]
    assert isinstance(again.decoder, Edge)
    assert (again.decoder.level, again.gain) == (0.3, 1.0)
    with pytest.raises(CheckpointError, match="EuclideanDecoderPrior/1"):
        tp.EuclideanDecoderPrior.from_pretrained(tmp_path)


def test_a_posterior_needs_no_prior():
    decoder = tp.get_prior("torus-3x3").decoder
    posterior = DecoderPosterior(decoder, Scales(0.5, 0.1, 0.0), (4, 3, 3, 3))
    assert posterior().shape == (4, 3, 3, 3)
    assert posterior.prior is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((tp.get_prior("klein-3x3").decoder, torch.zeros(5, 9)), "expected none beside a decoder"),
        ((tp.get_prior("klein-3x3").harmonics,), "expected both with harmonics"),
    ],
)
def test_a_decoder_or_its_parts(arguments, message):
    with pytest.raises(TypeError, match=message):
        tp.DecoderPrior(*arguments)


# --- states of another decoder --------------------------------------------------------------------


def other_network(weights):
    torch.manual_seed(weights)
    vae = tp.CoveringVAE(
        tp.Euclidean(2), (3, 3), encoder_hidden=(4,), decoder_hidden=(32, 32), likelihood="gaussian"
    )
    return tp.EuclideanDecoderPrior.from_vae(vae)


ALIKE = {
    **{
        name: tp.get_prior(name)
        for name in ("euclidean-3x3", "klein-3x3", "torus-3x3", "klein-natural-3x3")
    },
    "another network": other_network(0),
}


@pytest.mark.parametrize("make", [lambda p: p, tp.FixedKernels], ids=["decoder", "fixed"])
@pytest.mark.parametrize("family", ["mean-field", "delta"])
def test_states_of_another_decoder_are_refused(family, make):
    def posterior(prior):
        return (DeltaPosterior if family == "delta" else type(prior).posterior)(prior, (4, 3, 3, 3))

    priors = [make(prior) for prior in ALIKE.values()]
    for ours, theirs in itertools.permutations(priors, 2):
        with pytest.raises(RuntimeError, match="another prior|Missing key|size mismatch|Unexpected key"):
            posterior(ours).load_state_dict(posterior(theirs).state_dict())
    for prior in priors:
        posterior(prior).load_state_dict(posterior(prior).bfloat16().state_dict())


def test_states_of_fixed_kernels_from_before_they_held_the_decoder():
    prior = tp.FixedKernels("klein-3x3")
    state = DeltaPosterior(prior, (4, 3, 3, 3)).state_dict()
    del state["coordinates.coefficients"]
    DeltaPosterior(prior, (4, 3, 3, 3)).load_state_dict(state)


# --- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 5, 7])
def test_klein_is_the_klein_prior_of_the_kernel_size(size):
    layer = tp.BayesConv2d(3, 4, size, prior="klein")
    assert layer.prior.name == f"klein-{size}x{size}"
    assert layer.prior_name == "klein"
    assert layer(torch.randn(1, 3, 9, 9)).shape[:2] == (1, 4)
    delta = tp.BayesConv2d(3, 4, size, prior="klein", posterior="delta")
    assert set(dict(delta.weight_posterior.named_parameters())) == {"z", "alpha", "beta"}
    state = tp.BayesConv2d(3, 4, size, prior=f"klein-{size}x{size}").state_dict()
    layer.load_state_dict(state)


def test_a_network_of_three_kernel_sizes_becomes_bayesian():
    net = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, size) for size in (3, 5, 7, 1)))
    found = tp.to_bayesian(net, prior="klein")
    names = [getattr(layer.prior, "name", None) for layer in found]
    assert names[:3] == ["klein-3x3", "klein-5x5", "klein-7x7"]
    depthwise = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, groups=3), torch.nn.Conv2d(3, 3, 3))
    first, second = tp.to_bayesian(depthwise, prior="klein")
    twin = tp.to_bayesian(depthwise, prior="klein-3x3")
    assert type(first) is type(twin[0])
    assert second.prior.name == "klein-3x3"


def test_families_say_what_they_do_not_serve():
    family = tp.get_prior("klein")
    assert "klein" in prior_names()
    assert repr(family) == "PriorFamily(klein-3x3, klein-5x5, klein-7x7)"
    for shape in ((4, 3, 9, 9), (4, 3)):
        with pytest.raises(ValueError, match="kernel_size: none of .* priors that fit: "):
            family.posterior(shape)
    with pytest.raises(ValueError, match="expected one or more"):
        PriorFamily()
