"""One network trained: a schedule of fixed length, a running average of its weights, batch statistics made again."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import topoprior as tp
from experiments.cifar10.images import Array, augmented
from experiments.cifar10.methods import METHODS
from experiments.cifar10.networks import NETWORKS, Classifier
from topoprior.utils.files import write_atomically

WARM_UP = 0.2  # of the steps, in which the rate rises
AVERAGED = 0.05  # of the steps: how far back the average of the weights looks
STATISTICS = 16  # batches from which batch normalization takes its statistics
SAVED = 60.0  # seconds of a core between two states on disk


def one_cycle(step: int, steps: int, warm_up: float = WARM_UP) -> float:
    """The factor of the rate in a step, 0 to ``steps - 1``: up to 1 on a line, and down to nearly 0 on another.

    Source: Smith & Topin 2018. In the middle of each step, so that neither the first nor the last is lost.
    """
    t = (step + 0.5) / steps
    return t / warm_up if t < warm_up else (1 - t) / (1 - warm_up)


def saved_bytes(state: Mapping[str, Any]) -> bytes:
    """What torch.save writes."""
    written = io.BytesIO()
    torch.save(dict(state), written)
    return written.getvalue()


def best_precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies in it, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if has.get("amx_bf16") or has.get("avx512_bf16") else torch.float32


class Training:
    """A network, what it learns from, and how far it has come; it goes on from ``saved`` where that is there.

    Order, shifts and flips of a step are drawn by the seed and the step's number: a run that was stopped ends with the same numbers.

    Args:
        config: method, network, width, classes, n, batch, images_seen, lr, latent_lr, weight_decay, temperature, seed, member.
        saved: where the state is kept on the way.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        learn: tuple[Array, Array],
        saved: Path | None,
        device: torch.device,
    ) -> None:
        self.config, self.saved, self.device = config, saved, device
        self.images, self.labels = (torch.from_numpy(part).to(device) for part in learn)
        pixels = self.images.float() / 255
        self.mean, self.std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2)).clamp_min(1e-3)
        self.batch = min(config["batch"], len(self.labels))
        self.steps = max(1, config["images_seen"] // self.batch)
        torch.manual_seed(self._entropy(0, 0))
        body, width = NETWORKS[config["network"]][0](METHODS[config["method"]].convolution, config["width"])
        net = Classifier(body, width, config["classes"], best_precision(device))
        self.net: Classifier = net.to(device).to(memory_format=torch.channels_last)
        groups = tp.parameter_groups(
            self.net, config["lr"], latent_lr=config["latent_lr"], weight_decay=config["weight_decay"]
        )
        self.optimizer = torch.optim.AdamW(groups, lr=config["lr"])
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        decay = 1 - 1 / max(1.0, AVERAGED * self.steps)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.step, self.seconds = 0, 0.0
        self._load()

    def normalized(self, images: Tensor) -> Tensor:
        """Bytes (B, C, H, W) with mean 0 and standard deviation 1 over the images to learn from."""
        scale, shift = 1 / (255 * self.std), self.mean / self.std
        return images.float() * scale[:, None, None] - shift[:, None, None]

    def batches(self, start: int, stop: int, salt: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the steps from ``start`` on: every image once a pass, pass by pass in a new order."""
        n, order, current = len(self.labels), torch.empty(0), -1
        for step in range(start, stop):
            places = torch.arange(step * self.batch, (step + 1) * self.batch)
            chosen = torch.empty(self.batch, dtype=torch.int64)
            for number in range(int(places[0]) // n, int(places[-1]) // n + 1):
                if number != current:
                    order, current = torch.randperm(n, generator=self._generator(salt, number)), number
                here = places // n == number
                chosen[here] = order[places[here] % n]
            x = augmented(self.images, chosen, self._generator(salt + 1, step))
            yield self.normalized(x), self.labels[chosen.to(self.device)]

    def _generator(self, *of: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._entropy(*of))

    def _entropy(self, *of: int) -> int:
        """The same for all methods."""
        sequence = np.random.SeedSequence([self.config["seed"], self.config["member"], *of])
        return int(sequence.generate_state(1, np.uint64)[0])

    def run(self) -> None:
        """All steps that are left."""
        config, began = self.config, time.process_time()
        kept, temperature, n = self.seconds, config["temperature"], len(self.labels)
        has_prior = METHODS[config["method"]].prior is not None
        written = began
        self.net.train()
        for x, y in self.batches(self.step, self.steps):
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * one_cycle(self.step, self.steps)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(x), y)
            if has_prior:
                loss = loss + temperature / n * tp.kl_divergence(self.net)
            loss.backward()
            self.optimizer.step()
            self.average.update_parameters(self.net)
            self.step += 1
            now = time.process_time()
            self.seconds = kept + now - began
            if self.saved is not None and now - written > SAVED:
                self._save()
                written = now

    def networks(self) -> dict[str, Classifier]:
        """The weights of the last step and their average, each with the batch statistics of its own."""
        found = {"last": self.net, "average": cast(Classifier, self.average.module)}
        for net in found.values():
            self.renew_statistics(net)
        return found

    def renew_statistics(self, net: Classifier) -> None:
        """Of batch normalization, over batches that are the same for every network."""
        tp.update_bn(net, (x for x, _ in self.batches(0, STATISTICS, salt=3)))

    @torch.no_grad()
    def features(self, net: Classifier, images: Array) -> Tensor:
        """(N, width), of bytes (N, H, W, C)."""
        net.eval()
        parts = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).split(500)
        return torch.cat([net.features(self.normalized(x)).cpu() for x in parts])

    def _save(self) -> None:
        assert self.saved is not None
        states = {name: getattr(self, name).state_dict() for name in ("net", "average", "optimizer")}
        written = saved_bytes({**states, "step": self.step, "seconds": self.seconds})
        self.saved.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.saved, written)

    def _load(self) -> None:
        if self.saved is None or not self.saved.is_file():
            return
        state = torch.load(self.saved, map_location=self.device, weights_only=True)
        for name in ("net", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]
