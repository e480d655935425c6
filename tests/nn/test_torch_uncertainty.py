"""torch-uncertainty's loss on our layers, against our own loss and against its own formula on its layers."""

import pytest
import torch
from torch import nn

import topoprior as tp

pytest.importorskip("torch_uncertainty", reason="torch-uncertainty is not installed")
from torch_uncertainty.layers.bayesian import BayesLinear as TheirLinear  # noqa: E402

from topoprior.nn.torch_uncertainty import ELBOLoss  # noqa: E402


def test_it_is_the_elbo():
    net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.Flatten(), tp.BayesLinear(4, 3))
    x, y = torch.randn(5, 1, 3, 3), torch.randint(3, (5,))
    loss = ELBOLoss(net, nn.CrossEntropyLoss(), kl_weight=1 / 50, num_samples=2)
    torch.manual_seed(1)
    found = loss(x, y)
    torch.manual_seed(1)
    expected = torch.stack([tp.elbo_loss(net(x), y, net, 50) for _ in range(2)]).mean()
    torch.testing.assert_close(found.squeeze(), expected)
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_their_layers_count_beside_ours():
    net = nn.Sequential(tp.BayesLinear(4, 4), TheirLinear(4, 3))
    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    loss = ELBOLoss(net, nn.CrossEntropyLoss(), kl_weight=0.1, num_samples=1)
    torch.manual_seed(1)
    found = loss(x, y)
    torch.manual_seed(1)
    logits = net(x)
    kl = tp.kl_divergence(net) + net[1].log_variational_posterior - net[1].log_prior
    torch.testing.assert_close(found.squeeze(), nn.functional.cross_entropy(logits, y) + 0.1 * kl)


def test_a_routine_sets_the_network():
    pytest.importorskip("timm", reason="torch-uncertainty's routines need timm")
    from torch_uncertainty.routines import ClassificationRoutine

    net = nn.Sequential(tp.BayesConv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    loss = ELBOLoss(None, nn.CrossEntropyLoss(), kl_weight=1 / 50, num_samples=1)
    routine = ClassificationRoutine(net, num_classes=3, loss=loss)
    assert torch.isfinite(routine.loss(torch.randn(5, 1, 3, 3), torch.randint(3, (5,))))


def test_one_logit_is_refused():
    """Its cross entropy is 0, so that the KL alone would be minimized; the loss of its own is taken."""
    net, x = tp.BayesLinear(4, 1), torch.randn(5, 4)
    loss = ELBOLoss(net, nn.CrossEntropyLoss(), kl_weight=0.1, num_samples=1)
    with pytest.raises(ValueError, match="2 classes or more.*binary_cross_entropy_with_logits"):
        loss(x, torch.zeros(5, dtype=torch.long))
    binary = ELBOLoss(net, nn.BCEWithLogitsLoss(), kl_weight=0.0, num_samples=1)
    torch.manual_seed(1)
    found = binary(x, torch.ones(5, 1))
    torch.manual_seed(1)
    torch.testing.assert_close(found.squeeze(), nn.functional.softplus(-net(x)).mean())
