"""Functions of kernels refuse arrays and lists by name, NaN where it would be lost, and read integers as numbers."""

from __future__ import annotations

import math

import pytest
import torch

from topoprior import kernels

K = torch.randn(12, 3, 3, generator=torch.Generator().manual_seed(0))
ELEMENTWISE = {
    "contrast": kernels.contrast,
    "dct_coordinates": kernels.dct_coordinates,
    "from_dct": lambda k: kernels.from_dct(k.flatten(-2)[..., :8] if isinstance(k, torch.Tensor) else k),
    "klein_kernels": lambda k: kernels.klein_kernels(k[..., 0, :2] if isinstance(k, torch.Tensor) else k),
}
SELECTING = {
    "normalized_patches": kernels.normalized_patches,
    "unit_kernels": lambda k: kernels.unit_kernels(k)[0],
    "densest": lambda k: kernels.densest(k.flatten(1) if isinstance(k, torch.Tensor) else k, 3, 0.5),
}
ALL = ELEMENTWISE | SELECTING


@pytest.mark.parametrize("name", ALL)
def test_arrays_and_lists_are_refused_by_name(name: str) -> None:
    for bad in (K.numpy(), [[1.0]]):
        with pytest.raises(TypeError, match="expected a torch.Tensor of real numbers, found"):
            ALL[name](bad)


@pytest.mark.parametrize("name", ALL)
def test_integers_are_the_numbers_that_they_are(name: str) -> None:
    whole = (10 * K).round()
    torch.testing.assert_close(ALL[name](whole.long()), ALL[name](whole))
    torch.testing.assert_close(ALL[name](K > 0), ALL[name]((K > 0).float()))


@pytest.mark.parametrize("name", SELECTING)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_is_named_where_it_would_drop_others(name: str, bad: float) -> None:
    k = K.clone()
    k[0, 0, 0] = bad
    with pytest.raises(ValueError, match="expected finite values, found NaN or infinity"):
        SELECTING[name](k)


def test_no_patches() -> None:
    with pytest.raises(ValueError, match="patches: expected at least one example"):
        kernels.normalized_patches(K[:0])
    with pytest.raises(ValueError, match="num: expected at least 0, found -1"):
        kernels.sample_klein_kernels(-1)
