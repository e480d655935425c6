"""Networks drawn once: they compute what the Bayesian network computes with those weights, and nothing else."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import topoprior as tp
from topoprior.nn.convolution import transpose_kernels


def network() -> nn.Sequential:
    return nn.Sequential(
        tp.BayesConv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        tp.BayesConvTranspose2d(8, 4, 3, stride=2, groups=2),
        tp.BayesConv2d(4, 6, 3, padding_mode="circular", padding=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        tp.BayesLinear(6, 3),
    )


def test_members_are_the_network_with_their_weights() -> None:
    net, x = network(), torch.randn(5, 2, 6, 6)
    frozen = tp.freeze_draws(net, 4)
    net.eval()
    found = frozen(x)
    assert found.shape == (4, 5, 3)
    for member, output in zip(frozen.members, found, strict=True):
        for layer, plain in zip(net, member, strict=True):
            if isinstance(layer, tp.nn.BayesLayer):
                assert not isinstance(plain, tp.nn.BayesLayer)
                weight = plain.weight
                if isinstance(plain, nn.ConvTranspose2d):
                    weight = transpose_kernels(weight, plain.groups)
                layer.drawn = weight[None], None if plain.bias is None else plain.bias[None]
        torch.testing.assert_close(net(x), output, rtol=1e-5, atol=1e-6)
        for layer in net:
            if isinstance(layer, tp.nn.BayesLayer):
                layer.drawn = None


def test_draws_are_from_the_posterior() -> None:
    """Mean and std of 1,000 draws within 5 standard errors: false alarm below 1e-6 a number."""
    layer, count = tp.BayesLinear(3, 2), 1000
    weights = torch.stack([member.weight for member in tp.freeze_draws(layer, count).members])
    posterior = layer.weight_posterior
    scale = posterior.log_scale.exp()
    assert ((weights.mean(0) - posterior.loc).abs() < 5 * scale / count**0.5).all()
    assert ((weights.std(0) / scale - 1).abs() < 5 / (2 * count) ** 0.5).all()


def test_answers_are_functions_of_the_input() -> None:
    net, x = network(), torch.randn(3, 2, 6, 6)
    state = torch.random.get_rng_state()
    frozen = tp.freeze_draws(net, 3)
    assert not torch.equal(torch.random.get_rng_state(), state)
    state, first = torch.random.get_rng_state(), frozen(x)
    assert torch.equal(torch.random.get_rng_state(), state)
    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(output, first) for output in pool.map(frozen, [x] * 32))
    assert not torch.equal(first[0], first[1])
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(
        p.requires_grad or module.training for module in frozen.modules() for p in module.parameters()
    )


def test_they_stay_in_evaluation_mode() -> None:
    frozen, x = tp.freeze_draws(network(), 2), torch.randn(3, 2, 6, 6)
    first = frozen(x)
    parent = nn.Sequential(frozen).train()
    assert torch.equal(parent(x), first)
    assert not any(module.training for module in frozen.modules())


def test_one_of_several_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = tp.BayesLinear(3, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.layer(x), "aux": x}

    x = torch.ones(4, 3)
    assert tp.freeze_draws(Two(), 5, output="out")(x).shape == (5, 4, 2)
    with pytest.raises(
        ValueError, match="expected a tensor, found dict; output= picks one of the keys 'out', 'aux'"
    ):
        tp.freeze_draws(Two(), 5)(x)


def test_what_is_not_drawn_is_shared() -> None:
    net = network()
    frozen = tp.freeze_draws(net, 3)
    for kind in (nn.BatchNorm2d, nn.Conv2d):
        layers = [next(m for m in member if type(m) is kind) for member in frozen.members]
        shared = [layer.weight.data_ptr() for layer in layers]
        assert len(set(shared)) == (1 if kind is nn.BatchNorm2d else 3)
    mixers = {member[3].weight.data_ptr() for member in frozen.members}
    assert len(mixers) == 1
    assert net[3].weight.data_ptr() not in mixers  # training goes on without changing them


def test_kept_in_a_file(tmp_path: Path) -> None:
    net, x = network(), torch.randn(3, 2, 6, 6)
    frozen, other = tp.freeze_draws(net, 3), tp.freeze_draws(net, 3)
    tensors = {
        name: t.clone(memory_format=torch.contiguous_format) for name, t in frozen.state_dict().items()
    }
    save_file(tensors, tmp_path / "frozen.safetensors")
    assert not torch.equal(other(x), frozen(x))
    other.load_state_dict(load_file(tmp_path / "frozen.safetensors"))
    torch.testing.assert_close(other(x), frozen(x), rtol=0, atol=0)
    buffer = io.BytesIO()
    torch.save(frozen.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))


def test_exported() -> None:
    net, x = network().eval(), torch.randn(3, 2, 6, 6)
    frozen = tp.freeze_draws(net, 2)
    program = torch.export.export(frozen, (x,))
    torch.testing.assert_close(program.module()(x), frozen(x), rtol=1e-5, atol=1e-6)


def test_exported_to_onnx(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = torch.randn(3, 2, 6, 6)
    frozen = tp.freeze_draws(network(), 2)
    torch.onnx.export(frozen, (x,), str(tmp_path / "net.onnx"), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), frozen(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "samples", "error", "says"),
    [
        (nn.Linear(2, 2), 3, ValueError, "model: found no Bayesian layer"),
        ("net", 3, TypeError, "model"),
        (tp.BayesLinear(2, 2), 0, ValueError, "num_samples"),
        (tp.BayesLinear(2, 2), 2.5, TypeError, "num_samples"),
    ],
)
def test_bad_arguments(model: nn.Module, samples: int, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        tp.freeze_draws(model, samples)
