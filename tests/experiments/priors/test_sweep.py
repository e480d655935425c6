"""The sweep: its grid and its names, resumption, failures, backends, hardware; measures against oracles."""

import copy
import json
import math
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import topoprior as tp
from experiments.common import statistics as paired
from experiments.priors import (
    candidates,
    grid,
    hardware,
    job,
    methods,
    metrics,
    networks,
    optimizer,
    sweep,
    training,
    tune,
)
from experiments.priors import report as make_report
from experiments.priors import uncertainty as measures
from experiments.priors.grid import Axes, Job
from experiments.priors.hardware import Hardware
from experiments.priors.methods import METHODS, STARTS, Settings, get_method
from experiments.priors.training import Budget

TINY = (
    "--datasets embedded --sizes 20 --steps 3 --samples 2 --batch-size 10 --test-size 30 --foreign-size 20"
)
COMMAND = [*TINY.split(), "--foreign", "embedded", "--starts", "own", "--temperatures", "1", "--jobs", "1"]


def jobs_of(*arguments: str) -> list[Job]:
    return sweep.plan(sweep.make_parser().parse_args([*COMMAND, *arguments]))


# --- the grid ----------------------------------------------------------------------------------


def test_grid_counts() -> None:
    """Leading methods get all seeds; a Klein start only where it is another; no temperature without a KL."""
    axes = Axes([("mnist", 50)], ["klein", "gaussian", "deterministic"], STARTS, ["1", "tuned"], 3, 2)
    combinations = [list(grid._combinations(axes, i)) for i in range(3)]
    assert combinations[0] == combinations[2]
    assert len(combinations[0]) == 2 + 4 + 2
    axes = replace(axes, methods=["laplace", "ensemble"])
    assert [len(list(grid._combinations(axes, i))) for i in range(3)] == [6, 6, 0]


def test_names_are_unique_and_say_what_they_are() -> None:
    jobs = jobs_of("--priors", ",".join(METHODS), "--starts", "own,klein", "--temperatures", "1,0.1,tuned",
                   "--seeds", "2", "--sizes", "20,30")  # fmt: skip
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert names[0].startswith("embedded_n20_klein_own_T1_seed0_")
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
        for name in names
    )


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "mnist"},
        {"seed": 9},
        {"test_size": 31},
        {"shifts": ()},
        {"precision": "16-mixed"},
        {"budget": Budget(4)},
        {"settings": Settings(1.0, 0.0)},
    ],
)
def test_every_field_is_in_the_digest(change: dict[str, Any]) -> None:
    first = jobs_of()[0]
    assert replace(first, **change).name.split("_")[-1] != first.name.split("_")[-1]


def test_config_survives_json() -> None:
    first = jobs_of()[0]
    assert json.loads(json.dumps(first.config())) == first.config()


def test_a_number_for_the_temperature_overrides_what_was_tuned() -> None:
    for method in ("klein", "gaussian"):
        assert grid.tuned_settings(method, "own", "1", "mnist", 100).temperature == 1
        assert grid.tuned_settings(method, "own", "0.25", "mnist", 1000).temperature == 0.25


# --- methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", [m for m in METHODS if m not in methods.ENSEMBLES])
def test_every_method_builds_and_learns_a_step(name: str, start: str) -> None:
    if name.startswith("blitz"):
        pytest.importorskip("blitz")
    method = get_method(name, start=start)
    images, labels = torch.randn(8, 1, 12, 12), torch.arange(8) % 2
    trained = training.train(method, images, labels, 2, Budget(2, 8, network="small"), seed=0)
    assert math.isfinite(trained.kl)
    assert training.predict(method, trained.network, images, 2).isfinite().all()


