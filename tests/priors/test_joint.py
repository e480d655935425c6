"""Draws of many posteriors as one: what each of them draws alone, for the same noise."""

import math

import pytest
import torch
from scipy import stats

import topoprior as tp
from topoprior.priors import joint
from topoprior.priors.decoded.posterior import DecoderPosterior
from topoprior.priors.joint import rsample_all
from topoprior.priors.mean_field.posterior import MeanFieldPosterior

SHAPES = [(4, 3, 3, 3), (2, 4, 3, 3), (5, 2, 3, 3)]
PRIORS = [
    "klein-3x3",
    "klein-natural-3x3",
    "torus-3x3",
    "circle-3x3",
    "gaussian",
    "laplace",
]


def posteriors_of(prior, dtype=torch.float64):
    """Wide ones of several shapes, as one network has them."""
    found = [tp.get_prior(prior).posterior(shape, dtype=dtype) for shape in SHAPES]
    for posterior in found:
        for log_scale in (p for name, p in posterior.named_parameters() if name.endswith("log_scale")):
            log_scale.data.uniform_(-2, 0)
    return found


def alone(posterior, noise):
    """The plain formula at loc + scale * noise."""
    x = posterior.loc + posterior.log_scale.exp() * noise
    if isinstance(posterior, MeanFieldPosterior):
        return x
    z, alpha, beta = posterior._coordinates(x)
    return posterior.decoder.weights(z, alpha, beta, posterior.known).unflatten(-1, posterior.shape[2:])


@pytest.mark.parametrize("prior", PRIORS)
def test_values_and_gradients_are_those_of_each_alone(prior):
    posteriors = posteriors_of(prior)
    dims = int(isinstance(posteriors[0], DecoderPosterior))
    torch.manual_seed(3)
    found = rsample_all(posteriors)
    torch.manual_seed(3)
    joined = joint.joined([p.loc.detach() for p in posteriors], dims)
    noises = torch.randn_like(joined.unsqueeze(1) if dims else joined).squeeze(dims)
    expected = [
        alone(p, noise.reshape(p.loc.shape))
        for p, noise in zip(posteriors, noises.split([p.loc[0].numel() if dims else p.loc.numel() for p in posteriors], dims), strict=True)
    ]  # fmt: skip
    of_weights = [torch.randn_like(w) for w in expected]
    for posterior, one, other, grad in zip(posteriors, found, expected, of_weights, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)
        parameters = posterior.loc, posterior.log_scale
        slopes = [torch.autograd.grad(w, parameters, grad, retain_graph=True) for w in (one, other)]
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


def test_numerical_gradients():
    posteriors = posteriors_of("klein-3x3")
    inputs = [p for posterior in posteriors for p in (posterior.loc, posterior.log_scale)]

    def draw(*_):
        torch.manual_seed(0)
        return tuple(rsample_all(posteriors))

    assert torch.autograd.gradcheck(draw, inputs)
    assert torch.autograd.gradgradcheck(draw, inputs)


@pytest.mark.parametrize("most", [1, 250, 10**6])
def test_groups(most, monkeypatch):
    monkeypatch.setattr(joint, "MOST", most)
    shapes = [*SHAPES, (3, 3, 5, 5), *SHAPES]
    posteriors = []
    for shape in shapes:
        posteriors.append(tp.get_prior("gaussian" if shape[2] == 5 else "klein-3x3").posterior(shape))
        posteriors.append(tp.get_prior("gaussian").posterior(shape[:1]))
    groups = joint._groups(posteriors)
    assert sorted(sum(groups, [])) == list(range(len(posteriors)))
    assert all(group == sorted(group) for group in groups)
    for group in groups:
        some = [posteriors[i] for i in group]
        assert len({p.joint_key() for p in some}) == 1
        assert len(group) == 1 or sum(p.loc.numel() for p in some) <= most
    assert len(groups) == (2 if most == 10**6 else len(posteriors)) or most == 250
    assert [w.shape for w in rsample_all(posteriors)] == [p.shape for p in posteriors]


class Doubled(DecoderPosterior):
    def rsample(self, *arguments, **options):
        return 2 * super().rsample(*arguments, **options)


def test_a_draw_of_ones_own_counts():
    posteriors = posteriors_of("klein-3x3")
    for posterior in posteriors:
        posterior.log_scale.data.fill_(-30)
    posteriors[1].__class__ = Doubled
    factors = [
        (w / p.mean()).mean().item() for w, p in zip(rsample_all(posteriors), posteriors, strict=True)
    ]
    assert factors == pytest.approx([1, 2, 1], rel=1e-5)


def test_what_is_more_than_a_draw_of_rows_is_drawn_alone():
    residual = tp.DecoderPrior.from_pretrained("klein-3x3", residual_fraction=0.1)
    learned = tp.DecoderPrior.from_pretrained("klein-3x3", empirical_bayes=True)
    compiled = tp.get_prior("klein-3x3").posterior(SHAPES[0])
    compiled.compile_()
    network = tp.get_prior("euclidean-3x3")  # no products of waves
    ones = [
        residual.posterior(SHAPES[0]),
        learned.posterior(SHAPES[0]),
        compiled,
        network.posterior(SHAPES[0]),
    ]
    assert all(p.joint_key() is None for p in ones)
    assert [w.shape for w in rsample_all(ones * 2)] == [torch.Size(SHAPES[0])] * 8


def test_layers_are_drawn_independently():
    """Correlation of two equal layers' noise over 20,000 weights: a standard normal number, false alarms 1 in 10^6."""
    net = torch.nn.Sequential(*[tp.BayesLinear(100, 200) for _ in range(2)])
    with tp.frozen_sample(net):
        noises = [
            (layer.drawn[0][0] - p.loc) / p.log_scale.exp()
            for layer in net
            if (p := layer.weight_posterior)
        ]
    r = torch.corrcoef(torch.stack([n.detach().flatten() for n in noises]))[0, 1].item()
    assert abs(r) * math.sqrt(20_000) < stats.norm.isf(5e-7)


def test_a_step_of_training_in_the_context():
    """All parameters get the gradient of the draw that was used, and two steps are two draws."""
    net = torch.nn.Sequential(
        tp.BayesConv2d(1, 4, 3), tp.BayesConv2d(4, 4, 3, prior="gaussian"), tp.BayesConv2d(4, 4, 3),
        torch.nn.Flatten(), tp.BayesLinear(16, 3),
    )  # fmt: skip
    x, y = torch.randn(5, 1, 8, 8), torch.randint(3, (5,))
    losses = []
    for _ in range(2):
        with tp.frozen_sample(net):
            losses.append(tp.elbo_loss(net(x), y, net, num_data=100))
        losses[-1].backward()
    assert losses[0] != losses[1]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())
