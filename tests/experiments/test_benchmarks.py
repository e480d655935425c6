"""The benchmark of layers runs, writes what it measured and judges it by its targets."""

import json

import pytest
import torch

pytest.importorskip("tqdm")
from experiments.benchmarks import layers as benchmark_layers  # noqa: E402
from experiments.benchmarks import peers  # noqa: E402


def test_a_short_run(tmp_path, capsys):
    threads = torch.get_num_threads()
    only = ["training", "parameters", "layer"]
    arguments = ["--threads", str(threads), "--repeats", "1", "--batch-sizes", "1", "--no-compiled"]
    benchmark_layers.main([*arguments, "--only", *only, "--output", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (table,) = results["training"]
    assert set(table["rows"]) == set(peers.available(compiled=False)[0])
    assert table["rows"][peers.REFERENCE]["ratio"] == 1
    counts = results["parameters"]
    kernels, biases = 3 * 64 + 64 * 128 + 128 * 256, 64 + 128 + 256
    expected = {peers.REFERENCE: 9 * kernels + biases, peers.OURS[0]: 8 * kernels + 2 * biases}
    for name, number in {**expected, peers.OURS[1]: 2 * expected[peers.REFERENCE]}.items():
        assert counts[name] == {"registered": number, "trained": number}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Training step of the 64-128-256 network, batch 1" in report
    assert report in capsys.readouterr().out


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

    assert points.main(["--repeats", "1", "--only", "chain", "--output", str(tmp_path)]) == 0
    times = json.loads((tmp_path / "points.json").read_text())["milliseconds"]["gradient of a chain"]
    assert set(times) == {points.PLAIN, *points.PRIORS, *(f"step of {prior}" for prior in points.PRIORS)}
    assert min(times.values()) > 0
    assert "5,000 step of gaussian" in (tmp_path / "points.md").read_text()