@pytest.mark.parametrize(
    "name", ["gaussian", "laplace", "correlated-gaussian", "deterministic", "blitz-mixture"]
)
def test_klein_start_is_a_klein_draw(name: str) -> None:
    """Centers on the Klein bottle: what its decoder cannot represent is nothing."""
    if name.startswith("blitz"):
        pytest.importorskip("blitz")
    network = networks.build(get_method(name, start="klein"), 1, 10, "small")
    layer: Any = networks.first_layer(network)
    if isinstance(layer, tp.BayesConv2d):
        weight = layer.weight_posterior.mean()
    else:
        weight = layer.weight_mu if name.startswith("blitz") else layer.weight
    posterior = tp.DecoderPrior.from_pretrained("klein-3x3").posterior(weight.shape)
    assert posterior.project_(weight.detach()) < 0.02
    own: Any = networks.build(get_method("deterministic"), 1, 10, "small")[1]
    assert posterior.project_(own.weight.detach()) > 0.1


def test_blitz_mixture_has_the_energy_of_the_others() -> None:
    pytest.importorskip("blitz")
    weights = get_method("blitz-mixture").sample_prior((200, 50, 3, 3))
    assert weights.square().mean().item() == pytest.approx(2 / 450, rel=0.05)
    assert weights.abs().lt(1e-3 * weights.std()).float().mean() > 0.1  # half of them are near 0


@pytest.mark.parametrize("name", methods.ENSEMBLES)
def test_ensemble_averages_the_probabilities_of_five_networks(name: str) -> None:
    method = get_method(name)
    images, labels = torch.randn(8, 1, 12, 12), torch.arange(8) % 2
    trained = training.train(method, images, labels, 2, Budget(2, 8), seed=0)
    network = trained.network
    members: Any = list(network.members)  # type: ignore[union-attr, arg-type]
    assert len(members) == methods.ENSEMBLE_SIZE
    single = training.train(get_method(methods.ENSEMBLES[name]), images, labels, 2, Budget(2, 8), seed=0)
    with (
        tp.posterior_mean(network),
        tp.posterior_mean(single.network),
    ):  # no noise: nothing to average but members
        mean = torch.stack([member(images).softmax(1) for member in members]).mean(0)
        torch.testing.assert_close(training.predict(method, network, images, 7), mean)
        torch.testing.assert_close(members[0](images), single.network(images))
    assert trained.parameters == 5 * single.parameters


