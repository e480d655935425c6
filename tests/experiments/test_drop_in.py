"""The drop-in benchmark: a tiny run that resumes, every recipe and network, the report against means by hand."""

import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

pytest.importorskip("pandas")
from experiments.benchmarks import drop_in, drop_in_report, recipes, swapped, tasks  # noqa: E402
from experiments.common.data import ImageData  # noqa: E402
from experiments.common.store import processor  # noqa: E402
from tests.experiments.priors.test_data import write_image  # noqa: E402

TINY = ["--steps", "2", "--batch-size", "8", "--test-size", "20", "--side", "8", "--recipes", "adam-1e-3"]


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    command = [*TINY, "--networks", "plain,batch-norm", "--seeds", "0,", "--output", str(tmp_path)]
    drop_in.main([*command, "--layers", "nn.Conv2d"])
    trained = []
    once = drop_in.one_run
    monkeypatch.setattr(
        drop_in, "one_run", lambda layer, *rest: trained.append(layer) or once(layer, *rest)
    )
    drop_in.main([*command, "--layers", "nn.Conv2d,klein-3x3,gaussian init_scale=0.01 temperature=0.1"])
    assert len(trained) == 4
    table = pd.read_csv(tmp_path / "runs.csv")
    assert len(table) == 6
    assert (table[table["layer"] != "nn.Conv2d"]["KL / N"] > 1).all()
    report = (tmp_path / "report.md").read_text()
    assert "| klein-3x3 | 2 | 2 |" in report
    drop_in.main(["--report", "--output", str(tmp_path)])
    assert (tmp_path / "report.md").read_text() == report
    assert len(trained) == 4


def test_a_run_goes_on_from_a_table(tmp_path, monkeypatch):
    command = [*TINY, "--networks", "plain", "--seeds", "0,", "--layers", "nn.Conv2d,klein-3x3"]
    drop_in.main([*command, "--output", str(tmp_path / "there")])
    earlier = pd.read_csv(tmp_path / "there" / "runs.csv").assign(processor="another")
    reference = earlier["layer"] == "nn.Conv2d"
    trained = []
    once = drop_in.one_run
    monkeypatch.setattr(
        drop_in, "one_run", lambda layer, *rest: trained.append(layer.ours) or once(layer, *rest)
    )

    def go_on(table, name, *options):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
        given = ["--earlier", str(tmp_path / f"{name}.csv"), "--output", str(tmp_path / name)]
        drop_in.main([*command, *given, *options])
        return pd.read_csv(tmp_path / name / "runs.csv")

    pd.testing.assert_frame_equal(go_on(earlier, "same"), earlier)
    assert trained == []
    assert len(go_on(earlier, "more", "--seeds", "0,1")) == 4
    assert trained == [False, True]
    # other defaults: trained anew, and the old run leaves the table; the reference stays as it is
    old = earlier.assign(**{"defaults.init_scale": earlier["defaults.init_scale"] * 2})
    found = go_on(old, "changed")
    assert trained == [False, True, True]
    assert found["defaults.init_scale"].dropna().tolist() == [0.01]
    assert found["processor"].tolist() == [processor(), "another"]
    # a reference of another processor stays beside the new one, and each is compared with its own kind
    beside = go_on(earlier[~reference], "beside", "--layers", "nn.Conv2d")
    drop_in.main(
        ["--report", "--earlier", str(tmp_path / "same" / "runs.csv"), "--output", str(tmp_path / "beside")]
    )
    assert len(pd.read_csv(tmp_path / "beside" / "runs.csv")) == 3
    assert drop_in_report.differences(beside, "klein-3x3", "cls/NLL").empty


def test_runs_of_other_numbers_of_steps_are_apart(tmp_path):
    command = [*TINY, "--networks", "plain", "--layers", "nn.Conv2d,klein-3x3"]
    drop_in.main([*command, "--output", str(tmp_path), "--seeds", "2"])
    first, _ = (tmp_path / "report.md").read_text().split("<details>", 1)
    more = ["--output", str(tmp_path / "more"), "--earlier", str(tmp_path / "runs.csv")]
    drop_in.main([*command, *more, "--seeds", "0,", "--steps", "3"])
    report = (tmp_path / "more" / "report.md").read_text()
    assert report.startswith(first)
    assert report.count("With 3 steps") == 1
    assert len(pd.read_csv(tmp_path / "more" / "runs.csv")) == 6


def test_labels_that_were_corrected_are_trained_anew(tmp_path, monkeypatch):
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for i in range(4):
                write_image(tmp_path / "images" / split / name / f"{i}.png", 100 * label + i, (8, 8))
    trained = []
    once = drop_in.one_run
    monkeypatch.setattr(
        drop_in, "one_run", lambda layer, *rest: trained.append(layer) or once(layer, *rest)
    )
    command = [
        *TINY,
        "--test-size",
        "8",
        "--data",
        f"mine={tmp_path / 'images'}",
        "--networks",
        "plain",
        "--seeds",
        "0,",
    ]
    command += ["--layers", "nn.Conv2d", "--output", str(tmp_path / "out")]
    for swap, expected in ((False, 1), (False, 1), (True, 2)):
        if swap:  # the same pixels in the same order
            cat, dog = (tmp_path / "images/train" / name for name in ("cat", "dog"))
            (cat / "3.png").rename(dog / "-1.png")
        drop_in.main(command)
        assert len(trained) == expected


