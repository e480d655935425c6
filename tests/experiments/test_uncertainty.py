"""Measures of what a model does not know, against oracles."""

import math

import pytest
import torch
from torch import Tensor

from experiments.common import uncertainty as measures

# --- measures ----------------------------------------------------------------------------------


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    known = (2 * torch.randn(300, 4, generator=generator)).softmax(-1)
    unknown = torch.randn(200, 4, generator=generator).softmax(-1)
    return known, torch.randint(4, (300,), generator=generator), unknown


def test_foreign_by_counting(predictions: tuple[Tensor, Tensor, Tensor]) -> None:
    known, _, unknown = predictions
    a, b = known.double().max(1).values, unknown.double().max(1).values
    found = measures.foreign(known, unknown)
    auroc = (b[:, None] < a).double().mean() + 0.5 * (b[:, None] == a).double().mean()
    assert found["ood/AUROC"] == pytest.approx(float(auroc), abs=1e-6)
    threshold = b.sort().values[math.ceil(0.95 * len(b)) - 1]
    assert found["ood/FPR95"] == pytest.approx(float((a <= threshold).double().mean()), abs=1e-6)
    perfect = measures.foreign(torch.eye(4), torch.full((5, 4), 0.25))
    assert perfect == {"ood/AUROC": 1.0, "ood/FPR95": 0.0}


def test_as_torch_uncertainty(predictions: tuple[Tensor, Tensor, Tensor]) -> None:
    theirs = pytest.importorskip("torch_uncertainty.metrics")
    known, labels, unknown = predictions
    aurc, fpr95 = theirs.AURC(), theirs.FPR95(pos_label=1)
    aurc.update(known, labels)
    assert measures.aurc(known, labels) == pytest.approx(float(aurc.compute()), abs=1e-6)
    doubt = 1 - torch.cat([known, unknown]).max(1).values
    fpr95.update(doubt, torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))]).long())
    assert measures.foreign(known, unknown)["ood/FPR95"] == pytest.approx(float(fpr95.compute()), abs=1e-6)


def test_aurc(predictions: tuple[Tensor, Tensor, Tensor]) -> None:
    known, labels, _ = predictions
    confidence, wrong = known.max(1).values, (known.argmax(1) != labels).double()
    risks = [float(wrong[confidence.topk(k).indices].mean()) for k in range(1, 301)]
    by_hand = sum((a + b) / 2 for a, b in zip(risks[:-1], risks[1:], strict=True)) / 299
    assert measures.aurc(known, labels) == pytest.approx(by_hand, abs=1e-9)
    right = known.argmax(1)
    assert measures.aurc(known, right) == 0
    assert measures.aurc(known, (right + 1) % 4) == pytest.approx(1)


def test_shifts() -> None:
    images = torch.zeros(2, 1, 9, 9)
    images[:, :, 1, 4] = 1
    turned = measures.shift(images, "rotation-90")
    assert turned[0, 0, 4, 1] == pytest.approx(1, abs=1e-4)  # counterclockwise
    torch.testing.assert_close(measures.shift(images, "rotation-0"), images)
    torch.testing.assert_close(
        measures.shift(torch.full((1, 3, 9, 9), 0.3), "blur-1"), torch.full((1, 3, 9, 9), 0.3)
    )
    middle = torch.zeros(1, 1, 15, 15)
    middle[..., 7, 7] = 1
    from scipy.ndimage import gaussian_filter

    expected = torch.from_numpy(gaussian_filter(middle[0, 0].numpy(), 1.0, truncate=3.0))
    torch.testing.assert_close(measures.shift(middle, "blur-1")[0, 0], expected, atol=1e-6, rtol=0)
    noisy = measures.shift(torch.full((4, 1, 50, 50), 0.5), "noise-0.1")
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(noisy, measures.shift(torch.full((4, 1, 50, 50), 0.5), "noise-0.1"))


def test_foreign_images_take_size_and_channels() -> None:
    like = torch.rand(2, 3, 32, 32)
    assert measures.as_foreign(torch.rand(5, 1, 28, 28), like).shape == (5, 3, 32, 32)
    assert measures.as_foreign(torch.rand(5, 3, 32, 32), torch.rand(2, 1, 28, 28)).shape == (5, 1, 28, 28)
