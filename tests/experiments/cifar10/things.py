"""What several tests of experiments.cifar10 are about: a little set of images, a network."""

import torch
from torch import nn

from experiments.cifar10 import methods, networks
from experiments.common.data import ImageData


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


def network(name: str, method: str) -> nn.Module:
    make, width = networks.NETWORKS[name]
    body, features = make(methods.METHODS[method].convolution, width)
    return networks.Classifier(body, features, 10, torch.float32)
