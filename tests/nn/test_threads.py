"""Which weights a layer uses is known to the thread or task that said so, and to no other."""

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import topoprior as tp
from topoprior.nn import contexts, weights_in_use


def net_with_modes():
    """In training mode its predictions would be random beyond the weights, and its statistics would move."""
    net = nn.Sequential(
        tp.BayesConv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), tp.BayesLinear(288, 4)
    )
    net[2].eval()
    return net


@pytest.fixture
def eight():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_eight_threads_predict_with_one_network(eight):
    net, x = net_with_modes(), torch.randn(4, 3, 8, 8)
    modes = [module.training for module in net.modules()]
    statistics = [buffer.clone() for buffer in net.buffers()]

    def job(i):
        batch, samples = 1 + i % 4, 5 + i % 3
        return tp.predict(net, x[:batch], samples, max_batch=7).shape == (samples, batch, 4)

    assert all(eight.map(job, range(100)))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), statistics, strict=True))
    assert all(layer.drawn is None and not layer.use_mean for layer in contexts.bayes_layers(net))
    assert not contexts._EVALUATED
    assert not torch.equal(net(x), net(x))


def test_draws_of_threads_do_not_mix(eight):
    """Mirrored draws of a linear layer have the mean's output as their mean, and each thread its own draws."""
    layer, x = tp.BayesLinear(6, 3), torch.randn(5, 6)
    with tp.posterior_mean(layer), torch.no_grad():
        mean = layer(x)
    outputs = list(
        eight.map(lambda _: tp.sample_outputs(layer, x, 8, max_batch=10, antithetic=True), range(64))
    )
    for output in outputs:
        torch.testing.assert_close(output.mean(0), mean)
    assert len(torch.stack(outputs).flatten(1).unique(dim=0)) == 64


def test_contexts_of_threads_differ(eight):
    """At the same time: the mean in one thread, one draw a thread in the others, fresh draws outside."""
    net, x = nn.Sequential(tp.BayesConv2d(3, 4, 3), nn.Flatten()), torch.randn(2, 3, 5, 5)
    with tp.posterior_mean(net), torch.no_grad():
        mean = net(x)
    inside, leave = threading.Barrier(5), threading.Barrier(5)

    def job(context):
        with context(net), torch.no_grad():
            first = net(x)
            inside.wait()
            second = net(x)
            leave.wait()
            assert torch.equal(net(x), first)
            assert torch.equal(second, first)
        assert not torch.equal(net(x), net(x))
        return first

    jobs = [eight.submit(job, context) for context in (tp.posterior_mean, *[tp.frozen_sample] * 3)]
    inside.wait()
    assert not torch.equal(net(x), net(x))
    assert not net[0].use_mean
    leave.wait()
    outputs = torch.stack([job.result() for job in jobs])
    torch.testing.assert_close(outputs[0], mean)
    assert len(outputs.flatten(1).unique(dim=0)) == 4


def test_tasks_of_asyncio_have_contexts_of_their_own():
    layer, x = tp.BayesLinear(4, 3), torch.randn(2, 4)

    async def job(context):
        with context(layer):
            first = layer(x)
            await asyncio.sleep(0)
            assert torch.equal(layer(x), first)
            return first.detach()

    async def all_jobs():
        return await asyncio.gather(*map(job, [tp.posterior_mean, tp.frozen_sample, tp.frozen_sample]))

    assert len(torch.stack(asyncio.run(all_jobs())).flatten(1).unique(dim=0)) == 3
    assert not torch.equal(layer(x), layer(x))


def test_contexts_that_end_in_another_order():
    """Of two networks, the first one's context is left first; the second one's still holds, and nothing stays."""
    one, two, x = tp.BayesLinear(4, 3), tp.BayesLinear(4, 3), torch.randn(2, 4)
    before = weights_in_use._IN_USE.get()
    first, second = tp.posterior_mean(one), tp.frozen_sample(two)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.equal(one(x), one(x))
    assert torch.equal(two(x), two(x))
    second.__exit__(None, None, None)
    assert not torch.equal(two(x), two(x))
    assert weights_in_use._IN_USE.get() == before


def test_evaluation_mode_of_a_part_and_of_the_whole():
    """Two threads predict, one with the network and one with a part of it, and begin and end in any order."""
    net, x = net_with_modes(), torch.randn(2, 3, 8, 8)
    modes = [module.training for module in net.modules()]
    for first in (0, 1):
        modes_of = [contexts.evaluation(net), contexts.evaluation(net[:3])]
        for mode in modes_of:
            mode.__enter__()
        modes_of[first].__exit__(None, None, None)
        assert not net[1].training
        modes_of[1 - first].__exit__(None, None, None)
        assert [module.training for module in net.modules()] == modes
    assert tp.predict(net, x, 2).shape == (2, 2, 4)


def test_replicas_in_other_threads_follow_the_thread_that_made_them(eight):
    """As in nn.DataParallel, which copies every layer in this way and runs the copies in threads."""
    layer, x = tp.BayesConv2d(3, 4, 3), torch.randn(2, 3, 5, 5)

    def run():
        replica = layer._replicate_for_data_parallel()
        replica._parameters, replica._buffers = layer._parameters, layer._buffers
        return eight.submit(lambda: replica(x).detach()).result()

    with tp.posterior_mean(layer):
        assert torch.equal(run(), layer(x))
    with tp.frozen_sample(layer):
        assert torch.equal(run(), layer(x))
    assert not torch.equal(run(), run())


def test_a_context_keeps_no_layer_alive():
    layer = tp.BayesLinear(4, 3)
    with tp.frozen_sample(layer):
        tp.predict(layer, torch.randn(2, 4), 3)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