@pytest.mark.parametrize(("samples", "draws"), [(16, 3), (3, 1)])
def test_an_ensemble_has_as_many_draws_as_one_network(
    samples: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predict(network: nn.Module, images: Tensor, number: int, **_: object) -> Tensor:
        asked.append(number)
        return torch.ones(number, len(images), 2) / 2

    monkeypatch.setattr(tp, "predict", predict)
    for name in ("klein-ensemble", "klein", "deterministic"):
        training.predict(get_method(name), nn.Identity(), torch.zeros(1, 1), samples)
    assert asked == [draws, samples, 1]


def test_warmup() -> None:
    budget = Budget(steps=10, warmup=0.5)
    assert [budget.warmup_factor(step) for step in (0, 1, 5, 9)] == pytest.approx([0, 0.2, 1, 1])
    assert Budget().warmup_factor(0) == 1


# --- the engine --------------------------------------------------------------------------------


def test_sweep_resumes_and_never_computes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*COMMAND, "--priors", "klein,deterministic", "--seeds", "2", "--output", str(tmp_path)]
    done: list[str] = []
    run_job = sweep.run_job

    def stop_at_third(job: Job, *rest: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.name)
        return run_job(job, *rest)

    monkeypatch.setattr(sweep, "run_job", stop_at_third)
    assert sweep.main(command) == 130
    first = {path: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    assert len(first) == 2

    damaged = min(first)
    damaged.write_bytes(first[damaged][:-20])
    monkeypatch.setattr(sweep, "run_job", lambda job, *rest: done.append(job.name) or run_job(job, *rest))
    assert sweep.main(command) == 0
    assert len(done) == 2 + 3
    assert set(done[:2]) & set(done[2:]) == {damaged.stem}
    written = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    assert len(written) == 4
    untimed = [json.loads(text) for text in (first[damaged], damaged.read_bytes())]
    for run in untimed:
        del run["results"]["train seconds"]
    assert untimed[0] == untimed[1]  # the same again

    monkeypatch.setattr(sweep, "run_job", _must_not_run)
    assert sweep.main(command) == 0
    result = written[0]
    assert {"cls/Acc", "sc/AURC", "ood/AUROC", "ood/FPR95", "rotation-30 cls/NLL"} <= set(result["results"])
    assert result["config"]["train_size"] == 20
    assert "torch" in result["versions"]
    assert str(tmp_path) not in json.dumps(written)


def _must_not_run(*args: object) -> None:
    raise AssertionError("computed again")


def test_a_summary_counts_as_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a repository keeps of a sweep is enough to go on with it."""
    command = [*COMMAND, "--priors", "klein,gaussian", "--output", str(tmp_path)]
    assert sweep.main([*command, "--seeds", "1"]) == 0
    make_report.main([str(tmp_path)])
    shutil.rmtree(tmp_path / "runs")
    computed = []
    real = sweep.run_job
    monkeypatch.setattr(sweep, "run_job", lambda *a: computed.append(a[0].seed) or real(*a))
    assert sweep.main([*command, "--seeds", "2"]) == 0
    assert computed == [1, 1]


# --- how fast what learns ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["klein", "klein-residual", "euclidean-3x3"])
def test_latents_learn_faster_by_the_factor(name: str) -> None:
    """Adam's first step has the length of the learning rate in every coordinate: in latents, a multiple of it."""
    torch.manual_seed(0)
    network = networks.build(get_method(name), 1, 10, "small")
    nn.init.normal_(network[-1].weight)  # at 0 no gradient would pass
    before = {key: value.clone() for key, value in network.state_dict().items()}
    posterior: Any = networks.first_layer(network).weight_posterior
    with tp.faster_latents(network, 20.0):
        adam = optimizer.make_optimizer(network, Settings(1e-3, 0.0))
        (network(torch.randn(4, 1, 28, 28)).square().sum() + networks.kl(network)).backward()
        for group in adam.param_groups:
            group["eps"] = 1e-30
        adam.step()
    assert network.state_dict().keys() == before.keys()  # nothing is left of the units
    moved = (posterior.loc - before["1.weight_posterior.loc"]).detach().abs()
    latents, rest = (moved[:2], moved[2:]) if name != "euclidean-3x3" else (moved[..., :2], moved[..., 2:])
    torch.testing.assert_close(latents, torch.full_like(latents, 0.02), rtol=1e-2, atol=0)
    torch.testing.assert_close(rest, torch.full_like(rest, 1e-3), rtol=1e-2, atol=0)
    copy.deepcopy(network), pickle.dumps(network)
    with pytest.raises(ValueError, match="factor: expected a positive number, found 0"):
        tp.faster_latents(network, 0).__enter__()


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_has_one_rate(name: str) -> None:
    if name.startswith("blitz"):
        pytest.importorskip("blitz")
    network = networks.build(get_method(name), 1, 10, "resnet8")
    groups = optimizer.make_optimizer(network, Settings(1e-3, 0.5, relative_rate=4.0)).param_groups
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(map(id, network.parameters()))
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rate[id(network[-1].weight)] == (1e-3, 0.5)
    first = networks.first_layer(network)
    if name in ("deterministic", "ensemble"):
        assert rate[id(first.weight)] == (4e-3, 0.5)
    elif name.startswith("blitz"):
        network(torch.randn(2, 1, 8, 8)).sum().backward()
        assert rate[id(first.weight_sampler.mu)] == (4e-3, 0.0)
        assert first.weight_sampler.mu.grad is not None
        assert rate[id(first.weight_sampler.rho)] == (1e-3, 0.0)
    else:
        decoded = name in ("klein", "klein-residual", "klein-ensemble", "euclidean-3x3")
        assert rate[id(first.weight_posterior.loc)] == (1e-3 if decoded else 4e-3, 0.0)
        assert rate[id(first.weight_posterior.log_scale)] == (1e-3, 0.0)


def test_watching_changes_nothing() -> None:
    """The draws of training are the same, and the curve ends with the network that comes back."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(30, 1, 12, 12, generator=generator), torch.arange(30) % 3
    budget, method = Budget(8, 10, samples=2), get_method("klein")
    watch = training.Watch(images, labels, points=4, samples=2)
    plain = training.train(method, images, labels, 3, budget, 0)
    watched = training.train(method, images, labels, 3, budget, 0, watch=watch)
    for a, b in zip(plain.network.parameters(), watched.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [point["step"] for point in watched.curve] == [1, 2, 4, 8]
    plain_method = get_method("deterministic")
    last = training.train(plain_method, images, labels, 3, budget, 0, watch=watch)
    expected = metrics.evaluate(training.predict(plain_method, last.network, images, 1), labels)
    assert {**last.curve[-1], "step": 8} == {"step": 8, **expected}
    assert training.Watch(images, labels, 1).steps(8) == {8}


def test_a_failure_is_recorded_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, "--priors", "klein,gaussian", "--seeds", "1", "--output", str(tmp_path)]
    run_job = sweep.run_job

    def fail(job: Job, *rest: Any) -> Any:
        if job.method == "klein":
            raise RuntimeError("out of memory")
        return run_job(job, *rest)

    monkeypatch.setattr(sweep, "run_job", fail)
    assert sweep.main(command) == 1
    (failure,) = (tmp_path / "failures").iterdir()
    assert json.loads(failure.read_text())["error"] == "RuntimeError: out of memory"
    assert "out of memory" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 1
    monkeypatch.setattr(sweep, "run_job", run_job)
    assert sweep.main(command) == 0
    assert not list((tmp_path / "failures").iterdir())


def test_dry_run_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        sweep.main([*COMMAND, "--priors", "klein", "--seeds", "2", "--output", str(tmp_path), "--dry-run"])
        == 0
    )
    assert [line.split("_")[5] for line in capsys.readouterr().out.splitlines()] == ["seed0", "seed1"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--priors kleine", "--priors kleine: choose from klein"),
        ("--starts mine", "--starts mine"),
        ("--temperatures cold", "positive number"),
        ("--accelerator abacus", "not on this machine"),
        ("--precision 8", "--precision"),
        ("--warmup 2", "from 0 to 1"),
        ("--sizes few", "whole number"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, says: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep.main([*COMMAND, "--output", str(tmp_path / "out"), *arguments.split()])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_backends_agree(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "dask":
        pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(Path(sweep.__file__).parents[2]))
    command = [*COMMAND, "--priors", "klein,gaussian", "--seeds", "2"]
    assert sweep.main([*command, "--output", str(tmp_path / "one")]) == 0
    many = ["--jobs", "2", "--backend", backend, "--output", str(tmp_path / "many")]
    assert sweep.main([*command, *many]) == 0
    for path in (tmp_path / "one" / "runs").iterdir():
        one, other = (json.loads(p.read_text()) for p in (path, tmp_path / "many" / "runs" / path.name))
        for run in (one, other):
            del run["results"]["train seconds"]
        assert one == other


# --- hardware ----------------------------------------------------------------------------------


def _train(place: Hardware, name: str = "deterministic") -> nn.Module:
    images, labels = torch.randn(8, 1, 12, 12), torch.arange(8) % 2
    return training.train(get_method(name), images, labels, 2, Budget(3, 4), 0, place).network


def test_mixed_precision_on_the_cpu_is_near_full_precision() -> None:
    """Adam's steps are as long as the rate whatever the gradient, so a gradient near 0 may go the other way, and
    which ones do depends on the processor: all weights together are what rounding cannot move far."""
    pytest.importorskip("lightning.fabric")
    torch.manual_seed(1)
    full = _train(Hardware())
    torch.manual_seed(1)
    mixed = _train(Hardware(precision="bf16-mixed"))
    torch.manual_seed(0)  # the seed of training
    start = networks.build(get_method("deterministic"), 1, 2, "compare")
    assert all(p.dtype == torch.float32 for p in mixed.parameters())
    ours, other, before = (nn.utils.parameters_to_vector(n.parameters()) for n in (mixed, full, start))
    assert (ours - other).norm() < 0.5 * (other - before).norm()  # 1.4 between unrelated directions


@pytest.mark.slow
def test_two_processes_train_as_one() -> None:
    """Without noise in the weights, the mean of two halves' gradients is the gradient of the batch."""
    pytest.importorskip("lightning.fabric")
    torch.manual_seed(1)
    one = _train(Hardware())
    torch.manual_seed(1)
    two = _train(Hardware(devices=2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    bayesian = _train(Hardware(devices=2), "klein")  # its layers are made by a closure
    assert all(p.isfinite().all() for p in bayesian.parameters())


def test_hardware_says_what_is_wrong() -> None:
    for arguments, says in (
        ({"devices": 0}, "--devices 0"),
        ({"precision": "8"}, "--precision 8"),
    ):
        with pytest.raises(ValueError, match=says):
            Hardware(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not on this machine"):
        Hardware("abacus").check()
    assert not hardware.Hardware().needs_fabric


# --- measures ----------------------------------------------------------------------------------


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    known = (2 * torch.randn(300, 4, generator=generator)).softmax(-1)
    unknown = torch.randn(200, 4, generator=generator).softmax(-1)
    return known, torch.randint(4, (300,), generator=generator), unknown


def test_foreign_by_counting(predictions: tuple[Tensor, Tensor, Tensor]) -> None:
    known, _, unknown = predictions
    a, b = known.double().max(1).values, unknown.double().max(1).values
    found = measures.foreign(known, unknown)
    auroc = (b[:, None] < a).double().mean() + 0.5 * (b[:, None] == a).double().mean()
    assert found["ood/AUROC"] == pytest.approx(float(auroc), abs=1e-6)
    threshold = b.sort().values[math.ceil(0.95 * len(b)) - 1]
    assert found["ood/FPR95"] == pytest.approx(float((a <= threshold).double().mean()), abs=1e-6)
    perfect = measures.foreign(torch.eye(4), torch.full((5, 4), 0.25))
    assert perfect == {"ood/AUROC": 1.0, "ood/FPR95": 0.0}


def test_as_torch_uncertainty(predictions: tuple[Tensor, Tensor, Tensor]) -> None:
    theirs = pytest.importorskip("torch_uncertainty.metrics")
    known, labels, unknown = predictions
    aurc, fpr95 = theirs.AURC(), theirs.FPR95(pos_label=1)
    aurc.update(known, labels)
    assert measures.aurc(known, labels) == pytest.approx(float(aurc.compute()), abs=1e-6)
    doubt = 1 - torch.cat([known, unknown]).max(1).values
    fpr95.update(doubt, torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))]).long())
    assert measures.foreign(known, unknown)["ood/FPR95"] == pytest.approx(float(fpr95.compute()), abs=1e-6)


