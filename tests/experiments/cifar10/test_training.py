"""experiments.cifar10: schedule, order of images, runs that go on, prior and average."""

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.cifar10 import images, training
from tests.experiments.cifar10.things import little


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
