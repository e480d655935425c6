"""Whatever context a space is made and first used in, it is the same space: see first_use.py."""

import subprocess
import sys

import pytest
import torch

from tests.spaces import first_use
from tests.spaces.cases import ALL
from topoprior import FlatManifold, SphericalSpaceForm
from topoprior.spaces import Harmonics
from topoprior.utils.plain import found_once, plain

# Closed forms and searched features, flat and round, a product; contexts of every kind.
SOME = ["klein", "lens-5-2", "projective-plane", "moebius", "projective-plane-generic", "rotations-x-klein"]
CONTEXTS = ["inference_mode", "device_meta", "vmap"]


def failures(how: str, spaces: list[str], contexts: list[str]) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "tests.spaces.first_use", how]
    run = subprocess.run(
        [*command, ",".join(spaces), ",".join(contexts)], capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout.strip()


def test_first_use_in_any_context() -> None:
    assert failures("together", SOME, CONTEXTS) == ""


@pytest.mark.slow
@pytest.mark.parametrize("context", [*first_use.CONTEXTS, *first_use.TRANSFORMS])
def test_first_use_of_every_space_in_every_context(context: str) -> None:
    assert failures("apart", ALL, [context]) == ""


def test_what_is_plain_leaves_its_context_and_says_what_went_wrong() -> None:
    @plain
    def made() -> tuple[torch.Tensor, bool]:
        return torch.ones(2), torch.is_autocast_enabled("cpu")

    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu"):
        x, cast = made()
        assert torch.is_inference_mode_enabled()  # for the caller nothing has changed
    assert (x.device.type, x.is_inference(), cast) == ("cpu", False, False)
    with torch.device("meta"), pytest.raises(ValueError, match="lattice: expected shape"):
        FlatManifold([1.0])


def test_what_is_found_once_is_found_once() -> None:
    class Counted:
        count = 0

        @found_once
        def value(self) -> int:
            self.count += 1
            return self.count

    one, other = Counted(), Counted()
    assert [one.value, one.value, other.value] == [1, 1, 1]


def test_matrices_without_values_are_refused() -> None:
    with torch.device("meta"):
        empty = torch.eye(3)
    for make in (lambda: FlatManifold(empty), lambda: SphericalSpaceForm([empty])):
        with pytest.raises(ValueError, match='found a tensor on the device "meta", which has none'):
            make()


def test_spaces_keep_their_own_copy_of_a_matrix() -> None:
    lattice = torch.eye(2, dtype=torch.float64)
    space = FlatManifold(lattice)
    lattice.mul_(2)
    assert space.volume == 1
    assert torch.equal(space.lattice, torch.eye(2, dtype=torch.float64))


def test_harmonics_made_in_a_context() -> None:
    space = FlatManifold([[2.0, 0.0], [0.0, 1.0]], [([[1.0, 0.0], [0.0, -1.0]], [1.0, 0.0])])
    x = torch.tensor([0.3, 0.4], dtype=torch.float64, requires_grad=True)
    expected = Harmonics(space, 6).select([1, 3, 5])(x)
    for context in first_use.CONTEXTS.values():
        with context():
            harmonics = Harmonics(space, 6).select([1, 3, 5])
        value = harmonics(x)
        assert torch.equal(value, expected)
        value.sum().backward()
