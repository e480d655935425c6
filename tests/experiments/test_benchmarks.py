"""The benchmark of layers runs, writes what it measured and judges it by its targets."""

import json

import pytest
import torch

pytest.importorskip("tqdm")
from experiments.benchmarks import costs, peers, variants  # noqa: E402
from experiments.benchmarks import layers as benchmark_layers  # noqa: E402


def test_a_short_run(tmp_path, capsys, monkeypatch):
    """Every network in every way; a second call replaces the parts that it measures."""
    monkeypatch.setattr(costs, "CHANNELS", 16)
    output, threads = tmp_path / "out", torch.get_num_threads()
    arguments = ["--threads", str(threads), "--repeats", "1", "--batch-sizes", "1", "--no-compiled"]
    for only in (["layer", "deep"], ["training", "parameters"]):
        benchmark_layers.main([*arguments, "--processor-time", "--only", *only, "--output", str(output)])
    results = json.loads((output / "results.json").read_text())
    ways = [way.name for way in variants.available(torch.device("cpu"), compiled=False)]
    steps = {(row["layer"], row["variant"]): row for row in results["training"]}
    assert {(name, way) for name in peers.available(compiled=False)[0] for way in ways} <= set(steps)
    plain = [steps[peers.REFERENCE, way] for way in ways]
    assert all(row["ratio"] == 1 for row in plain)
    assert min(row["to fastest"] for row in plain) == 1
    counts = {row["layer"]: (row["registered"], row["trained"]) for row in results["parameters"]}
    kernels, biases = 3 * 64 + 64 * 128 + 128 * 256, 64 + 128 + 256
    expected = {peers.REFERENCE: 9 * kernels + biases, peers.OURS[0]: 8 * kernels + 2 * biases}
    for name, number in {**expected, peers.OURS[1]: 2 * expected[peers.REFERENCE]}.items():
        assert counts[name] == (number, number)
    report = (output / "report.md").read_text()
    assert "Training step, batch 1" in report
    assert "Training step, 18 layers of 16 channels, batch 1" in report
    assert "512-512 layer: draw and KL / convolution, batch 16" in report
    assert report in capsys.readouterr().out
    assert (output / "runs.csv").read_text().count("\n") == 1 + sum(
        map(len, map(results.get, ("training", "deep", "parameters", "layer")))
    )


def test_a_table_measured_again_takes_the_place_of_its_own():
    def row(measure, batch, ms, **more):
        return {"measure": measure, "batch": batch, "layer": "a", "ms": ms, **more}

    before = [
        row("step", 8, 1),
        row("step", 64, 2),
        row("peak", 16, 3, bytes=1),
        row("peak", 16, 4, bytes=1) | {"layer": "b"},
    ]
    found = benchmark_layers.merged(before, [row("step", 8, 5)])
    assert [r["ms"] for r in found] == [2, 3, 4, 5]
    found = benchmark_layers.merged(before, [row("peak", 16, 6, bytes=1)])  # of one network
    assert [r["ms"] for r in found] == [1, 2, 4, 6]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_nothing_is_run(tmp_path, capsys):
    benchmark_layers.main(["--device", "cuda", "--output", str(tmp_path / "out")])
    assert "cuda: not run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_every_peer_steps_and_has_a_kl():
    x, y = torch.randn(2, 3, 8, 8), torch.tensor([1, 2])
    for name, peer in peers.available(compiled=False)[0].items():
        net = peers.network(peer)
        torch.nn.functional.cross_entropy(net(x), y).backward()
        assert (float(torch.as_tensor(peer.kl(net)).detach()) > 0) == (name != peers.REFERENCE), name
        assert peers.sample_predictions(name, net, x, 2).shape[-2:] == (2, 10)


def test_bad_arguments(tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark_layers.main(["--repeats", "0"])
    assert "'0': give a whole number, at least 1" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        benchmark_layers.main(["--output", str(tmp_path / "file" / "out")])
    assert "--output" in capsys.readouterr().err


def test_points_beside_plain_weights(tmp_path):
    from experiments.benchmarks import points

    small = [
        "--repeats",
        "1",
        "--only",
        "chain",
        "--size",
        "8",
        "--widths",
        "2,3",
        "--output",
        str(tmp_path),
    ]
    assert points.main(small) == 0
    times = json.loads((tmp_path / "points.json").read_text())["milliseconds"]["gradient of a chain"]
    assert set(times) == {points.PLAIN, *points.PRIORS, *(f"step of {prior}" for prior in points.PRIORS)}
    assert min(times.values()) > 0
    assert "5,000 step of gaussian" in (tmp_path / "points.md").read_text()
