"""Layers with delta posteriors: MAP training, conversion, states, copies, compilation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topoprior as tp
from topoprior.nn.base import BayesLayer

CONV_PRIORS = ["gaussian", "laplace", "correlated-gaussian"]


def network(prior: str = "gaussian") -> nn.Sequential:
    return nn.Sequential(
        tp.BayesConv2d(2, 4, 3, prior=prior, posterior="delta"),
        nn.ReLU(),
        nn.Flatten(),
        tp.BayesLinear(4 * 3 * 3, 3, posterior="delta"),
    )


def data(num: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(num, 2, 5, 5), torch.randint(3, (num,))


def test_every_layer_takes_the_keyword() -> None:
    options = {"posterior": "delta", "prior": "gaussian"}
    layers: list[tuple[BayesLayer, Tensor]] = [
        (tp.BayesConv1d(2, 4, 3, **options), torch.zeros(1, 2, 8)),
        (tp.BayesConv2d(2, 4, 3, **options), torch.zeros(1, 2, 8, 8)),
        (tp.BayesConv3d(2, 4, 3, **options), torch.zeros(1, 2, 8, 8, 8)),
        (tp.BayesConvTranspose2d(2, 4, 3, **options), torch.zeros(1, 2, 8, 8)),
        (tp.BayesLinear(2, 4, **options), torch.zeros(1, 2)),
    ]
    for layer, x in layers:
        assert layer.bias_posterior is not None
        assert torch.equal(layer(x), layer(x))
        assert not layer.bias_posterior.mean().any()
        assert [p.is_point for p in layer.posteriors()] == [True, True]
        parameters = sum(p.numel() for p in layer.parameters())
        assert parameters == layer.weight_posterior.mean().numel() + 4


@pytest.mark.parametrize("prior", CONV_PRIORS)
def test_elbo_loss_is_the_map_objective(prior: str) -> None:
    """Against -log p(y | x, w) - log p(w) by hand, whose gradient and differences are the same."""
    net, (x, y) = network(prior), data()
    conv, linear = net[0], net[3]
    stds = (
        conv.weight_posterior.coordinates.scales.item(),
        linear.weight_posterior.coordinates.scales.item(),
    )

    def by_hand() -> Tensor:
        w, v = conv.weight_posterior.u, linear.weight_posterior.u
        if prior == "correlated-gaussian":
            factor = torch.linalg.cholesky(conv.prior.covariance((3, 3))).float()
            kernels = (w.flatten(2) @ factor.T).view_as(w)
        else:
            kernels = w
        hidden = F.conv2d(x, stds[0] * kernels, conv.bias_posterior.u).relu().flatten(1)
        logits = F.linear(hidden, stds[1] * v, linear.bias_posterior.u)
        energy = sum(p.square().sum() / 2 for p in (v, conv.bias_posterior.u, linear.bias_posterior.u))
        # a Laplace law of std 1 has scale sqrt(1/2)
        energy = energy + (2**0.5 * w.abs().sum() if prior == "laplace" else w.square().sum() / 2)
        return F.cross_entropy(logits, y) + energy / 50

    def both() -> tuple[Tensor, Tensor]:
        return tp.elbo_loss(net(x), y, net, num_data=50), by_hand()

    losses = [[loss.item() for loss in both()]]
    gradients = [torch.autograd.grad(loss, list(net.parameters())) for loss in both()]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for layer in (conv, linear):
        layer.reset_parameters()
    losses.append([loss.item() for loss in both()])
    assert losses[0][0] - losses[1][0] == pytest.approx(losses[0][1] - losses[1][1], rel=1e-4, abs=1e-4)


def test_training_lowers_the_loss() -> None:
    net, (x, y) = network(), data(30)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss = tp.elbo_loss(net(x), y, net, num_data=30)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5


def test_averages_are_taken_upstairs() -> None:
    """A latent that walks over the seam of the Klein bottle, which flips v: the average of its lifts is between them."""
    layer = tp.BayesConv2d(1, 1, 3, posterior="delta")
    z = layer.weight_posterior.z
    average = torch.optim.swa_utils.AveragedModel(layer)
    steps = torch.linspace(0.9, 1.1, 5)
    for u in steps:
        with torch.no_grad():
            z.copy_(torch.tensor([u, 0.2]))
        average.update_parameters(layer)
    with torch.no_grad():
        z.copy_(torch.tensor([0.0, -0.2]))  # (1.0, 0.2) in the fundamental domain
    expected = layer.weight_posterior.mean()
    torch.testing.assert_close(average.module.weight_posterior.mean(), expected, rtol=1e-4, atol=1e-5)
    x = torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(
        tp.sample_outputs([average.module, layer], x, 1).diff(dim=0),
        torch.zeros(1, 2, 1, 3, 3),
        rtol=0,
        atol=1e-4,
    )


def test_summary() -> None:
    found = tp.summary(network())
    assert [row.kl_kind for row in found.rows] == ["-log p", "-log p"]
    assert found.parameter_ratio == 1.0
    assert "(-log p)" in str(found)


@pytest.mark.parametrize("prior", CONV_PRIORS)
def test_a_pretrained_network_is_kept(prior: str) -> None:
    plain, (x, _) = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)), data()
    net = tp.to_bayesian(plain, prior, linear_prior="gaussian", posterior="delta", init="pretrained")
    torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-5)
    assert net[0].projection_residual < 1e-5
    torch.testing.assert_close(tp.to_deterministic(net)(x), plain(x), rtol=1e-4, atol=1e-5)


def test_conversion_keeps_dtype_and_what_is_frozen() -> None:
    plain = nn.Sequential(nn.Conv2d(2, 4, 3, dtype=torch.float64))
    plain[0].weight.requires_grad_(False)
    net = tp.to_bayesian(plain, "gaussian", posterior="delta")
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert [p.requires_grad for p in net.parameters()] == [False, True]


def test_predict_is_one_pass() -> None:
    net, (x, _) = network(), data()
    passes = []
    net[3].register_forward_hook(lambda module, args, output: passes.append(len(output)))
    found = tp.predict(net, x, num_samples=10)
    assert passes == [len(x)]
    torch.testing.assert_close(found, net(x).softmax(-1).expand(10, -1, -1))
    mixed = nn.Sequential(net[0], net[1], net[2], tp.BayesLinear(36, 3))
    assert tp.predict(mixed, x, num_samples=10).std(0).min() > 0


def test_draws_are_the_mean() -> None:
    posterior = network()[0].weight_posterior
    draws = posterior.rsample((4,), antithetic=True)
    assert draws.shape == (4, 4, 2, 3, 3)
    assert torch.equal(draws[3], posterior.mean())


def test_states_copies_and_pickles() -> None:
    net, (x, _) = network("correlated-gaussian"), data()
    other = network("correlated-gaussian")
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))


def test_the_state_of_another_scale_is_refused() -> None:
    net = tp.BayesLinear(4, 3, prior=tp.Gaussian(gain=1.0), posterior="delta")
    other = tp.BayesLinear(4, 3, prior=tp.Gaussian(gain=2.0), posterior="delta")
    with pytest.raises(RuntimeError, match="scales: expected that of the layer's own prior"):
        other.load_state_dict(net.state_dict())


@pytest.mark.parametrize("prior", CONV_PRIORS)
def test_from_the_meta_device(prior: str) -> None:
    with torch.device("meta"):
        net = network(prior)
    source, (x, _) = network(prior), data()
    net.to_empty(device="cpu")
    net.load_state_dict(source.state_dict())
    assert torch.equal(net(x), source(x))
    net.to_empty(device="cpu")
    net[0].reset_parameters()
    assert net[0](x).isfinite().all()


def test_compile() -> None:
    net, (x, y) = network(), data()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    loss = tp.elbo_loss(compiled(x), y, net, num_data=6)
    loss.backward()
    expected = torch.autograd.grad(tp.elbo_loss(net(x), y, net, num_data=6), list(net.parameters()))
    for p, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_functional_call_and_per_example_gradients() -> None:
    net, (x, y) = network(), data()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(torch.func.functional_call(net, parameters, (x[None],)), y[None])

    rows = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    whole = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
    for name, expected in zip(parameters, whole, strict=True):
        torch.testing.assert_close(rows[name].mean(0), expected, rtol=1e-4, atol=1e-6)


def test_half_precision_sums_in_float32() -> None:
    layer = tp.BayesLinear(400, 300, prior="gaussian", posterior="delta", dtype=torch.float16)
    exact = layer.weight_posterior.u.double().square().sum() / 2
    assert layer.weight_posterior.kl().item() == pytest.approx(
        exact.item(), rel=1e-4
    )  # 60,000: float16 has 65,504


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="posterior: expected one of 'mean-field', 'delta', found 'map'"):
        tp.BayesLinear(4, 3, posterior="map")
    with pytest.raises(ValueError, match="posterior: expected one of"):
        tp.to_bayesian(nn.Conv2d(1, 2, 3), posterior="dirac")
    layer = tp.BayesLinear(4, 3, posterior="delta")
    with pytest.raises(ValueError, match=r"weight: expected shape \(3, 4\)"):
        layer.weight_posterior.project_(torch.zeros(4, 3))


@pytest.mark.parametrize("prior", ["klein-3x3", "torus-3x3", "euclidean-3x3", "klein-fixed"])
def test_decoded_kernels(prior: str) -> None:
    """What the coordinates decode to is the prior's; projection finds it again; states and copies are kept."""
    layer = tp.BayesConv2d(3, 5, 3, prior=prior, posterior="delta")
    posterior, x = layer.weight_posterior, torch.randn(2, 3, 8, 8)
    weight = posterior.mean().detach().clone()
    energy = sum(
        p.square().sum() / 2
        for name, p in posterior.named_parameters()
        if name != "z" or prior == "euclidean-3x3"
    )
    torch.testing.assert_close(posterior.kl(), energy)
    # A search from a grid finds the nearest kernel, or one nearly as near.
    assert posterior.project_(weight) < 0.1
    twin = tp.BayesConv2d(3, 5, 3, prior=prior, posterior="delta")
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    with torch.device("meta"):
        late = tp.BayesConv2d(3, 5, 3, prior=prior, posterior="delta")
    late.to_empty(device="cpu")
    late.reset_parameters()
    late.load_state_dict(layer.state_dict())
    assert torch.equal(late(x), layer(x))
    layer(x).square().mean().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for n, p in layer.weight_posterior.named_parameters()
    )
