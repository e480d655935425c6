"""The comparison of engines: every engine runs, runs are found again, distances are what they say."""

import pandas as pd
import pytest
import torch

pytest.importorskip("pandas")
from experiments.common.store import Store  # noqa: E402
from experiments.posteriors import chains, engines, setting, steps  # noqa: E402
from experiments.posteriors.methods import total_variation  # noqa: E402
from experiments.posteriors.setting import read_embedded  # noqa: E402

SMALL = ["--datasets", "embedded", "--priors", "gaussian", "--seeds", "1", "--test", "30", "--budget", "0.001"]  # fmt: skip


def command(folder, *more: str) -> int:
    return engines.main([*SMALL, "--output", str(folder / "out"), *more])


def test_runs_are_made_once_and_reported(tmp_path, capsys, monkeypatch):
    chosen = ["reference", "map", "vi", "vi-last"]
    assert command(tmp_path, "--engines", ",".join(chosen)) == 0
    monkeypatch.setattr(engines, "run_one", None)  # would fail if a run were made again
    assert command(tmp_path, "--engines", ",".join(chosen)) == 0
    assert command(tmp_path, "--report", str(tmp_path / "report")) == 0
    table = pd.read_csv(tmp_path / "report" / "runs.csv").set_index("engine")
    assert sorted(table.index) == sorted(chosen)
    assert (table["distance"].drop("reference") > 0).all()
    assert table.loc["reference", "distance"] == pytest.approx(table.loc["reference", "halves_apart"])
    assert table.loc["vi", "negative_elbo"] > table.loc["vi", "kl"] > 0
    assert pd.isna(table.loc["map", "kl"])
    # A distance by hand.
    runs = {
        run.config["engine"]: torch.tensor(run.result["predictions"])
        for run in Store(tmp_path / "out" / "runs")
    }
    by_hand = (runs["map"] - runs["reference"]).abs().sum(1).mean() / 2
    assert table.loc["map", "distance"] == pytest.approx(by_hand.item(), rel=1e-4)
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(engines.ENGINES[name].words in text for name in chosen)
    assert str(tmp_path) not in text


@pytest.mark.slow  # libraries that take long to import
@pytest.mark.parametrize("engine", ["sghmc", "laplace-last", "ensemble", "natural", "vi-from-map", "hmc"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_engine_predicts(tmp_path, engine):
    if engine in ("sghmc", "laplace-last"):
        pytest.importorskip({"sghmc": "posteriors", "laplace-last": "laplace"}[engine])
    assert command(tmp_path, "--engines", engine, "--budget", "0.05") == 0
    (run,) = Store(tmp_path / "out" / "runs")
    p = torch.tensor(run.result["predictions"])
    torch.testing.assert_close(p.sum(1), torch.ones(30), atol=1e-4, rtol=0)


def test_total_variation():
    p, q = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0.5, 0.5]])
    assert total_variation(p, q) == pytest.approx((0 + 1 + 0.5) / 3)


def test_images_are_balanced_and_standardized():
    x, y, test_x, test_y = setting.choose(setting.read_embedded(), 50, 20, seed=3, size=14)
    assert x.shape == (50, 1, 14, 14)
    assert test_x.shape == (20, 1, 14, 14)
    assert torch.equal(y.bincount(), torch.full((10,), 5))
    assert x.mean().abs() < 1e-5
    assert x.std().item() == pytest.approx(1, abs=1e-5)
    again, other = (setting.choose(setting.read_embedded(), 50, 20, seed=s)[1] for s in (3, 4))
    assert torch.equal(again, y)
    assert other.shape == y.shape


def test_bad_arguments(tmp_path, capsys):
    for arguments, said in [
        (["--engines", "magic"], "--engines magic: choose from reference"),
        (["--datasets", "mnist"], "--data: mnist wants the folder"),
        (["--size", "7"], "--size 7: choose from 14, 28"),
        (["--report", str(tmp_path / "r")], "no runs there yet"),
    ]:
        with pytest.raises(SystemExit):
            engines.main([*SMALL, "--output", str(tmp_path / "none"), *arguments])
        assert said in capsys.readouterr().err


def test_damaged_files_of_mnist_are_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    whole = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])
    path.write_bytes(whole)
    assert setting.read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=path.name):
            setting.read_idx(path)


def test_steps_to_the_best_bound(tmp_path, monkeypatch):
    """A run from end to end; and the bound that is measured is that in closed form, at the optimum of the linear model."""
    monkeypatch.setattr(steps, "LENGTHS", (2, 4))
    monkeypatch.setattr(steps, "LONG", 4)
    monkeypatch.setattr(steps, "TOYS", {"regression": steps.regression})
    assert steps.main(["--output", str(tmp_path), "--seeds", "1"]) == 0
    text = (tmp_path / "steps.md").read_text()
    assert "natural gradient" in text
    torch.manual_seed(0)
    toy = steps.regression()
    net, n = toy.make(), len(toy.x)
    design = torch.cat([toy.x, torch.ones(n, 1)], 1)
    precision = design.T @ design / 0.25 + torch.eye(11)
    mean = torch.linalg.solve(precision, design.T @ toy.y / 0.25).squeeze(1)
    scale = precision.diagonal().rsqrt()
    with torch.no_grad():
        for posterior, part in zip(net[0].posteriors(), (slice(10), slice(10, None)), strict=True):
            posterior.loc.copy_(mean[part].view_as(posterior.loc))
            posterior.log_scale.copy_(scale[part].log().view_as(posterior.loc))
    residual = (design @ mean - toy.y.squeeze(1)).square() + design.square() @ scale.square()
    nll = residual.mean() / 0.5 + torch.tensor(0.5 * (2 * torch.pi) ** 0.5).log()
    kl = 0.5 * (mean.square() + scale.square() - 1 - 2 * scale.log()).sum()
    assert steps.bound(toy, net) == pytest.approx((nll + kl / n).item(), abs=0.05)


def test_chains_end_in_a_line_at_the_keyboard(tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(chains, "read_folder", lambda folder: read_embedded())
    monkeypatch.setattr(chains, "gradient_cost", interrupted)
    assert chains.main(["--data", str(tmp_path), "-n", "20", "--output", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == f"stopped; the same command resumes from {tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "config.json").exists()
