"""Whatever takes a cross entropy refuses the same logits and targets, by name: in torch some of them cost 0, or train on."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import topoprior as tp

LOGITS, CLASSES = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
# Logits, target, what is raised, and what it says.
REFUSED = {
    "one logit": (torch.randn(4, 1), torch.zeros(4, dtype=torch.long), ValueError, "binary_cross_entropy_with_logits"),
    "one logit, float": (torch.randn(4, 1), torch.ones(4, 1), ValueError, "binary_cross_entropy_with_logits"),
    "no classes": (torch.randn(4), CLASSES, ValueError, "logits: expected shape (batch, classes, ...)"),
    "integer logits": (torch.zeros(4, 3, dtype=torch.long), CLASSES, TypeError, "logits: expected floating-point"),
    "complex logits": (torch.zeros(4, 3, dtype=torch.complex64), CLASSES, TypeError, "logits: expected floating-point"),
    "a column": (LOGITS, CLASSES[:, None], ValueError, "target: expected class indices (4,), found (4, 1)"),
    "float indices": (LOGITS, CLASSES.float(), ValueError, "target.long()"),
    "integer one-hot": (LOGITS, F.one_hot(CLASSES), ValueError, "target.to(logits)"),
    "int32": (LOGITS, CLASSES.int(), TypeError, "class indices (torch.int64)"),
    "bool": (LOGITS, CLASSES > 0, TypeError, "class indices (torch.int64)"),
    "a class too many": (LOGITS, CLASSES + 1, ValueError, "target: expected classes from 0 to 2"),
    "a negative class": (LOGITS, CLASSES - 1, ValueError, "or -100 to leave a position out, found -1 to 1"),
    "uint8 255": (LOGITS, torch.tensor([0, 255, 1, 2], dtype=torch.uint8), ValueError, "found 0 to 255"),
    "too many": (LOGITS, torch.zeros(5, dtype=torch.long), ValueError, "target: expected class indices (4,)"),
    "no probabilities": (LOGITS, torch.full((4, 3), 0.5), ValueError, "sums 1 over the classes"),
    "negative": (LOGITS, torch.tensor([[1.2, -0.1, -0.1]] * 4), ValueError, "probabilities, from 0"),
    "NaN": (LOGITS, torch.full((4, 3), torch.nan), ValueError, "probabilities, from 0"),
    "another device": (LOGITS, torch.zeros(4, dtype=torch.long, device="meta"), ValueError, "target: expected device cpu"),
    "a list": (LOGITS, [0, 1, 2, 0], TypeError, "target: expected a tensor, found list"),
}  # fmt: skip


class Says(nn.Module):
    """Returns given logits, whatever its one layer computes."""

    def __init__(self, logits):
        super().__init__()
        self.layer, self.logits = tp.BayesLinear(2, 2, posterior="delta"), logits

    def forward(self, x):
        return self.logits + 0 * self.layer(x).sum() if self.logits.is_floating_point() else self.logits


@pytest.mark.parametrize("name", REFUSED)
def test_logits_and_targets_that_do_not_fit(name):
    logits, target, kind, words = REFUSED[name]
    net, x = Says(logits), torch.zeros(4, 2)
    calls = [lambda: tp.elbo_loss(logits, target, net, 100), lambda: tp.log_joint(net, (x, target))]
    if (
        isinstance(target, torch.Tensor)
        and len(target) == 4
        and target.device == x.device
        and name != "NaN"
    ):
        options = {"num_samples": 1, "warmup": 1, "num_chains": 1, "progress": False}
        calls.append(lambda: tp.sample_posterior(net, (x, target), **options))
    for call in calls:
        with pytest.raises(kind, match=re.escape(words)):
            call()


def test_what_fits_costs_what_torch_says():
    net, x = Says(LOGITS), torch.zeros(4, 2)
    targets = [
        CLASSES,
        CLASSES.to(torch.uint8),
        F.one_hot(CLASSES).double(),
        torch.tensor([0, -100, 2, -100]),
    ]
    for target in targets:
        soft = target.to(LOGITS) if target.is_floating_point() else target
        expected = F.cross_entropy(LOGITS, soft, reduction="sum")
        torch.testing.assert_close(tp.elbo_loss(LOGITS, target, net, 100, 0.0), expected / 4)
        torch.testing.assert_close(tp.log_joint(net, (x, soft)) - tp.log_prior(net), -expected)
    ignored = torch.full((4,), -100)
    assert float(tp.elbo_loss(LOGITS, ignored, net, 100, 0.0)) == 0


def test_a_batch_is_no_larger_than_the_data():
    net, x = Says(LOGITS), torch.zeros(4, 2)
    with pytest.raises(ValueError, match="num_data: expected at least 4, found 3"):
        tp.log_joint(net, (x, CLASSES), 3)
    with pytest.raises(ValueError, match="batch: expected at least one example"):
        tp.log_joint(net, (x[:0], CLASSES[:0]), 4)


def test_predictions_are_of_two_logits_or_more():
    samples = tp.sample_posterior(
        nn.Sequential(tp.BayesLinear(2, 1, posterior="delta")), (torch.randn(4, 2), torch.randn(4, 1)),
        log_likelihood=lambda output, y: -(output - y).square().sum(), num_samples=1, warmup=1, num_chains=1, progress=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="2 classes or more, found \\(4, 1\\)"):
        samples.predict(torch.randn(4, 2))
    assert samples.outputs(torch.randn(4, 2)).shape == (1, 4, 1)
    for logits in (torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, 3, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="model: expected logits, floating-point numbers"):
            tp.predict(Says(logits), torch.zeros(4, 2), 1)
