"""At home in PyTorch: copies, precisions, compilation, torch.func, several processes, Lightning, exports.

Every test runs a network with the Klein and one with the Gaussian prior.
"""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, prune

import topoprior as tp


def make_net(prior="klein-3x3", posterior="mean-field"):
    return nn.Sequential(
        tp.BayesConv2d(3, 8, 3, padding=1, prior=prior, posterior=posterior), nn.ReLU(), nn.MaxPool2d(2),
        tp.BayesConv2d(8, 6, 3, prior=prior, posterior=posterior), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), tp.BayesLinear(6, 4, posterior=posterior),
    )  # fmt: skip


def is_point(net):
    return net[0].weight_posterior.kl_kind == "-log p"


@pytest.fixture(params=[("klein-3x3",), ("gaussian",), ("klein-3x3", "delta")], ids="-".join)
def net(request):
    return make_net(*request.param)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])


def seeded(function, *args):
    torch.manual_seed(7)
    return function(*args)


def step(net, x, y):
    """A training step; returns the loss."""
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    loss = tp.elbo_loss(net(x), y, net, 1000)
    loss.backward()
    optimizer.step()
    return loss.detach()


def assert_finite(net):
    for name, p in net.named_parameters():
        assert torch.isfinite(p).all(), name
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


# --- copies ----------------------------------------------------------------------------------


def test_copies_are_the_same_network(net, batch):
    """Deep copies, pickles and a strict state_dict round trip, after training and inside a context."""
    x, y = batch
    step(net, x, y)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    loaded = make_net(net[0].prior, "delta" if is_point(net) else "mean-field")
    loaded.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    with tp.frozen_sample(net):
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded]
    expected = seeded(net, x)
    for other in copies:
        assert torch.equal(seeded(other, x), expected)
        assert torch.equal(tp.kl_divergence(other), tp.kl_divergence(net))
        assert torch.equal(seeded(tp.predict, other, x, 4), seeded(tp.predict, net, x, 4))
        step(other, x, y)
    assert torch.equal(seeded(net, x), expected), "training a copy leaves the original alone"


# --- precisions ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_whole_network_in_another_precision(net, batch, dtype):
    x, y = batch
    net.to(dtype)
    # Adam's eps of 1e-8 is 0 in float16, for any network.
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    loss = tp.elbo_loss(net(x.to(dtype)), y, net, 1000)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert_finite(net)
    assert net(x.to(dtype)).dtype == dtype
    probabilities = tp.predict(net, x.to(dtype), 4)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(probabilities.sum(-1)))


def test_mean_and_kl_survive_half_precision(net, batch):
    """Within the digits of the type, also where the KL is past the largest float16."""
    big = nn.Sequential(net, tp.BayesLinear(300, 300))
    assert tp.kl_divergence(big) > 66_000
    with tp.posterior_mean(net), torch.no_grad():
        expected, kl = net(batch[0]), tp.kl_divergence(big)
        for dtype, digits in ((torch.float16, 1e-2), (torch.bfloat16, 6e-2)):
            other = copy.deepcopy(big).to(dtype)
            with tp.posterior_mean(other):
                output = other[0](batch[0].to(dtype)).float()
            assert (output - expected).norm() < digits * expected.norm()
            assert abs(tp.kl_divergence(other).float() / kl - 1) < digits


def test_autocast_training_step(net, batch):
    x, y = batch
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x)
        loss = tp.elbo_loss(logits, y, net, 1000)
        kl = tp.kl_divergence(net)
        with tp.posterior_mean(net):
            mean = net(x)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(kl, tp.kl_divergence(net))
    with tp.posterior_mean(net):
        assert (mean - net(x)).norm() < 5e-2 * mean.norm()
    loss.backward()
    torch.optim.Adam(net.parameters()).step()
    assert_finite(net)
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert tp.predict(net, x, 4).dtype == torch.float32


# --- compilation -----------------------------------------------------------------------------


