"""What functions of whole models say of arguments that they cannot take."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import topoprior as tp

NET = nn.Sequential(tp.BayesLinear(4, 3))
X, Y = torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)
Q = torch.distributions.Normal(0.0, 1.0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "num_samples.*found 0", lambda: tp.predict(NET, X, 0)),
        (TypeError, "num_samples.*found 2.0", lambda: tp.predict(NET, X, 2.0)),
        (ValueError, "max_batch.*found -1", lambda: tp.predict(NET, X, 2, max_batch=-1)),
        (ValueError, "num_samples.*pairs, found 3", lambda: tp.predict(NET, X, 3, antithetic=True)),
        (TypeError, "x: expected a tensor.*found list", lambda: tp.predict(NET, [1.0])),
        (ValueError, "x: .*scalar", lambda: tp.predict(NET, torch.zeros(()))),
        (ValueError, "model: .*2 classes", lambda: tp.predict(tp.BayesLinear(4, 1), X)),
        (ValueError, "model: .*rows", lambda: tp.predict(nn.Flatten(0), X)),
        (ValueError, "model: .*found tuple", lambda: tp.predict(nn.LSTM(4, 3), X)),
        (TypeError, "probabilities", lambda: tp.predictive_entropy([0.5, 0.5])),
        (TypeError, "probabilities.*int64", lambda: tp.predictive_entropy(torch.ones(1, 1, 1).long())),
        (ValueError, "probabilities.*shape", lambda: tp.expected_entropy(torch.full((2, 2), 0.5))),
        (ValueError, "logits need softmax", lambda: tp.mutual_information(torch.randn(3, 2, 4))),
        (ValueError, "logits.*found", lambda: tp.elbo_loss(torch.zeros(3), Y, NET, 10)),
        (
            ValueError,
            r"target: expected class indices \(2,\)",
            lambda: tp.elbo_loss(NET(X), Y[:1], NET, 10),
        ),
        (ValueError, "target: expected probabilities", lambda: tp.elbo_loss(NET(X), Y.float(), NET, 10)),
        (TypeError, "target.*bool", lambda: tp.elbo_loss(NET(X), Y.bool(), NET, 10)),
        (TypeError, "num_samples.*found True", lambda: tp.predict(NET, X, True)),
        (TypeError, "max_batch.*found '2'", lambda: tp.predict(NET, X, 2, max_batch="2")),
        (TypeError, "target.*int32", lambda: tp.elbo_loss(NET(X), Y.int(), NET, 10)),
        (TypeError, "target: expected a tensor", lambda: tp.elbo_loss(NET(X), [0, 0], NET, 10)),
        (TypeError, "logits: expected a tensor", lambda: tp.elbo_loss(None, Y, NET, 10)),
        (
            TypeError,
            "give one of its entries .logits.",
            lambda: tp.elbo_loss({"logits": NET(X)}, Y, NET, 10),
        ),
        (TypeError, "num_data.*True", lambda: tp.elbo_loss(NET(X), Y, NET, True)),
        (TypeError, "temperature.*'1'", lambda: tp.elbo_loss(NET(X), Y, NET, 10, "1")),
        (TypeError, "num_data.*12.5", lambda: tp.elbo_loss(NET(X), Y, NET, 12.5)),
        (ValueError, "num_data.*found 0", lambda: tp.elbo_loss(NET(X), Y, NET, 0)),
        (ValueError, "temperature.*-1", lambda: tp.elbo_loss(NET(X), Y, NET, 10, -1.0)),
        (ValueError, "temperature.*nan", lambda: tp.elbo_loss(NET(X), Y, NET, 10, math.nan)),
        (ValueError, "binary_cross_entropy_with_logits", lambda: tp.elbo_loss(NET(X)[:, :1], Y, NET, 10)),
        (
            ValueError,
            "logits.*binary_cross_entropy_with_logits",
            lambda: tp.elbo_loss(NET(X)[:, :1], X[:, :1], NET, 10),
        ),
        (
            ValueError,
            "target: .*several hold.*binary_cross_entropy_with_logits",
            lambda: tp.elbo_loss(NET(X), torch.tensor([[1.0, 1, 0], [0, 0, 1]]), NET, 10),
        ),
        (ValueError, "num_data: .* at least the 2.*found 1", lambda: tp.elbo_loss(NET(X), Y, NET, 1)),
        (ValueError, "probabilities.*2 classes", lambda: tp.predictive_entropy(torch.ones(3, 2, 1))),
        (TypeError, "torch.distributions.kl_divergence.*cover_kl", lambda: tp.kl_divergence(Q, Q)),
        (TypeError, "torch.distributions.kl_divergence.*cover_kl", lambda: tp.kl_divergence(Q)),
        (ValueError, "model: expected one or several, found none", lambda: tp.predict([], X)),
        (ValueError, "x: expected a loader of batches, found none", lambda: tp.predict(NET, iter([]))),
        (ValueError, r"found rows 2 in x\[0\], 1 in x\[1\]", lambda: tp.predict(NET, (X, X[:1]))),
        (TypeError, "x: .* found dict without tensors", lambda: tp.predict(NET, {"x": 1})),
        (ValueError, "output: .*found 'logits'", lambda: tp.predict(NET, X, output="logits")),
        (ValueError, "output= picks one of 0 to 1", lambda: tp.predict(nn.LSTM(4, 3), X)),
        (ValueError, "step", lambda: tp.kl_warmup(-1, 10)),
        (ValueError, "step", lambda: tp.kl_warmup(math.nan, 10)),
        (TypeError, "step", lambda: tp.kl_warmup("3", 10)),
        (ValueError, "num_steps", lambda: tp.kl_warmup(1, 0)),
        (ValueError, "start", lambda: tp.kl_warmup(1, 10, start=2)),
        (ValueError, "schedule.*'sine'", lambda: tp.kl_warmup(1, 10, schedule="sine")),
    ],
)
def test_bad_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        tp.kl_divergence,
        tp.kl_per_layer,
        tp.summary,
        tp.to_bayesian,
        tp.to_deterministic,
        tp.compile_posteriors,
        lambda model: tp.predict(model, X),
        lambda model: tp.sample_outputs(model, X),
        lambda model: tp.elbo_loss(torch.zeros(2, 3), Y, model, 10),
        lambda model: tp.posterior_mean(model).__enter__(),
        lambda model: tp.frozen_sample(model).__enter__(),
        lambda model: tp.faster_latents(model, 20).__enter__(),
    ],
)
def test_what_is_no_model(call):
    for wrong in (None, "resnet18", lambda x: x):
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, found"):
            call(wrong)


def test_integers_of_numpy():
    two = np.int64(2)
    layer = tp.BayesConv2d(two, np.int32(3), (np.int64(3), 3), padding=1)
    assert tp.BayesLinear(two, two).in_features == 2
    outputs = tp.sample_outputs(layer, torch.randn(2, 2, 5, 5), two, max_batch=np.int16(4))
    assert outputs.shape == (2, 2, 3, 5, 5)
    loss = tp.elbo_loss(NET(X), Y, NET, np.int64(10))
    assert torch.isfinite(loss)
    assert tp.Gaussian(np.float32(0.5)).posterior((2, 2)).prior_scale == 0.5
