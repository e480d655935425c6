"""What a layer carries into state_dicts, copies and pickles, and what it refuses to load."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import topoprior as tp
from topoprior.priors.registry import prior_names

DECODER = tp.DecoderPrior.from_pretrained
NAMES = [name for name in prior_names() if tp.get_prior(name).serves((4, 3, 3, 3))]


def conv(prior="klein-3x3", **options):
    return tp.BayesConv2d(3, 4, 3, prior=prior, **options)


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# --- state_dicts of another prior ------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "loading"),
    [
        ("klein-3x3", "torus-3x3"),
        ("torus-3x3", "klein-3x3"),
        ("klein-natural-3x3", "klein-3x3"),
        (DECODER("klein-3x3", gain=1.0), "klein-3x3"),
        (DECODER("klein-3x3", mean_fraction=0.2), "klein-3x3"),
        (tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3", gain=1.0), "euclidean-3x3"),
        (tp.FixedKernels("torus-3x3"), "klein-fixed"),
        (tp.FixedKernels(DECODER("klein-3x3", gain=1.0)), "klein-fixed"),
        ("gaussian", "laplace"),
        ("laplace", "student-t"),
        ("gaussian", "correlated-gaussian"),
        (tp.Gaussian(1.0), tp.Gaussian(2.0)),
        (tp.StudentT(df=5.0), tp.StudentT(df=4.0)),
        (tp.ScaleMixture(pi=0.5), tp.ScaleMixture(pi=0.25)),
    ],
    ids=str,
)
def test_the_state_of_another_prior_is_refused(saved, loading):
    layer, state = conv(loading), through_a_file(conv(saved).state_dict())
    before = layer.weight_posterior.mean()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="weight_posterior.*expected that of the layer's own prior"):
            nn.Sequential(layer).load_state_dict({f"0.{k}": v for k, v in state.items()}, strict=strict)
    assert layer.weight_posterior.mean().shape == before.shape == (4, 3, 3, 3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loading", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_states_load_across_precisions_and_lose_no_digits_of_the_prior(name, saved, loading):
    layer, state = conv(name, dtype=loading), through_a_file(conv(name).to(saved).state_dict())
    posterior = layer.weight_posterior
    before = {n: getattr(posterior, n).clone() for n in posterior.prior_buffers}
    layer.load_state_dict(state, strict=True)
    assert torch.equal(posterior.loc, state["weight_posterior.loc"].to(loading))
    for n, expected in before.items():
        assert torch.equal(getattr(posterior, n), expected)
    through_half = copy.deepcopy(layer).bfloat16().to(loading)
    conv(name, dtype=loading).load_state_dict(through_half.state_dict(), strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_copies_pickles_and_states_draw_alike(name):
    layer, x = conv(name), torch.randn(2, 3, 6, 6)
    loaded, assigned = conv(name), conv(name)
    loaded.load_state_dict(through_a_file(layer.state_dict()), strict=True)
    assigned.load_state_dict(through_a_file(layer.state_dict()), strict=True, assign=True)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded, assigned):
        outputs = []
        for each in (layer, other):
            torch.manual_seed(1)
            outputs.append((each(x), each.kl()))
        torch.testing.assert_close(*outputs, rtol=0, atol=0)
        half = copy.deepcopy(other).half()
        assert half.weight_posterior.rsample().dtype == torch.float16


# --- copies made inside a context --------------------------------------------------------------


@pytest.mark.parametrize("name", ["klein-3x3", "gaussian"])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_made_inside_a_context_draw_again(name, duplicate):
    net, x = nn.Sequential(conv(name)), torch.randn(2, 3, 6, 6)
    copies = []
    with tp.posterior_mean(net):
        copies.append(duplicate(net))
        with tp.frozen_sample(net):
            copies.append(duplicate(net))
            with tp.posterior_mean(net):
                copies.append(duplicate(net))
        assert torch.equal(net(x), net(x))
    for other in (*copies, duplicate(net)):
        assert not torch.equal(other(x), other(x))
        with tp.posterior_mean(other):
            assert torch.equal(other(x), other(x))
            assert not torch.equal(*[duplicate(other)(x) for _ in range(2)])
        assert not torch.equal(other(x), other(x))


def test_a_layer_that_was_set_to_its_mean_stays_so_in_copies():
    layer, x = conv(), torch.randn(2, 3, 6, 6)
    layer.use_mean = True
    with tp.frozen_sample(layer):
        other = copy.deepcopy(layer)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(other(x), other(x))


# --- states that lack something -----------------------------------------------------------------


def test_a_state_without_the_matrix_is_incomplete():
    state = conv().state_dict()
    del state["weight_posterior.matrix"]
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_posterior\.matrix"):
        conv().load_state_dict(state)
    conv().load_state_dict(state, strict=False)


@pytest.mark.parametrize("posterior", ["mean-field", "delta"])
def test_states_from_before_plain_weights_said_their_prior(posterior):
    state = {
        name: value
        for name, value in conv("laplace", posterior=posterior).state_dict().items()
        if not name.endswith("which")
    }
    layer = conv("laplace", posterior=posterior)
    layer.load_state_dict(state, strict=True)
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in state.items())
    conv("laplace", posterior=posterior).load_state_dict(layer.state_dict(), strict=True)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(
    "bad", ["text", None, 3.0, torch.ones(4, 3, 3, 3, dtype=torch.complex64), torch.eye(3).to_sparse()]
)
def test_what_is_no_tensor_of_real_numbers_is_named(bad, assign):
    for name in ("weight_posterior.loc", "weight_posterior.which"):
        state = {**conv("gaussian").state_dict(), name: bad}
        with pytest.raises(RuntimeError, match=name):
            conv("gaussian").load_state_dict(state, assign=assign)


# --- the meta device ---------------------------------------------------------------------------

LEARNED = {
    "klein, learned, residual": DECODER("klein-3x3", empirical_bayes=True, residual_fraction=0.1),
    "gaussian, learned": tp.Gaussian(empirical_bayes=True),
}


@pytest.mark.parametrize("by_context", [True, False])
@pytest.mark.parametrize("name", [*NAMES, *LEARNED])
def test_layers_made_on_the_meta_device_are_right_once_they_have_memory(name, by_context):
    """to_empty leaves anything in parameters and buffers: here, what would show."""
    prior, x = LEARNED.get(name, name), torch.randn(2, 3, 6, 6)
    if by_context:
        with torch.device("meta"):
            layer = conv(prior)
    else:
        layer = conv(prior, device="meta")
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(torch.nan)
    loaded = copy.deepcopy(layer)
    plain = conv(prior)
    for each in (layer, plain):
        torch.manual_seed(3)
        each.reset_parameters()
    loaded.load_state_dict(plain.state_dict(), strict=True)
    expected = [plain.weight_posterior.mean(), plain.kl()]
    for other in (layer, loaded):
        torch.testing.assert_close([other.weight_posterior.mean(), other.kl()], expected, rtol=0, atol=0)
        assert torch.isfinite(other(x)).all()
    for a, b in zip(layer.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


def test_a_whole_network_on_the_meta_device():
    with torch.device("meta"):
        net = nn.Sequential(
            tp.BayesConv2d(3, 4, 3, prior=DECODER("klein-3x3")), nn.Flatten(), tp.BayesLinear(64, 2)
        )
    state = nn.Sequential(conv(), nn.Flatten(), tp.BayesLinear(64, 2)).state_dict()
    net.load_state_dict(state, strict=True, assign=True)
    assert not any(p.is_meta for p in net.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_state_gives_memory_to_a_layer_on_the_meta_device(name):
    plain = conv(name)
    with torch.device("meta"):
        layer = conv(name)
    layer.load_state_dict(plain.state_dict(), assign=True)
    assert not any(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    for one in ("mean", "kl"):
        expected = getattr(plain.weight_posterior, one)()
        torch.testing.assert_close(getattr(layer.weight_posterior, one)(), expected, rtol=0, atol=0)


def test_a_layer_on_the_meta_device_refuses_the_state_of_another_prior():
    with torch.device("meta"):
        layer = conv(DECODER("klein-3x3"))
    with pytest.raises(RuntimeError, match="another prior"):
        layer.load_state_dict(conv(DECODER("klein-3x3", gain=5.0)).state_dict(), assign=True)


def test_a_checkpoint_of_any_moment_of_training_loads(tmp_path):
    """As Lightning writes them: before a step, between its parts, inside contexts and predictions. All go on alike."""
    net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), tp.BayesLinear(64, 2))
    x, y = torch.randn(8, 1, 6, 6), torch.randint(2, (8,))
    optimizer = torch.optim.Adam(tp.parameter_groups(net, 1e-3))
    moments = []

    def save(*_):
        path = tmp_path / f"{len(moments)}.ckpt"
        torch.save({"state_dict": net.state_dict(), "optimizer": optimizer.state_dict()}, path)
        moments.append(path)

    def step(model, stepper, seen=lambda: None):
        torch.manual_seed(0)
        loss = tp.elbo_loss(model(x), y, model, 8)
        seen()
        loss.backward()
        seen()
        stepper.step()
        stepper.zero_grad()

    step(net, optimizer)
    step(copy.deepcopy(net), torch.optim.SGD(net.parameters(), 0.0), save)
    for context in (tp.posterior_mean, tp.frozen_sample):
        with context(net):
            save()
    handle = net[2].register_forward_hook(save)
    with torch.no_grad():
        tp.predict(net, x, 2)
        tp.predict(net, x, 2, antithetic=True)
    handle.remove()
    net.zero_grad()
    save()
    assert len(moments) == 7
    found = []
    for path in moments:
        state = torch.load(path, weights_only=True)
        other = nn.Sequential(
            tp.BayesConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), tp.BayesLinear(64, 2)
        )
        stepper = torch.optim.Adam(tp.parameter_groups(other, 1e-3))
        other.load_state_dict(state["state_dict"])
        stepper.load_state_dict(state["optimizer"])
        step(other, stepper)
        found.append(nn.utils.parameters_to_vector(other.parameters()))
    step(net, optimizer)
    expected = nn.utils.parameters_to_vector(net.parameters())
    for vector in found:
        torch.testing.assert_close(vector, expected)
