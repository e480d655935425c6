"""The comparison of engines: every engine runs, runs are found again, distances are what they say."""

import pandas as pd
import pytest
import torch
from PIL import Image

import topoprior as tp

pytest.importorskip("pandas")
from experiments.common import data as datasets  # noqa: E402
from experiments.common.store import Store  # noqa: E402
from experiments.posteriors import collapse, engines, families, setting, steps  # noqa: E402
from experiments.posteriors.engine_settings import ENGINES  # noqa: E402
from experiments.posteriors.methods import total_variation  # noqa: E402
from topoprior.priors.coordinates import Part, Uniform  # noqa: E402

SMALL = ["--datasets", "embedded", "--priors", "gaussian", "--seeds", "1", "--test", "30", "--budget", "0.001", "--jobs", "1"]  # fmt: skip


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
    assert all(ENGINES[name].words in text for name in chosen)
    assert str(tmp_path) not in text


def test_a_report_is_gone_on_with(tmp_path):
    """Runs of an earlier report are not made again and stay; what is new is judged by a reference of its own."""
    report, csv = tmp_path / "report", tmp_path / "report" / "runs.csv"
    assert command(tmp_path, "--engines", "reference,map") == 0
    assert command(tmp_path, "--report", str(report)) == 0
    before = pd.read_csv(csv)
    other = tmp_path / "other"
    args = ["--earlier", str(csv), "--engines"]
    assert command(other, *args, "reference,map") == 0
    assert not list(Store(other / "out" / "runs"))
    assert command(other, *args, "reference,map,vi") == 0
    assert {run.config["engine"] for run in Store(other / "out" / "runs")} == {"reference", "vi"}
    assert engines.main(["--output", str(other / "out"), "--report", str(report)]) == 0
    after = pd.read_csv(csv).set_index("engine")
    assert sorted(after.index) == ["map", "reference", "vi"]
    assert after.loc["map", "distance"] == before.set_index("engine").loc["map", "distance"]
    assert after.loc["vi", "distance"] > 0


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


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_families_are_the_laws_they_say(family):
    """The KL against torch.distributions with the covariance that draws are made with; 4,000 draws have it (7 standard errors)."""
    d = torch.distributions
    parts = {"0.u": Part(torch.Size([3, 2])), "1.u": Part(torch.Size([2])), "1.z": Part(torch.Size([2, 2]), Uniform(tp.KleinBottle()))}  # fmt: skip
    q = families.FAMILIES[family](parts, {name: torch.randn(part.shape) for name, part in parts.items()})
    with torch.no_grad():
        for p in q.parameters():
            p.copy_(0.3 * torch.randn(p.shape))
    draws = [q.sample() for _ in range(4000)]
    x = torch.stack([torch.cat([draw["0.u"].flatten(), draw["1.u"]]) for draw in draws]).detach().double()
    means = torch.cat([q.loc[0].flatten(), q.loc[1]]).double().detach()
    scales = torch.cat([q.log_scale[0].flatten(), q.log_scale[1]]).exp().double().detach()
    covariance = scales.square().diag()
    if family == "low-rank":
        factor = torch.cat(list(q.factors)).double().detach()
        covariance = covariance + factor @ factor.T
    if family == "matrix-normal":
        left, right = (f.double().detach() for f in q._factors("0.u"))
        covariance[:6, :6] = torch.kron(left @ left.T, right @ right.T)
    kl = d.kl_divergence(d.MultivariateNormal(means, covariance), d.MultivariateNormal(torch.zeros(8).double(), torch.eye(8).double()))  # fmt: skip
    latents = tp.cover_kl(tp.WrappedNormal(tp.KleinBottle(), q.loc[2], q.log_scale[2].exp()), tp.UniformOn(tp.KleinBottle()))  # fmt: skip
    expected = kl + latents.sum()
    if family == "layer-scale":
        t = d.Normal(q.t_loc, q.t_log_scale.exp())
        expected = expected + d.kl_divergence(t, d.Normal(torch.zeros(2), torch.ones(2))).sum()
        factor = (q.t_loc + q.t_log_scale.exp().square() / 2).exp().double().detach()  # E e^t
        assert ((x.mean(0) - means * factor.repeat_interleave(torch.tensor([6, 2]))).abs() < 0.35).all()
    else:
        error = 7 * (covariance.diag()[:, None] * covariance.diag() + covariance.square()).div(4000).sqrt()
        assert ((x.T.cov() - covariance).abs() < error).all()
    assert q.kl().item() == pytest.approx(expected.item(), rel=1e-4)


