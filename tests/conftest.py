"""Every test is deterministic: fixed seeds, one thread, derandomized hypothesis."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")
# Small tensors, two tests at a time: threads that wait for one another only cost, those of programs that tests start too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _afresh() -> None:
    torch.manual_seed(0)
    # Libraries that some tests import switch the checks of torch's distributions off for the whole process.
    torch.distributions.Distribution.set_default_validate_args(True)