def test_aurc(predictions: tuple[Tensor, Tensor, Tensor]) -> None:
    known, labels, _ = predictions
    confidence, wrong = known.max(1).values, (known.argmax(1) != labels).double()
    risks = [float(wrong[confidence.topk(k).indices].mean()) for k in range(1, 301)]
    by_hand = sum((a + b) / 2 for a, b in zip(risks[:-1], risks[1:], strict=True)) / 299
    assert measures.aurc(known, labels) == pytest.approx(by_hand, abs=1e-9)
    right = known.argmax(1)
    assert measures.aurc(known, right) == 0
    assert measures.aurc(known, (right + 1) % 4) == pytest.approx(1)


def test_shifts() -> None:
    images = torch.zeros(2, 1, 9, 9)
    images[:, :, 1, 4] = 1
    turned = measures.shift(images, "rotation-90")
    assert turned[0, 0, 4, [1, 7]].max() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(measures.shift(images, "rotation-0"), images)
    torch.testing.assert_close(
        measures.shift(torch.full((1, 3, 9, 9), 0.3), "blur-1"), torch.full((1, 3, 9, 9), 0.3)
    )
    middle = torch.zeros(1, 1, 15, 15)
    middle[..., 7, 7] = 1
    from scipy.ndimage import gaussian_filter

    expected = torch.from_numpy(gaussian_filter(middle[0, 0].numpy(), 1.0, truncate=3.0))
    torch.testing.assert_close(measures.shift(middle, "blur-1")[0, 0], expected, atol=1e-6, rtol=0)
    noisy = measures.shift(torch.full((4, 1, 50, 50), 0.5), "noise-0.1")
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(noisy, measures.shift(torch.full((4, 1, 50, 50), 0.5), "noise-0.1"))


