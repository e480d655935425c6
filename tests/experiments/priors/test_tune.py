"""Tuning: equal effort, choices by validation alone, resumption, one line for what is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.priors import candidates, methods, training, tune
from experiments.priors.methods import Settings
from experiments.priors.training import Budget


@pytest.mark.parametrize("profile", [p for p in tune.PROFILES if p != tune.NETWORK])
def test_equal_effort(profile: str) -> None:
    """Every method has as many candidates, and none is there twice for one method only."""
    counts = set()
    for name in tune.PROFILES[profile].methods:
        best, lengths, seen = Settings(1e-2, 0.1, {"init_scale": 0.03}), [], set()
        for stage in candidates.stages(profile, name):
            tried = stage(best)
            lengths.append(len(tried))
            seen |= {repr(settings) for settings in tried}
            best = tried[0]
        assert len(seen) == sum(lengths)
        counts.add(tuple(lengths))
    assert len(counts) == 1


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tune.Profile((("embedded", 20),), Budget(2, 10, samples=2), ("gaussian", "klein"), 30)
    monkeypatch.setitem(tune.PROFILES, "bayes-mnist", profile)
    network = tune.Profile((("embedded", 20),), Budget(2, 10, samples=2), ("gaussian",), 30)
    monkeypatch.setitem(tune.PROFILES, tune.NETWORK, network)
    monkeypatch.setattr(
        tune, "stages", lambda _, name: [candidates._relative_rates(name), candidates._rates]
    )


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("computed again")


@pytest.mark.usefixtures("small")
def test_the_least_nll_is_chosen_and_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["--jobs", "1", "--output", str(tmp_path)]
    before = {path: path.read_bytes() for path in methods.SETTINGS_FOLDER.iterdir()}
    assert tune.main(command) == 0
    assert before == {path: path.read_bytes() for path in methods.SETTINGS_FOLDER.iterdir()}
    chosen = methods.read_settings("bayes-mnist", tmp_path)
    scores = pd.read_csv(tmp_path / "bayes-mnist.csv")
    assert len(scores) == 2 * (3 + 3)
    for name in ("gaussian", "klein"):
        some = scores[scores["method"] == name]
        assert str(chosen[name]) == some.loc[some["NLL"].idxmin(), "settings"]
    with pytest.raises(ValueError, match="no settings for 'cold'"):
        methods.read_settings("cold")
    (tmp_path / "bayes-mnist.json").unlink()
    monkeypatch.setattr(training, "train", _never)
    assert tune.main(command) == 0
    assert methods.read_settings("bayes-mnist", tmp_path) == chosen
    with pytest.raises(SystemExit):  # scored on two subsets: other figures
        tune.main([*command, "--seeds", "2"])


@pytest.mark.usefixtures("small")
def test_tuning_on_corrected_labels_runs_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of other labels nothing is known: the search may also go another way, so files are not compared."""
    from tests.experiments.priors.test_data import write_image

    images = tmp_path / "images"
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for i in range(20):
                write_image(images / split / name / f"{i}.png", 100 * label + i, (8, 8))
    monkeypatch.setitem(
        tune.PROFILES,
        "bayes-mnist",
        tune.Profile((("mnist", 10),), Budget(2, 10, samples=2), ("gaussian",), 10),
    )
    command = ["--jobs", "1", "--output", str(tmp_path / "out"), "--folder", f"mnist={images}"]

    def known() -> list[int]:
        """How many runs of every round were found."""
        capsys.readouterr()
        assert tune.main(command) == 0
        return [int(done) for done in re.findall(r"runs, (\d+) of them done", "".join(capsys.readouterr()))]

    first = known()
    assert sum(known()) > sum(first)  # the same command again
    (images / "train/cat/3.png").rename(images / "train/dog/corrected.png")
    assert known() == first


@pytest.mark.usefixtures("small")
def test_the_least_mean_over_methods_is_the_network(tmp_path: Path) -> None:
    command = ["--profile", "network", "--networks", "narrow,two", "--jobs", "1", "--output", str(tmp_path)]
    assert tune.main(command) == 0
    scores = pd.read_csv(tmp_path / "network.csv")
    assert len(scores) == 2 * 4
    chosen = json.loads((tmp_path / "network.json").read_text())["network"]
    assert chosen == scores.loc[scores["NLL"].idxmin(), "network"]
    made_up = pd.DataFrame(
        [("a", "x", 0.1), ("a", "y", 0.9), ("b", "x", 0.4), ("b", "y", 0.5), ("b", "y", 0.7)],
        columns=["network", "method", "NLL"],
    )
    assert tune.choose_network(made_up)[0] == "b"


@pytest.mark.usefixtures("small")
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, says in (
        ("--methods kleine", "--methods kleine: choose from"),
        ("--networks huge", "--networks huge: choose from compare"),
        (f"--folder embedded={tmp_path}/nothing", "no data set or folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            tune.main([*arguments.split(), "--output", str(tmp_path / "out")])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training, "train", fail)
    with pytest.raises(SystemExit):
        tune.main(["--jobs", "1", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert error.endswith("runs failed, and without them nothing can be chosen\n")
    assert "Traceback" not in error
