"""experiments.cifar10: flips and shifts, schedule, splits, temperatures, runs that go on, the script as its users run it."""

import colorsys
import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import optimize, stats
from torch import nn
from torch.nn import functional as F

from experiments.cifar10 import (
    compress,
    corruptions,
    images,
    laplace,
    measures,
    methods,
    networks,
    report,
    run,
    table,
    training,
)
from experiments.common.data import ImageData, load
from experiments.common.store import Store
from experiments.common.tables import announced, read_runs  # noqa: E402
from tests.experiments.priors.test_data import write_image


def numbered(n: int, height: int, width: int) -> torch.Tensor:
    """Images with no two pixels alike, (N, H, W, 3)."""
    return torch.arange(n * height * width * 3).reshape(n, height, width, 3).float()


# --- images ----------------------------------------------------------------------------------


def test_flips_and_shifts_are_those_of_numpy():
    """Each result is one of the 18 that padding, cutting and turning make, and all are as likely: a false alarm in a million."""
    x = numbered(3, 5, 6)
    chosen = torch.arange(3).repeat(1200)
    found = images.augmented(x, chosen, torch.Generator().manual_seed(0), shift=1)
    assert found.shape == (3600, 3, 5, 6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    counts = np.zeros((3, 18))
    for i, result in zip(chosen.tolist(), found.permute(0, 2, 3, 1).numpy(), strict=True):
        padded = np.pad(x[i].numpy(), ((1, 1), (1, 1), (0, 0)), mode="reflect")
        cuts = [padded[a : a + 5, b : b + 6, :] for a, b in product(range(3), repeat=2)]
        same = [np.array_equal(result, cut) for cut in (*cuts, *(cut[:, ::-1] for cut in cuts))]
        assert sum(same) == 1
        counts[i, same.index(True)] += 1
    assert stats.chisquare(counts.sum(0)).pvalue > 1e-6


def test_larger_shifts_are_mirrored_too():
    x, seen = numbered(1, 8, 8), set()
    for seed in range(60):
        found = images.augmented(x, torch.tensor([0]), torch.Generator().manual_seed(seed), shift=4)[0]
        padded = np.pad(x[0].numpy(), ((4, 4), (4, 4), (0, 0)), mode="reflect")
        cuts = {(a, b): padded[a : a + 8, b : b + 8] for a, b in product(range(9), repeat=2)}
        result = found.permute(1, 2, 0).numpy()
        here = [
            k
            for k, cut in cuts.items()
            if np.array_equal(result, cut) or np.array_equal(result, cut[:, ::-1])
        ]
        assert here
        seen |= set(here)
    assert len(seen) > 30


def little(classes: int = 4, each: int = 30, tests: int = 5, size: int = 16) -> ImageData:
    """Noise about a grey of the class, no two images alike."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(classes).repeat_interleave(count)
        noise = torch.randn(len(labels), 3, size, size, generator=generator)
        return (labels[:, None, None, None] / classes + 0.1 * noise).clamp(0, 1), labels

    x, y = part(each)
    test_x, test_y = part(tests)
    return ImageData("little", tuple("abcdefgh"[:classes]), x, y, test_x, test_y)


def test_no_image_both_chooses_and_is_learned_from():
    data = little()
    found = images.split(data, 8)
    assert len(found.learn[1]) == 108
    assert np.bincount(found.validation[1]).tolist() == [3] * 4
    parts = [{image.tobytes() for image in x} for x in (found.learn[0], found.validation[0], found.test[0])]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    whole = {
        np.uint8((image * 255).round().permute(1, 2, 0).numpy()).tobytes() for image in data.train_images
    }
    assert parts[0] | parts[1] == whole
    x, y = found.subset(20, seed=3)
    assert np.bincount(y).tolist() == [5] * 4
    assert {image.tobytes() for image in x} <= parts[0]
    other = found.subset(20, seed=4)[0]
    assert not np.array_equal(x, other)
    assert found.corrupted[0].shape == (5, 5, 8, 16, 16, 3)
    assert images.split(data, 8).digest() == found.digest() != images.split(data, 4).digest()


def test_foreign_images_are_grey_clothes_of_the_same_size():
    found = images.split(little(), 0).foreign
    assert found.shape == (1000, 16, 16, 3)
    assert (found == found[..., :1]).all()
    clothes = load("embedded", Path()).test_images
    assert found[:, 4:12, 4:12].mean() / 255 == pytest.approx(
        float(clothes[:, :, 7:21, 7:21].mean()), abs=0.02
    )
    named = replace(little(), name="embedded")
    assert len(images.split(named, 0).foreign) == 0


# --- corruptions -----------------------------------------------------------------------------


def test_brightness_is_that_of_colorsys():
    x = np.random.default_rng(0).random((2, 3, 3, 3))
    x[0, 0, 0] = 0.0
    found = corruptions.brightness(x, 0.3)
    for pixel, result in zip(x.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        assert result == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1)))


def test_corruptions_grow_and_start_small():
    rng = np.random.default_rng(0)
    smooth = F.interpolate(torch.from_numpy(rng.random((4, 3, 4, 4))), size=(32, 32), mode="bicubic")
    x = np.uint8(smooth.permute(0, 2, 3, 1).clamp(0, 1).numpy() * 255)
    found = corruptions.corrupted(x).astype(float)
    away = np.sqrt(np.square(found - x).mean((2, 3, 4, 5)))
    assert (np.diff(away, axis=1) > 0).all()
    assert (away[:, 0] < 30).all()
    noise, contrast = found[0, 4] - x, found[3, 4]
    inside = (x > 100) & (x < 155)  # not cut off at black and white
    assert noise[inside].std() == pytest.approx(25.5, rel=0.1)
    mean = x.mean((1, 2), keepdims=True)
    assert contrast == pytest.approx(mean + 0.15 * (x - mean), abs=0.51)


# --- measures --------------------------------------------------------------------------------


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


# --- Laplace ---------------------------------------------------------------------------------


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


# --- networks and methods --------------------------------------------------------------------


def network(name: str, method: str) -> nn.Module:
    make, width = networks.NETWORKS[name]
    body, features = make(methods.METHODS[method].convolution, width)
    return networks.Classifier(body, features, 10, torch.float32)


def test_numbers_of_parameters():
    resnet = network("resnet20", "nn.Conv2d")
    assert methods.numbers(resnet)["numbers"] == 269_722  # He et al.: .27 million
    plain, klein = (methods.numbers(network("narrow", m)) for m in ("nn.Conv2d", "klein"))
    assert plain["kernel numbers"] == 9 * (3 * 32 + 32 * 32 + 32 * 64 + 3 * 64 * 64)
    assert 9 * klein["kernel numbers"] == 4 * plain["kernel numbers"]
    assert {len(method.candidates()) for method in methods.METHODS.values()} == {4}


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_learns_in_every_network(name, method):
    net = network(name, method)
    x = torch.randn(4, 3, 32, 32)
    F.cross_entropy(net(x), torch.arange(4)).backward()
    assert net(x).shape == (4, 10)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_klein_start_is_in_the_span_of_the_priors_kernels():
    torch.manual_seed(0)
    weight = methods.METHODS["klein-start"].convolution(16, 64).weight.detach()
    expected = methods.tp.get_prior("klein-3x3").kernel_covariance(weight.shape).double()
    kernels = weight.flatten(2).flatten(0, 1).double()
    values, vectors = torch.linalg.eigh(expected)
    outside = kernels @ vectors[:, values < 1e-9]
    assert outside.shape[1] >= 3
    assert outside.square().mean().sqrt() < 1e-3 * kernels.square().mean().sqrt()
    assert kernels.square().sum(1).mean() == pytest.approx(2 / 16, rel=0.2)  # six standard errors


# --- compression -----------------------------------------------------------------------------


def test_bytes_are_within_half_a_step():
    x = (
        torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-3, 3, 5)[:, None, None]
    )
    found, size = compress.in_8_bits(x)
    step = x.flatten(1).abs().amax(1)[:, None, None] / 127
    assert ((found - x).abs() <= step / 2 * 1.001).all()
    places = found / step
    torch.testing.assert_close(places, places.round())
    assert size == 30 + 4 * 5


def test_a_networks_own_kernels_are_those_of_the_singular_value_decomposition():
    net = network("narrow", "nn.Conv2d")
    before = torch.cat(
        [m.weight.detach().flatten(2).flatten(0, 1) for m in net.modules() if isinstance(m, nn.Conv2d)]
    )
    assert compress.plain(net, 4, bits=False) == 4 * (4 * len(before) + 4 * 9)
    after = torch.cat(
        [m.weight.detach().flatten(2).flatten(0, 1) for m in net.modules() if isinstance(m, nn.Conv2d)]
    )
    u, s, v = torch.linalg.svd(before.double(), full_matrices=False)
    torch.testing.assert_close(after.double(), u[:, :4] * s[:4] @ v[:4], atol=1e-6, rtol=1e-4)


def test_points_on_a_grid_are_near():
    """Lifts are brought into the unit square and rounded there: the kernel moves by less than its slope times half a place."""
    net = network("narrow", "klein")
    layer = next(m for m in net.modules() if isinstance(m, methods.tp.BayesConv2d))
    z = layer.weight_posterior.z
    with torch.no_grad():
        z[0, 0] = torch.tensor([1.3, -0.2])  # another lift of (.3, .2)
        z[0, 1] = torch.tensor([0.999, 0.3])  # rounds to the far side
    before = layer.weight_posterior.mean().detach().clone()
    kernels = sum(
        m.weight_posterior.alpha.numel() for m in net.modules() if isinstance(m, methods.tp.BayesConv2d)
    )
    assert compress.points(net, latents=True, amplitudes=False) == (2 + 4 + 4) * kernels
    assert (z * 256 == (z * 256).round()).all()
    assert z[0, 0].tolist() == pytest.approx([0.3, 0.2], abs=1 / 500)
    after = layer.weight_posterior.mean().detach()
    assert (after - before).norm() < 0.02 * before.norm()


# --- training --------------------------------------------------------------------------------


def test_the_rate_goes_up_and_down_on_lines():
    steps = 50
    found = [training.one_cycle(step, steps) for step in range(steps)]
    middles = (np.arange(steps) + 0.5) / steps
    assert found == pytest.approx(np.interp(middles, [0, 0.2, 1], [0, 1, 0]).tolist())
    assert min(found) > 0


def settings(**more) -> dict:
    config = {
        "method": "klein", "network": "narrow", "width": 4, "classes": 4, "n": 20, "batch": 8, "images_seen": 80,
        "lr": 3e-3, "latent_lr": 0.02, "weight_decay": 0.01, "temperature": 1.0, "seed": 0, "member": 0,
    }  # fmt: skip
    return {**config, **more}


def made(saved: Path | None = None, **more) -> training.Training:
    learn = images.split(little(), 0).subset(20, 0)
    return training.Training(settings(**more), learn, saved, torch.device("cpu"))


def test_every_image_once_a_pass():
    """20 images in batches of 8: passes end inside of batches, and a start in the middle changes nothing."""
    trained = made()
    trained.images = torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, 8, 8, 3)
    trained.mean, trained.std = torch.zeros(3), torch.full((3,), 1 / 255)
    seen = [x[:, 0, 0, 0].long().tolist() for x, _ in trained.batches(0, 10)]
    assert [len(batch) for batch in seen] == [8] * 10
    everything = sum(seen, [])
    passes = [everything[i : i + 20] for i in range(0, 80, 20)]
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert passes[0] != passes[1]
    assert [x[:, 0, 0, 0].long().tolist() for x, _ in trained.batches(6, 10)] == seen[6:]


def test_a_stopped_run_ends_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVED", 0.0)
    once = made()
    once.run()
    whole = training.one_cycle

    def stops(step: int, steps: int) -> float:
        if step == 6:
            raise KeyboardInterrupt
        return whole(step, steps)

    monkeypatch.setattr(training, "one_cycle", stops)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "state.pt").run()
    monkeypatch.setattr(training, "one_cycle", whole)
    again = made(tmp_path / "state.pt")
    assert again.step == 6
    again.run()
    for name in ("net", "average"):
        for (key, a), (_, b) in zip(
            getattr(once, name).state_dict().items(), getattr(again, name).state_dict().items(), strict=True
        ):
            assert torch.equal(a, b), (name, key)


def test_the_prior_is_in_the_loss():
    """A temperature of 1,000 draws amplitudes to zero, none leaves them."""
    amplitudes = []
    for temperature in (0.0, 1000.0):
        trained = made(temperature=temperature, images_seen=400)
        trained.run()
        found = [p.detach() for name, p in trained.net.named_parameters() if name.endswith("alpha")]
        amplitudes.append(torch.cat([p.flatten() for p in found]).square().mean())
    assert amplitudes[1] < 0.5 * amplitudes[0]


def test_the_average_lags_behind():
    trained = made(images_seen=8 * 40)
    trained.run()
    assert trained.steps == 40  # the average looks 2 steps back
    last, average = (dict(net.named_parameters()) for net in (trained.net, trained.average.module))
    assert all((last[key] - average[key]).abs().max() < 0.02 for key in last)
    assert any(not torch.equal(last[key], average[key]) for key in last)


# --- the script ------------------------------------------------------------------------------

COMMAND = [
    "--effort",
    "10",
    "--width",
    "4",
    "--corrupted",
    "6",
    "--jobs",
    "1",
    "--sizes",
    "24",
    "--quiet",
]


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 12), ("test", 8)):
        for k, name in enumerate("abc"):
            for i in range(count):
                write_image(tmp_path / "mine" / part / name / f"{i}.png", (60 * k, 15 * i, 90), (16, 16))
    return tmp_path / "mine"


def command(folder: Path, output: Path, *more: str) -> int:
    return run.main(["--dataset", f"little={folder}", *COMMAND, "--output", str(output), *more])


def test_the_script_from_images_to_report(folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    some = ["--methods", "klein,nn.Conv2d", "--seeds", "2", "--members", "2"]
    assert command(folder, output, "--select", "--methods", "klein") == 0
    assert command(folder, output, *some) == 0
    found = pd.read_csv(output / "runs.csv")
    chosen = found[found["role"] == "selection"]
    assert len(chosen) == 2 * 4
    assert chosen["cls/Acc"].isna().all()  # test images are not looked at
    reported = found[found["role"] == "reported"]
    # seeds x methods x (last, average, laplace), two members and their ensemble
    assert reported["members"].value_counts().to_dict() == {1: 2 * 2 * 3 * 2, 2: 2 * 2 * 3}
    assert reported["ood/AUROC"].between(0, 1).all()
    assert (reported["sc/AURC"] <= 1).all()
    files = sorted(path.stem for path in (output / "runs").glob("reported*"))
    assert files == sorted(path.stem for path in (output / "networks").iterdir())
    sizes = sorted({path.stat().st_size / 1000 for path in (output / "networks").iterdir()})
    assert sorted(set(reported.query("members == 1")["checkpoint kB"])) == pytest.approx(sizes, rel=1e-5)
    assert reported["cls/Acc"].between(0, 1).all()
    assert set(reported["dataset"]) == {"little"}
    assert not list((output / "unfinished").glob("*"))
    two = tmp_path / "two sizes"
    two.mkdir()
    pd.concat([found, found.assign(n=48)]).to_csv(two / "runs.csv", index=False)
    assert report.main([str(two)]) == 0
    text = (two / "report.md").read_text()
    assert "| Klein, MAP - nn.Conv2d | narrow, width 4, n = 24 | 2 |" in text
    assert "How the rates were chosen" in text
    assert "| Klein, MAP (laplace) - nn.Conv2d (last) | narrow, width 4, n = 24 | 2 |" in text
    assert str(folder.parent) not in text
    assert all(
        (two / name).stat().st_size < 150_000 for name in ("sizes.png", "forest.png", "corruptions.png")
    )
    assert (
        compress.main(
            [
                "--dataset",
                f"little={folder}",
                "--output",
                str(output),
                "--sizes",
                "24",
                "--seeds",
                "2",
                "--quiet",
            ]
        )
        == 0
    )
    smaller = pd.read_csv(output / "compression.csv")
    assert smaller["form"].value_counts()["float32"] == 2 * 2 * 2
    key = ["method", "seed", "member"]
    alone = reported.query("members == 1 and weights == 'last'").astype({"member": int})
    whole, again = (rows.set_index(key)["cls/NLL"] for rows in (alone, smaller.query("form == 'float32'")))
    pd.testing.assert_series_equal(whole.sort_index(), again.sort_index(), rtol=1e-5)
    assert report.main([str(output)]) == 0
    assert "4 kernels of its own, 8 bits" in (output / "report.md").read_text()
    monkeypatch.setattr(training.Training, "run", None)  # would fail if a run were made again
    assert command(folder, output, *some) == 0
    # elsewhere, from the committed rows alone
    other = tmp_path / "other"
    assert command(folder, other, *some, "--earlier", str(output / "runs.csv")) == 0
    assert not (other / "runs").exists()
    again = pd.read_csv(other / "runs.csv")
    pd.testing.assert_frame_equal(again, found)


def test_an_ensemble_is_the_mean_of_predictions(folder, tmp_path):
    output = tmp_path / "out"
    assert command(folder, output, "--methods", "nn.Conv2d", "--seeds", "1", "--members", "3") == 0
    files = [np.load(path) for path in (output / "logits").glob("*.npz")]
    assert len(files) == len(list(Store(output / "runs"))) == 3
    p = np.mean([torch.from_numpy(file["last test"]).double().softmax(1).numpy() for file in files], 0)
    labels = np.repeat(np.arange(3), 8)
    found = pd.read_csv(output / "runs.csv").query("members == 3 and weights == 'last'").iloc[0]
    assert found["cls/NLL"] == pytest.approx(-np.log(p[np.arange(24), labels]).mean(), rel=1e-4)
    assert found["cls/Acc"] == pytest.approx((p.argmax(1) == labels).mean())


def test_a_run_takes_the_place_of_an_earlier_row(folder, tmp_path):
    """An earlier row of another seed stays, one of the same run is not there twice."""
    output, some = tmp_path / "out", ["--methods", "nn.Conv2d"]
    assert command(folder, output, *some, "--seeds", "1") == 0
    rows = read_runs(output / "runs.csv")
    earlier = pd.concat([rows.assign(**{"cls/Acc": 9.0}), rows.assign(seed=7)])
    earlier.to_csv(tmp_path / "earlier.csv", index=False)
    assert command(folder, output, *some, "--seeds", "1", "--earlier", str(tmp_path / "earlier.csv")) == 0
    found = read_runs(output / "runs.csv")
    assert found["seed"].tolist() == [0, 0, 0, 7, 7, 7]
    assert (found["cls/Acc"] <= 1).all()
    assert set(found["data"]) == set(rows["data"])


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


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (["--methods", "nothing"], "--methods"),
        (["--network", "nothing"], "--network"),
        (["--sizes", "1000"], "--sizes"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--earlier", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, tmp_path, capsys, wrong, names):
    with pytest.raises(SystemExit) as ended:
        command(folder, tmp_path / "out", *wrong)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert names in error
    assert not (tmp_path / "out" / "runs").exists()


def test_rates_that_were_chosen_are_candidates():
    assert set(methods.CHOSEN) == set(methods.METHODS)
    for name, rates in methods.CHOSEN.items():
        assert dict(rates) in methods.METHODS[name].candidates()


def test_logits_are_kept_whole(tmp_path):
    table.keep(tmp_path / "a" / "run.npz", {"last": {"test": torch.ones(2, 3)}})
    assert np.load(tmp_path / "a" / "run.npz")["last test"].dtype == np.float32
    assert json.dumps([path.name for path in (tmp_path / "a").iterdir()]) == '["run.npz"]'