def test_foreign_images_take_size_and_channels() -> None:
    like = torch.rand(2, 3, 32, 32)
    assert measures.as_foreign(torch.rand(5, 1, 28, 28), like).shape == (5, 3, 32, 32)
    assert measures.as_foreign(torch.rand(5, 3, 32, 32), torch.rand(2, 1, 28, 28)).shape == (5, 1, 28, 28)


def test_paired_t_test_and_holm() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(0.1, 1, 10), generator.normal(0, 1, 10)
    found = paired.paired_t_test(list(first - second))
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert found.seeds == 10
    assert paired.paired_t_test([0.1]).p is None
    assert paired.paired_t_test([0.0, 0.0]).p == 1
    assert paired.paired_t_test([0.1, 0.1]).p == 0
    # Holm by its definition: step down, stop at the first that is not rejected
    p = list(generator.uniform(0, 0.1, 8))
    adjusted = paired.holm(p)
    for level in np.linspace(0.001, 0.5, 97):
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):
            if p[index] > level / (len(p) - rank):
                break
            rejected.add(int(index))
        assert {i for i, value in enumerate(adjusted) if value <= level} == rejected


# --- tuning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", tune.PROFILES)
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


def test_few_images_and_many_have_settings_of_their_own() -> None:
    for dataset in ("mnist", "fashion-mnist", "cifar10"):
        few, many = (methods.read_settings(f"bayes-{dataset}{band}") for band in ("", "-large"))
        for name in few:
            for size, expected in ((50, few), (200, few), (500, many), (1000, many)):
                assert grid.tuned_settings(name, "own", "1", dataset, size) == expected[name]
        whole = methods.read_settings(f"bayes-{dataset}-full")["klein"]
        assert grid.tuned_settings("klein", "own", "1", dataset, 60_000) == whole
    many = methods.read_settings("tempered-mnist-large")["klein"]
    assert grid.tuned_settings("klein", "own", "tuned", "mnist", 60_000) == many
    cold = methods.read_settings("tempered-fashion-mnist")["klein"]
    assert grid.tuned_settings("klein", "own", "tuned", "my-images", 100) == cold


