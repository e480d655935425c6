"""experiments.cifar10: temperatures, measures, Laplace, differences, what is kept."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats
from torch import nn
from torch.nn import functional as F

from experiments.cifar10 import images, laplace, measures, report, table
from experiments.common.tables import announced
from tests.experiments.cifar10.things import little


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_the_temperature_is_scipys(factor):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(400, 5)) * 2
    labels = np.array([rng.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in z])

    def nll(log_t: float) -> float:
        scaled = torch.from_numpy(z * factor) / np.exp(log_t)
        return float(F.cross_entropy(scaled, torch.from_numpy(labels)))

    best = optimize.minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    found = measures.fitted_temperature(torch.from_numpy(z * factor), torch.from_numpy(labels))
    assert np.log(found) == pytest.approx(best.x, abs=1e-5)


def test_scaled_measures_are_those_of_scaled_logits():
    z, labels = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    found, scaled = measures.judge(z, labels, 2.0), measures.judge(z / 2, labels, 1.0)
    assert found["scaled/NLL"] == pytest.approx(scaled["cls/NLL"])
    assert found["scaled/ECE"] == pytest.approx(scaled["cal/ECE"])
    assert found["cls/Acc"] == scaled["cls/Acc"]
    assert found["cls/NLL"] == pytest.approx(float(F.cross_entropy(z, labels)))


def test_parts_are_judged_at_the_temperature_of_validation_images():
    data = images.split(little(), 0)
    generator = torch.Generator().manual_seed(0)
    of = {"validation": data.validation[1], "test": data.test[1], "foreign": data.foreign}
    z = {part: 2 * torch.randn(len(x), 4, generator=generator) for part, x in of.items()}
    found = measures.judge_parts(z, data)
    labels = torch.from_numpy(data.validation[1])
    assert found["fitted temperature"] == measures.fitted_temperature(z["validation"], labels)
    assert found["cls/Acc"] == pytest.approx(float((z["test"].argmax(1).numpy() == data.test[1]).mean()))
    sure = {part: x.double().softmax(1).max(1).values for part, x in z.items()}
    surer = float((sure["test"][:, None] > sure["foreign"]).double().mean())
    assert found["ood/AUROC"] == pytest.approx(surer, abs=1e-6)
    assert not {
        name for name in measures.judge_parts({"validation": z["validation"]}, data) if name[:3] == "cls"
    }


def test_the_law_of_the_last_layer_is_that_of_the_full_hessian():
    """Autograd's second derivative of the loss in weights and biases, its inverse, and a logit's gradient."""
    generator = torch.Generator().manual_seed(0)
    features, new = torch.randn(30, 3, generator=generator), torch.randn(5, 3, generator=generator)
    head = nn.Linear(3, 4).requires_grad_(False)
    law, precision = laplace.LastLayer(features, head), 0.7
    shapes = head.weight.shape, head.bias.shape
    flat = torch.cat([head.weight.flatten(), head.bias]).double()

    def logits(flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.double(), flat[:12].reshape(shapes[0]), flat[12:])

    def loss(
        flat: torch.Tensor,
    ) -> torch.Tensor:  # whose gradient in a label's own logit cancels in the Hessian
        return F.cross_entropy(logits(flat, features), torch.arange(30) % 4, reduction="sum")

    hessian = torch.autograd.functional.hessian(loss, flat) + precision * torch.eye(16, dtype=torch.double)
    slopes = torch.autograd.functional.jacobian(lambda flat: logits(flat, new), flat)
    variance = ((slopes @ hessian.inverse()) * slopes).sum(2)
    expected = logits(flat, new) / (1 + np.pi / 8 * variance).sqrt()
    torch.testing.assert_close(law.logits(new, precision), expected)
    labels = torch.arange(5) % 4
    best = law.best_precision(new, labels)
    losses = [float(F.cross_entropy(law.logits(new, p), labels)) for p in laplace.PRECISIONS]
    assert laplace.PRECISIONS[int(np.argmin(losses))] == best
    torch.testing.assert_close(law.logits(new, 1e9), head(new).double(), atol=1e-5, rtol=0)


def test_differences_by_hand():
    """Three seeds, one of which has no Klein run; the smaller of two p-values is doubled."""
    rows = [
        {"method": m, "seed": s, "cls/Acc": v, "network": "narrow", "width": 4, "n": n}
        for n, shift in ((500, 0.0), (1000, 0.1))
        for m, values in {"klein": (0.5, 0.6, 0.58), "nn.Conv2d": (0.4, 0.55, 0.5, 0.9)}.items()
        for s, v in enumerate(np.array(values) + (shift * np.arange(len(values)) if m == "klein" else 0))
    ]
    found = announced(pd.DataFrame(rows), report.FAMILY, "method", "cls/Acc", report.PLACES).set_index("n")
    assert found.loc[500, "mean"] == pytest.approx(np.mean([0.1, 0.05, 0.08]))
    assert found["seeds"].tolist() == [3, 3]
    small = stats.ttest_rel([0.5, 0.6, 0.58], [0.4, 0.55, 0.5]).pvalue
    assert small < found.loc[1000, "p"]
    assert found.loc[500, "adjusted"] == pytest.approx(2 * small)
    both = announced(pd.DataFrame(rows), report.FAMILY, "method", "cls/Acc", report.PLACES, family=15)
    assert both.set_index("n").loc[500, "adjusted"] == pytest.approx(min(1, 15 * small))


def test_logits_are_kept_whole(tmp_path):
    table.keep(tmp_path / "a" / "run.npz", {"last": {"test": torch.ones(2, 3)}})
    assert np.load(tmp_path / "a" / "run.npz")["last test"].dtype == np.float32
    assert json.dumps([path.name for path in (tmp_path / "a").iterdir()]) == '["run.npz"]'
