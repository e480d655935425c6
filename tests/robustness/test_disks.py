"""Full disks and folders that cannot be written to: one line, and what was there stays whole."""

import pytest

import topoprior as tp
from tests.robustness.jobs import QUICK_TRAIN, start
from tests.robustness.tally import Tally

pytestmark = pytest.mark.slow
TRAIN = [*QUICK_TRAIN, "--epochs", "6"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """Files of at most so many bytes: an error of one line, the old prior whole, no file left over."""
    tally = Tally("a full disk")
    tp.get_prior("circle-3x3").save_pretrained(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    commands = {
        "export": ["topoprior", "export", "klein-natural-3x3", "--output", "out", "--overwrite"],
        "train-prior": ["topoprior", *TRAIN, "--output", "out", "--overwrite", "--checkpoint", "state"],
    }
    for name, command in commands.items():
        for limit in (0, 1, 100, 500):
            job = start(["-m", *command], tmp_path, limit)
            _, error = job.communicate()
            left = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
            litter = list((tmp_path / "state").iterdir()) if (tmp_path / "state").exists() else []
            if job.returncode == 2 and error.count("\n") == 1 and left == before and not litter:
                tally.clear()
            else:
                tally.wrong(f"{name}, {limit}: {job.returncode}, {error}, {sorted(left)}, {litter}")
    tally.over()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    """A read-only file system, /proc (permissions do not stop root): one line before the work."""
    tally = Tally("a read-only folder")
    for command in (
        ["export", "klein-3x3", "--output", "/proc/out"],
        [*TRAIN, "--output", "/proc/out"],
        [*TRAIN, "--output", "out", "--checkpoint", "/proc/state"],
        ["inspect", "klein-3x3", "--output", "/proc/out"],
        ["explore", "klein-3x3", "--output", "/proc/page.html"],
    ):
        job = start(["-m", "topoprior", *command], tmp_path)
        out, error = job.communicate()
        good = job.returncode == 2 and error.count("\n") == 1 and "/proc" in error and not out
        tally.clear() if good else tally.wrong(f"{command}: {job.returncode} {error}")
    assert not list(tmp_path.iterdir())
    tally.over()
