"""experiments.cifar10: flips and shifts, splits, foreign images, corruptions."""

import colorsys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from experiments.cifar10 import corruptions, images
from experiments.common.data import load
from tests.experiments.cifar10.things import little


def numbered(n: int, height: int, width: int) -> torch.Tensor:
    """Images with no two pixels alike, (N, H, W, 3)."""
    return torch.arange(n * height * width * 3).reshape(n, height, width, 3).float()


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
