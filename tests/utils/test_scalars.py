"""Numbers of a training by step, in files."""

import torch

import topoprior as tp
from topoprior.utils.scalars import Scalars
from topoprior.vae import fit


def test_a_training_that_goes_on_adds_to_what_is_there(tmp_path):
    for step in (1, 2):
        with Scalars(tmp_path) as scalars:
            scalars.write(step, {"loss": 1 / step, "KL, of all": float("nan")})
    lines = (tmp_path / "scalars.csv").read_text().splitlines()
    assert lines == [
        "step,name,value",
        "1,loss,1",
        '1,"KL, of all",nan',
        "2,loss,0.5",
        '2,"KL, of all",nan',
    ]


def test_a_fit_tells_every_epoch():
    torch.manual_seed(0)
    vae = tp.CoveringVAE(tp.Euclidean(1), (4,), encoder_hidden=(4,), decoder_hidden=(4,))
    told = []
    x = torch.rand(40, 4)
    history = fit(
        vae, x[8:], validation=x[:8], epochs=3, progress=False, log=lambda *found: told.append(found)
    )
    expected = [
        {"negative ELBO/train": a, "negative ELBO/validation": b}
        for a, b in zip(history.train, history.validation, strict=True)
    ]
    assert told == list(enumerate(expected, 1))
