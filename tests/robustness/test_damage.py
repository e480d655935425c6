"""A thousand damaged files of every format: the same numbers, or one line with the file's name; else it is wrong."""

import random

import numpy as np
import pytest
import safetensors.torch
import torch

import topoprior as tp
from tests.robustness.tally import Tally, damage
from topoprior.kernels import harvest_kernels, read_patches
from topoprior.utils.files import CONFIG, MODEL, CheckpointError
from topoprior.vae.run import Run

COUNT = 1000
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["klein-3x3", "euclidean-3x3"])
@pytest.mark.parametrize("part", [CONFIG, MODEL])
def test_priors(name, part, tmp_path):
    """A configuration of another digest is passed over: then the prior has to be the whole one."""
    tally, rng = Tally(f"{name}, {part}"), random.Random(0)
    prior = tp.get_prior(name)
    prior.save_pretrained(tmp_path)
    data = (tmp_path / part).read_bytes()
    z = torch.rand(20, 2)
    expected = prior.decode(z)
    state = prior.posterior((2, 2, 3, 3)).state_dict()
    for i in range(COUNT // 2):
        (tmp_path / part).write_bytes(damage(data, rng))
        try:
            found = tp.get_prior(tmp_path)
            same = found.posterior((2, 2, 3, 3)).state_dict()
        except CheckpointError as error:
            tally.error(error, str(tmp_path), case=str(i))
        except Exception as error:
            tally.wrong(f"{i}: {error!r}")
        else:
            fixed = [name for name in state if name not in ("loc", "log_scale")]
            exact = torch.equal(found.decode(z), expected) and all(
                torch.equal(state[name], same[name]) for name in fixed
            )
            tally.right() if exact else tally.wrong(f"{i}: loads to other numbers")
    tally.over()


def test_training_checkpoints(tmp_path):
    """Of the whole state, also in the optimizer: as it was saved, or refused with the model untouched."""
    tally, rng = Tally("checkpoints of fit"), random.Random(1)
    settings = {"epochs": 2, "validation": "none"}

    def fresh():
        torch.manual_seed(0)
        vae = tp.CoveringVAE(
            tp.Circle(), (3,), encoder_hidden=(8,), decoder_hidden=(), likelihood="gaussian"
        )
        return Run(vae, settings, 6, 1e-3)

    run, path = fresh(), tmp_path / "run"
    for _ in range(3):
        run.optimizer.zero_grad()
        (-run.vae.elbo(torch.rand(10, 3)).value.mean()).backward()
        run.optimizer.step()
        run.schedule.step()
    run.train.append(1.0)
    run.keep_best()
    run.save(path)
    data = path.read_bytes()

    def state(of):
        return [*of.vae.state_dict().values(), *(m[k] for m in of.optimizer.state.values() for k in m)]

    whole, untouched = state(run), state(fresh())
    for i in range(COUNT):
        path.write_bytes(damage(data, rng))
        again = fresh()
        try:
            again.load(path)
        except CheckpointError as error:
            before = all(torch.equal(a, b) for a, b in zip(state(again), untouched, strict=True))
            tally.error(error, str(path), case=str(i)) if before else tally.wrong(
                f"{i}: the model is changed"
            )
        except Exception as error:
            tally.wrong(f"{i}: {error!r}")
        else:
            exact = all(torch.equal(a, b) for a, b in zip(state(again), whole, strict=True))
            tally.right() if exact else tally.wrong(f"{i}: loads to other numbers")
    tally.over()


@pytest.mark.parametrize("suffix", [".npy", ".mat", ".pt", ".safetensors"])
def test_foreign_files(suffix, tmp_path):
    """These formats have no digest: kernels that are read are right if they are finite numbers of the right shape."""
    tally, rng = Tally(suffix), random.Random(2)
    path, call = tmp_path / f"x{suffix}", read_patches
    if suffix == ".npy":
        np.save(path, np.random.default_rng(0).normal(size=(150, 9)))
    elif suffix == ".mat":
        io = pytest.importorskip("scipy.io")
        io.savemat(path, {"x": np.random.default_rng(0).normal(size=(150, 9))}, do_compression=True)
    else:
        save = torch.save if suffix == ".pt" else safetensors.torch.save_file
        save({"a": torch.randn(20, 10, 3, 3), "b": torch.randn(4)}, path)
        call = lambda p: harvest_kernels(p).kernels  # noqa: E731
    data = path.read_bytes()
    for i in range(COUNT):
        path.write_bytes(damage(data, rng))
        try:
            found = call(path)
        except Exception as error:
            tally.error(error, path.name, case=str(i))
        else:
            usable = found.dim() == 3 and len(found) >= 100 and bool(torch.isfinite(found).all())
            tally.right() if usable else tally.wrong(f"{i}: {tuple(found.shape)}")
    tally.over()