def test_one_graph_of_a_klein_layer():
    """Forward, KL and backward are captured whole and compute what eager mode does, from the same random numbers.

    Without code generation, which takes half a minute: the slow tests have it.
    """
    torch.compiler.reset()
    layer, x = tp.BayesConv2d(3, 4, 3), torch.randn(2, 3, 6, 6)

    def step(x):
        return layer(x).square().mean() + 0.01 * layer.kl()

    found = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        loss = seeded(function, x)
        found.append((loss.detach(), *torch.autograd.grad(loss, list(layer.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiled_loss_and_its_gradient(net, batch):
    """Fullgraph, forward and KL. At the mean it is the eager loss; drawn, compiled code draws afresh."""
    x, y = batch
    loss = torch.compile(lambda: tp.elbo_loss(net(x), y, net, 1000), fullgraph=True)
    with tp.posterior_mean(net):
        expected = tp.elbo_loss(net(x), y, net, 1000)
        gradients = torch.autograd.grad(expected, list(net.parameters()), allow_unused=True)
        compiled = loss()
        torch.testing.assert_close(compiled, expected)
        for a, b in zip(
            torch.autograd.grad(compiled, list(net.parameters()), allow_unused=True), gradients, strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert loss() != loss()
    loss().backward()
    assert_finite(net)


@pytest.mark.slow
def test_compiled_network_predicts(net, batch):
    predictions = tp.predict(torch.compile(net), batch[0], 4)
    assert predictions.shape == (4, 4, 4)
    assert (predictions.std(0) > 0).all()


# --- torch.func ------------------------------------------------------------------------------


def test_vmap_over_samples(net, batch):
    """A draw for every index of vmap: all differ, and their mean is that of separate passes."""
    x, _ = batch
    parameters = dict(net.named_parameters())

    def forward(_):
        return functional_call(net, parameters, (x,))

    with torch.no_grad():
        outputs = vmap(forward, randomness="different")(torch.arange(2000))
        separate = tp.sample_outputs(net, x, 2000)
    assert len(outputs.flatten(1).unique(dim=0)) == (1 if is_point(net) else 2000)
    error = (outputs.var(0) + separate.var(0)).div(2000).sqrt()
    assert (
        (outputs.mean(0) - separate.mean(0)).abs() <= 5 * error + 1e-5
    ).all()  # 16 numbers: false alarm 1e-5


def test_kl_inside_of_vmap(net, batch):
    """What is mapped over need not be the parameters: the loss of every example by itself."""
    x, y = batch
    with tp.posterior_mean(net):
        found = vmap(lambda a, b: tp.elbo_loss(net(a[None]), b[None], net, 1000))(x, y)
        expected = [tp.elbo_loss(net(x[i : i + 1]), y[i : i + 1], net, 1000) for i in range(len(x))]
    torch.testing.assert_close(found, torch.stack(expected))


def test_grad_of_functional_call_is_backward(net, batch):
    x, y = batch
    parameters = dict(net.named_parameters())

    def loss(parameters):
        return F.cross_entropy(functional_call(net, parameters, (x,)), y)

    gradients = seeded(grad(loss), parameters)
    seeded(loss, parameters).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad)


def test_per_example_gradients(net, batch):
    """vmap of grad, every example with a draw of its own."""
    parameters = dict(net.named_parameters())

    def loss(parameters, x, y):
        return F.cross_entropy(functional_call(net, parameters, (x[None],)), y[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, *batch)
    for name, p in parameters.items():
        assert gradients[name].shape == (4, *p.shape)
        assert torch.isfinite(gradients[name]).all()


# --- neighbours ------------------------------------------------------------------------------


def test_parametrized_and_pruned_neighbours(batch):
    x, y = batch
    net = nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)),
        tp.BayesConv2d(8, 8, 3),
        parametrizations.spectral_norm(nn.Conv2d(8, 6, 1)),
        nn.Flatten(),
        prune.l1_unstructured(nn.Linear(96, 8), "weight", amount=0.5),
        tp.BayesLinear(8, 4),
    )
    state = copy.deepcopy(net.state_dict())
    step(net, x, y)
    assert_finite(net)
    assert (net[4].weight == 0).sum() == 384
    predictions = seeded(tp.predict, net, x, 4)
    net.load_state_dict(state, strict=True)
    assert not torch.equal(seeded(tp.predict, net, x, 4), predictions)


# --- exports ---------------------------------------------------------------------------------


def test_export_of_the_posterior_mean(net, batch):
    """torch.export, written and read; the program has no random numbers in it and any batch size."""
    x, _ = batch
    with tp.posterior_mean(net.eval()), torch.no_grad():
        expected = net(x)
        program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    assert not any("rand" in str(node.target) for node in program.graph.nodes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    torch.testing.assert_close(loaded(x), expected)
    torch.testing.assert_close(loaded(x[:3]), expected[:3])


def test_onnx_of_the_posterior_mean(net, batch, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x, _ = batch
    with warnings.catch_warnings(), tp.posterior_mean(net.eval()), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = net(x)
        torch.onnx.export(net, (x,), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)
