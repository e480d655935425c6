"""experiments.cifar10 as its users run it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.cifar10 import compress, report, run, training
from experiments.common.store import Store
from experiments.common.tables import read_runs
from tests.experiments.priors.test_data import write_image

COMMAND = [
    "--effort",
    "10",
    "--width",
    "4",
    "--corrupted",
    "6",
    "--jobs",
    "1",
    "--sizes",
    "24",
    "--quiet",
]


@pytest.fixture
def folder(tmp_path):
    for part, count in (("train", 12), ("test", 8)):
        for k, name in enumerate("abc"):
            for i in range(count):
                write_image(tmp_path / "mine" / part / name / f"{i}.png", (60 * k, 15 * i, 90), (16, 16))
    return tmp_path / "mine"


def command(folder: Path, output: Path, *more: str) -> int:
    return run.main(["--dataset", f"little={folder}", *COMMAND, "--output", str(output), *more])


def test_the_script_from_images_to_report(folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    some = ["--methods", "klein,nn.Conv2d", "--seeds", "2", "--members", "2"]
    assert command(folder, output, "--select", "--methods", "klein") == 0
    assert command(folder, output, *some) == 0
    found = pd.read_csv(output / "runs.csv")
    chosen = found[found["role"] == "selection"]
    assert len(chosen) == 2 * 4
    assert chosen["cls/Acc"].isna().all()  # test images are not looked at
    reported = found[found["role"] == "reported"]
    # seeds x methods x (last, average, laplace), two members and their ensemble
    assert reported["members"].value_counts().to_dict() == {1: 2 * 2 * 3 * 2, 2: 2 * 2 * 3}
    assert reported["ood/AUROC"].between(0, 1).all()
    assert (reported["sc/AURC"] <= 1).all()
    files = sorted(path.stem for path in (output / "runs").glob("reported*"))
    assert files == sorted(path.stem for path in (output / "networks").iterdir())
    sizes = sorted({path.stat().st_size / 1000 for path in (output / "networks").iterdir()})
    assert sorted(set(reported.query("members == 1")["checkpoint kB"])) == pytest.approx(sizes, rel=1e-5)
    assert reported["cls/Acc"].between(0, 1).all()
    assert set(reported["dataset"]) == {"little"}
    assert not list((output / "unfinished").glob("*"))
    two = tmp_path / "two sizes"
    two.mkdir()
    pd.concat([found, found.assign(n=48)]).to_csv(two / "runs.csv", index=False)
    assert report.main([str(two)]) == 0
    text = (two / "report.md").read_text()
    assert "| Klein, MAP - nn.Conv2d | narrow, width 4, n = 24 | 2 |" in text
    assert "How the rates were chosen" in text
    assert "| Klein, MAP (laplace) - nn.Conv2d (last) | narrow, width 4, n = 24 | 2 |" in text
    assert str(folder.parent) not in text
    assert all(
        (two / name).stat().st_size < 150_000 for name in ("sizes.png", "forest.png", "corruptions.png")
    )
    assert (
        compress.main(
            [
                "--dataset",
                f"little={folder}",
                "--output",
                str(output),
                "--sizes",
                "24",
                "--seeds",
                "2",
                "--quiet",
            ]
        )
        == 0
    )
    smaller = pd.read_csv(output / "compression.csv")
    assert smaller["form"].value_counts()["float32"] == 2 * 2 * 2
    key = ["method", "seed", "member"]
    alone = reported.query("members == 1 and weights == 'last'").astype({"member": int})
    whole, again = (rows.set_index(key)["cls/NLL"] for rows in (alone, smaller.query("form == 'float32'")))
    pd.testing.assert_series_equal(whole.sort_index(), again.sort_index(), rtol=1e-5)
    assert report.main([str(output)]) == 0
    assert "4 kernels of its own, 8 bits" in (output / "report.md").read_text()
    monkeypatch.setattr(training.Training, "run", None)  # would fail if a run were made again
    assert command(folder, output, *some) == 0
    # elsewhere, from the committed rows alone
    other = tmp_path / "other"
    assert command(folder, other, *some, "--earlier", str(output / "runs.csv")) == 0
    assert not (other / "runs").exists()
    again = pd.read_csv(other / "runs.csv")
    pd.testing.assert_frame_equal(again, found)


def test_side_runs_look_at_validation_images_and_choose_nothing(folder, tmp_path):
    output = tmp_path / "out"
    some = ["--methods", "klein", "--seeds", "3"]
    assert command(folder, output, *some, "--side", "0.01,0.02,3,0.5", "--side", "0.01,0.01,0,0") == 0
    assert command(folder, output, *some) == 0
    found = pd.read_csv(output / "runs.csv")
    side = found[found["role"] == "side"]
    assert set(side["seed"]) == {100}
    assert side["cls/Acc"].isna().all()
    rates = side[["lr", "latent_lr", "weight_decay", "temperature"]].drop_duplicates()
    # a third of the images that rates are chosen on, so a third of the steps and three times the decay
    assert sorted(map(tuple, rates.to_numpy())) == [(0.01, 0.01, 0.0, 0.0), (0.01, 0.02, 9.0, 0.5)]
    assert report.main([str(output)]) == 0
    text = (output / "report.md").read_text()
    assert "| width 4, 1 steps | Klein, MAP | 0.01 | 0.02 | 9 | 0.5 |" in text
    assert "How the rates were chosen" not in text


def test_an_ensemble_is_the_mean_of_predictions(folder, tmp_path):
    output = tmp_path / "out"
    assert command(folder, output, "--methods", "nn.Conv2d", "--seeds", "1", "--members", "3") == 0
    files = [np.load(path) for path in (output / "logits").glob("*.npz")]
    assert len(files) == len(list(Store(output / "runs"))) == 3
    p = np.mean([torch.from_numpy(file["last test"]).double().softmax(1).numpy() for file in files], 0)
    labels = np.repeat(np.arange(3), 8)
    found = pd.read_csv(output / "runs.csv").query("members == 3 and weights == 'last'").iloc[0]
    assert found["cls/NLL"] == pytest.approx(-np.log(p[np.arange(24), labels]).mean(), rel=1e-4)
    assert found["cls/Acc"] == pytest.approx((p.argmax(1) == labels).mean())


def test_a_run_takes_the_place_of_an_earlier_row(folder, tmp_path):
    """An earlier row of another seed stays, one of the same run is not there twice."""
    output, some = tmp_path / "out", ["--methods", "nn.Conv2d"]
    assert command(folder, output, *some, "--seeds", "1") == 0
    rows = read_runs(output / "runs.csv")
    earlier = pd.concat([rows.assign(**{"cls/Acc": 9.0}), rows.assign(seed=7)])
    earlier.to_csv(tmp_path / "earlier.csv", index=False)
    assert command(folder, output, *some, "--seeds", "1", "--earlier", str(tmp_path / "earlier.csv")) == 0
    found = read_runs(output / "runs.csv")
    assert found["seed"].tolist() == [0, 0, 0, 7, 7, 7]
    assert (found["cls/Acc"] <= 1).all()
    assert set(found["data"]) == set(rows["data"])


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        (["--methods", "nothing"], "--methods"),
        (["--network", "nothing"], "--network"),
        (["--sizes", "1000"], "--sizes"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--side", "0.1,2,3"], "--side"),
        (["--side", "0.1,2,3,-1"], "--side"),
        (["--side", "0.1,0,3,1"], "--side"),
        (["--earlier", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, tmp_path, capsys, wrong, names):
    with pytest.raises(SystemExit) as ended:
        command(folder, tmp_path / "out", *wrong)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert names in error
    assert not (tmp_path / "out" / "runs").exists()
