"""From Bayesian networks back to plain ones, and their summary."""

import copy
import math
import re

import pytest
import torch
from torch import nn

import topoprior as tp
from tests.nn.test_convert import bayes_layers, small_net

# --- and back --------------------------------------------------------------------------------


def test_back_is_the_posterior_mean_or_a_draw():
    bayes, x = tp.to_bayesian(small_net(), linear_prior="laplace").eval(), torch.randn(2, 3, 8, 8)
    mean, draw, other = (tp.to_deterministic(bayes, sample=s) for s in (False, True, True))
    with torch.no_grad(), tp.posterior_mean(bayes):
        torch.testing.assert_close(mean(x), bayes(x))
        assert not torch.allclose(mean(x), draw(x))
        assert not torch.allclose(other(x), draw(x))
    assert not bayes_layers(mean)
    mean.load_state_dict(copy.deepcopy(small_net().state_dict()), strict=True)
    mean(x).sum().backward()


def test_export_of_the_posterior_mean():
    bayes, x = tp.to_bayesian(small_net()).eval(), torch.randn(2, 3, 8, 8)
    mean = tp.to_deterministic(bayes)
    exported = torch.export.export(mean, (x,)).module()
    torch.testing.assert_close(exported(x), mean(x))


@pytest.mark.slow
def test_onnx_of_the_posterior_mean(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    bayes, x = tp.to_bayesian(small_net()).eval(), torch.randn(2, 3, 8, 8)
    mean = tp.to_deterministic(bayes)
    torch.onnx.export(mean, (x,), tmp_path / "net.onnx", dynamo=True)
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), mean(x), rtol=1e-4, atol=1e-5)


# --- summary ---------------------------------------------------------------------------------


@torch.no_grad()
def test_summary_counts():
    net = small_net()
    bayes = tp.to_bayesian(net, init="pretrained")
    table = tp.summary(bayes)
    assert [row.name for row in table.rows] == ["0", "2", "3", "4", "7"]
    assert [row.prior for row in table.rows] == ["klein-3x3", "gaussian", "gaussian", "klein-3x3", None]
    assert table.rows[3].shape == (6, 2, 3, 3), "as priors know it"
    assert table.parameters == sum(p.numel() for p in bayes.parameters())
    assert table.deterministic_parameters == sum(p.numel() for p in net.parameters())
    assert table.parameter_ratio == table.parameters / table.deterministic_parameters
    assert table.kl == pytest.approx(float(tp.kl_divergence(bayes)), rel=1e-5)
    assert table.kl_kind == "bound + exact"
    for row in table.rows[:4]:
        assert row.kl == pytest.approx(float(bayes_layers(bayes)[row.name].kl()), rel=1e-5)
        assert math.isfinite(row.residual)
    text = str(table)
    for part in (
        "layer",
        "residual",
        "8x3x3x3",
        "fallback: 1x1 kernels",
        "fallback: depthwise",
        "(bound + exact)",
    ):
        assert part in text
    assert re.search(r"^7\s+Linear\s+5x6\s+-\s+35$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) < 120


def test_summary_of_a_deterministic_model():
    table = tp.summary(nn.Sequential(nn.Linear(2, 2)))
    assert (table.parameter_ratio, table.kl, table.kl_kind) == (1.0, 0.0, "exact")
    assert "KL: 0.0 nats" in str(table)


def test_summary_tells_objects_apart(tmp_path):
    load = tp.DecoderPrior.from_pretrained
    load("klein-5x5").save_pretrained(tmp_path / "mine")
    priors = {
        load("klein-3x3"): "klein-3x3",
        load("torus-3x3", empirical_bayes=True): "torus-3x3 (empirical Bayes)",
        load("klein-3x3", residual_fraction=0.1): "klein-3x3 (residual)",
        load(
            "klein-3x3", residual_fraction=0.1, empirical_bayes=True
        ): "klein-3x3 (residual, empirical Bayes)",
        tp.EuclideanDecoderPrior.from_pretrained("euclidean-3x3"): "euclidean-3x3",
        tp.FixedKernels("torus-3x3"): "fixed torus-3x3",
        load(tmp_path / "mine"): str(tmp_path / "mine"),
        tp.Gaussian(): "Gaussian",
        tp.Laplace(empirical_bayes=True): "Laplace (empirical Bayes)",
        tp.DecoderPrior(load("klein-3x3").harmonics, torch.randn(5, 9), (3, 3)): "DecoderPrior",
    }
    net = nn.Sequential(*(tp.BayesConv2d(2, 2, getattr(p, "kernel_size", 3), prior=p) for p in priors))
    assert [row.prior for row in tp.summary(net).rows] == list(priors.values())
    assert tp.summary(copy.deepcopy(net)).rows == tp.summary(net).rows