def test_parts_are_exchanged_among_draws():
    """Each level keeps every marginal; layers move as one, channels as one, a latent's coordinates as one."""
    draws = {"0.alpha": torch.arange(40.0).view(5, 4, 2), "0.z": torch.arange(80.0).view(5, 4, 2, 2), "1.u": torch.arange(15.0).view(5, 3)}  # fmt: skip
    for level in collapse.LEVELS:
        found = collapse.shuffled(draws, level)
        for name, x in draws.items():
            assert torch.equal(found[name].sort(0).values, x)
        a, z = found["0.alpha"] // 8, found["0.z"] // 16  # which draw it came from
        assert torch.equal(z[..., 0], z[..., 1])
        if level in ("draws", "layers"):
            assert torch.equal(a, z[..., 0])
            assert (a == a[:, :1, :1]).all()
        if level == "channels":
            assert torch.equal(a, z[..., 0])
            assert (a == a[..., :1]).all()
    assert torch.equal(collapse.shuffled(draws, "draws")["1.u"], draws["1.u"])


def test_why_it_falls_back_from_end_to_end(tmp_path):
    assert collapse.main(["--datasets", "embedded", "--priors", "gaussian", "--budget", "0.01", "--output", str(tmp_path)]) == 0  # fmt: skip
    text = (tmp_path / "collapse.md").read_text()
    assert all(level in text for level in collapse.LEVELS)


def test_images_of_another_set(tmp_path):
    """Each folder's first other; its images in the colours of the first, in units of what is learned from."""
    for name, mode, value in (("grey", "L", 100), ("colour", "RGB", (10, 60, 110))):
        for part, count in (("train", 4), ("test", 2)):
            for c in "ab":
                folder = tmp_path / name / part / c
                folder.mkdir(parents=True)
                for i in range(count):
                    image = Image.new(mode, (12, 12), value)
                    image.putpixel((0, 0), (i, i, i) if mode == "RGB" else i)  # no two alike
                    image.save(folder / f"{i}.png")
    folders = [str(tmp_path / name) for name in ("grey", "colour")]
    args = engines.make_parser().parse_args(["--datasets", ",".join(folders), "-n", "4", "--test", "4", "--size", "12", "--seeds", "1", "--engines", "map"])  # fmt: skip
    grey, colour = (next(r for r in engines.runs(args, pd.DataFrame()) if r.settled["dataset"] == name) for name in ("grey", "colour"))  # fmt: skip
    assert grey.foreign.shape == (4, 1, 12, 12)
    assert colour.foreign.shape == (4, 3, 12, 12)
    learned = datasets.load(folders[0], tmp_path, image_size=12, train_size=4, test_size=4).train_images
    expected = (60 / 255 - learned.mean()) / learned.std()
    assert grey.foreign[0, 0, 5, 5].item() == pytest.approx(expected.item(), rel=1e-4)
    args.datasets = folders[:1]
    assert all(len(run.foreign) == 0 for run in engines.runs(args, pd.DataFrame()))


def test_entropy_tells_what_is_foreign():
    """AUROC by hand: of 2 x 3 pairs the foreign image has the higher entropy in 4, a tie counts half."""
    sure, unsure, flat = [1.0, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3
    p, foreign = torch.tensor([sure, unsure]), torch.tensor([flat, unsure, sure])
    found = setting.judge(p, torch.tensor([0, 1]), foreign)
    assert found["auroc"] == pytest.approx((2 + 1.5 + 0.5) / 6)
    assert "auroc" not in setting.judge(p, torch.tensor([0, 1]))


def test_total_variation():
    p, q = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0.5, 0.5]])
    assert total_variation(p, q) == pytest.approx((0 + 1 + 0.5) / 3)


def test_images_are_balanced_and_standardized(tmp_path):
    x, y, test_x, test_y = setting.split("embedded", tmp_path, size=14, n=50, test=20, seed=3)
    assert x.shape == (50, 1, 14, 14)
    assert test_x.shape == (20, 1, 14, 14)
    assert torch.equal(y.bincount(), torch.full((10,), 5))
    assert x.mean().abs() < 1e-5
    assert x.std().item() == pytest.approx(1, abs=1e-5)
    again, other = (setting.split("embedded", tmp_path, size=14, n=50, test=20, seed=s)[0] for s in (3, 4))
    assert torch.equal(again, x)
    assert not torch.equal(other, x)


def test_bad_arguments(tmp_path, capsys):
    for arguments, said in [
        (["--engines", "magic"], "--engines magic: choose from reference"),
        (["--priors", "magic"], "--priors magic: choose from klein-3x3"),
        (["--datasets", "nowhere"], "no data set or folder 'nowhere'"),
        (["--size", "7"], "--size 7: give at least 8"),
        (["--earlier", str(tmp_path / "e.csv")], "no such file"),
        (["--report", str(tmp_path / "r")], "no runs there yet"),
    ]:
        with pytest.raises(SystemExit):
            engines.main([*SMALL, "--output", str(tmp_path / "none"), *arguments])
        assert said in capsys.readouterr().err


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
