"""Convolution kernels as data: analytic ones, patches of images, kernels of trained networks."""

from topoprior.kernels.contrast import contrast, dct_basis, dct_coordinates, from_dct, normalized_patches
from topoprior.kernels.describe import (
    describe_homology,
    describe_kernels,
    kernel_homology,
    unit_kernels,
)
from topoprior.kernels.klein import (
    kernel_coordinates,
    klein_energy,
    klein_kernels,
    klein_subspace,
    nearest_klein,
    sample_klein_kernels,
)
from topoprior.kernels.nearest import nearest_kernels
from topoprior.kernels.networks import Harvest, harvest_kernels, read_weights
from topoprior.kernels.patches import (
    densest,
    extract_patches,
    find_images,
    image_patches,
    read_image,
    read_npy,
    read_patches,
)

__all__ = [
    "Harvest",
    "contrast",
    "dct_basis",
    "dct_coordinates",
    "densest",
    "describe_homology",
    "describe_kernels",
    "extract_patches",
    "find_images",
    "from_dct",
    "harvest_kernels",
    "image_patches",
    "kernel_coordinates",
    "kernel_homology",
    "klein_energy",
    "klein_kernels",
    "klein_subspace",
    "nearest_kernels",
    "nearest_klein",
    "normalized_patches",
    "read_image",
    "read_npy",
    "read_patches",
    "read_weights",
    "sample_klein_kernels",
    "unit_kernels",
]