def test_tuning_records_choice_and_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tune.Profile((("embedded", 20),), Budget(2, 10, samples=2), ("gaussian",), 30)
    monkeypatch.setitem(tune.PROFILES, "bayes-mnist", small)
    monkeypatch.setattr(tune, "stages", lambda *_: [candidates._relative_rates("gaussian")])
    command = [
        "--profile",
        "bayes-mnist",
        "--methods",
        "gaussian",
        "--jobs",
        "1",
        "--output",
        str(tmp_path / "runs"),
    ]
    command += ["--settings", str(tmp_path / "settings.json")]
    tune.main(command)
    chosen = json.loads((tmp_path / "settings.json").read_text())["profiles"]["bayes-mnist"]
    assert chosen["methods"]["gaussian"] == chosen["candidates"]["gaussian"][0]["settings"]
    assert len(chosen["candidates"]["gaussian"]) == 3
    assert methods.read_settings("bayes-mnist", tmp_path / "settings.json")["gaussian"].temperature == 1
    with pytest.raises(ValueError, match="no settings for 'cold'"):
        methods.read_settings("cold")
    monkeypatch.setattr(training, "train", _must_not_run)
    tune.main(command)
    # without the finished runs, the settings file knows
    tune.main([*command, "--output", str(tmp_path / "empty")])
    with pytest.raises(AssertionError):  # scored on two subsets: other figures
        tune.main([*command, "--output", str(tmp_path / "empty"), "--seeds", "2"])


def test_kernels_of_a_klein_layer_come_with_their_points() -> None:
    method = get_method("klein")
    network = networks.build(method, 3, 10, "small")
    found = job.describe_kernels(method, network, 3)
    assert torch.tensor(found["posterior"]).shape == (job.KERNELS_KEPT, 3, 3)
    points = torch.tensor(found["points"])
    assert points.shape == (job.KERNELS_KEPT, 2)
    assert tp.KleinBottle().same_point(points, tp.KleinBottle().project(points), atol=1e-5).all()