@pytest.mark.parametrize("network", recipes.NETWORKS)
def test_every_network_trains_by_every_recipe(network):
    layer, task = swapped.make("klein-3x3"), tasks.TASKS.get(network, tasks.Classes())
    net = nn.Sequential(*recipes.NETWORKS[network](layer.peer.convolution, 3, task.outputs(3), 16))
    images = torch.rand(4, 3, 16, 16)
    labels = torch.tensor([0, 1, 2, 0])
    (x, y), _ = task.data(ImageData("made", ("a", "b", "c"), images, labels, images, labels))
    for recipe in recipes.RECIPES:
        optimizer, schedule = recipes.make_optimizer(recipe, net, layer.groups, 5)
        before = [p.detach().clone() for p in net.parameters()]
        (task.loss(net(x), y) + layer.kl(net) / 100).backward()  # biases before norms have the KL alone
        optimizer.step()
        schedule.step()
        assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        optimizer.zero_grad()


def test_pixels_have_the_class_of_their_image_or_none():
    images = torch.tensor([[[[0.0, 1.0]]], [[[0.5, 0.1]]]])
    assert tasks.pixel_labels(images, torch.tensor([0, 4])).tolist() == [[[0, 1]], [[5, 0]]]


def test_the_report_compares_runs_of_one_row_and_seed():
    rows = [
        ("a", "nn.Conv2d", 0, 0.5), ("a", "nn.Conv2d", 1, 0.7), ("a", "klein-3x3", 0, 0.6),
        ("b", "nn.Conv2d", 0, 0.9), ("b", "klein-3x3", 0, 0.5), ("c", "klein-3x3", 0, 0.1),
    ]  # fmt: skip
    table = pd.DataFrame(
        [
            {"data set": "d", "network": "n", "recipe": r, "layer": name, "seed": s, "cls/Acc": acc,
             "cls/NLL": acc, "cal/ECE": acc, "confidence": acc + 0.1, "KL / N": 1.0, "processor": "one"}
            for r, name, s, acc in rows
        ]
    )  # fmt: skip
    found = drop_in_report.differences(table, "klein-3x3", "cls/Acc")
    assert found.round(6).to_dict() == {("d", "n", "a"): 0.1, ("d", "n", "b"): -0.4}
    _, reference, klein = drop_in_report.summary(table)
    assert reference[:4] == ["nn.Conv2d", "2", "3", "0.750"]  # the mean of .6 and .9
    assert klein[:4] == ["klein-3x3", "3", "3", "0.400"]
    half = stats.t.ppf(0.975, 1) * 0.25  # the standard error of .1 and -.4
    assert klein[6] == f"-0.150 ± {half:.3f}"
    assert klein[9:12] == ["-0.400", "1", "+0.100"]


def test_measures_of_a_number_are_those_of_the_mixture():
    """By a mixture of torch's, and of answers drawn from it."""
    draws = torch.randn(5, 4000, 2)
    parts = torch.distributions.Normal(draws[:, :, 0].T, (draws[:, :, 1].T / 2).exp())
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(4000, 5)), parts
    )
    answers = mixture.sample()
    found = tasks.Number().measures(draws, answers)
    assert found["cls/NLL"] == pytest.approx(float(-mixture.log_prob(answers).mean()), rel=1e-4)
    assert found["cls/Acc"] == pytest.approx(
        1 - float((answers - mixture.mean).square().mean() / answers.var(correction=0)), rel=1e-3
    )
    assert found["cal/ECE"] < 0.03  # the largest distance is below .03 but once in 1,500 times (Kolmogorov)
    assert tasks.Number().measures(draws + 1.0, answers)["cal/ECE"] > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "klien-3x3"], "did you mean"),
        (["--layers", "klein-3x3 init_scale=wide"], "expected KEY=NUMBER"),
        (["--layers", "nn.Conv2d width=3"], "options are for priors"),
        (["--networks", "vgg"], "--networks vgg: choose from plain"),
        (["--data", "nothing"], "no data set or folder"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        drop_in.main([*TINY, *options, "--output", str(tmp_path / "out")])
    assert message in capsys.readouterr().err


def test_a_run_that_diverges_is_counted_and_ends_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.Classes, "loss", lambda self, outputs, targets: outputs.sum() * torch.nan)
    command = [*TINY, "--networks", "plain", "--seeds", "0,", "--output", str(tmp_path)]
    drop_in.main([*command, "--layers", "nn.Conv2d,klein-3x3"])
    table = pd.read_csv(tmp_path / "runs.csv")
    assert table["layer"].tolist() == ["klein-3x3", "nn.Conv2d"]
    assert (table["diverged"] == 1).all()
