"""Training in several processes, and by Lightning."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import topoprior as tp
from tests.nn.test_torch_features import make_net, seeded


@pytest.fixture(params=[("klein-3x3",), ("gaussian",), ("klein-3x3", "delta")], ids="-".join)
def net(request):
    return make_net(*request.param)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])


# --- several processes -----------------------------------------------------------------------


def _shard(net):
    """By FSDP2, every layer by itself, as large networks are."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in net:
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def _gradients_in_a_process(rank, net, x, y, folder, sharded):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    try:
        model = _shard(net) if sharded else nn.parallel.DistributedDataParallel(net)
        torch.manual_seed(7)  # the same draw of the weights on both ranks
        half = len(x) // 2
        part = slice(rank * half, (rank + 1) * half)
        tp.elbo_loss(model(x[part]), y[part], model, 1000).backward()
        gradients = [p.grad.full_tensor() if sharded else p.grad for p in net.parameters()]
        torch.manual_seed(8)
        found = (
            tp.predict(net, x, 4),
            tp.kl_divergence(net).detach(),
            sum(tp.kl_per_layer(net).values()).detach(),
        )
        torch.save([*gradients, *found], f"{folder}/found-{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("posterior", ["mean-field", "delta"])
@pytest.mark.parametrize("sharded", [False, True], ids=["DistributedDataParallel", "FSDP2"])
def test_two_processes_have_the_gradients_of_one(batch, tmp_path, sharded, posterior):
    """Over gloo, half of the batch a rank; the KL counts once, not twice. Predictions are those of one process, too."""
    net = nn.Sequential(
        *make_net("klein-3x3", posterior), nn.ReLU(), tp.BayesLinear(4, 4, posterior=posterior)
    )
    arguments = copy.deepcopy(net), *batch, tmp_path, sharded
    torch.multiprocessing.spawn(_gradients_in_a_process, arguments, nprocs=2)
    x, y = batch
    seeded(lambda: tp.elbo_loss(net(x), y, net, 1000)).backward()
    torch.manual_seed(8)
    expected = [p.grad for p in net.parameters()] + [
        tp.predict(net, x, 4),
        *[tp.kl_divergence(net).detach()] * 2,
    ]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"found-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_lightning_trainer(net, batch, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net

        def training_step(self, batch, index):
            x, y = batch
            loss = tp.elbo_loss(self.net(x), y, self.net, 4, tp.kl_warmup(self.global_step, 10))
            self.log("loss", loss)
            return loss

        def validation_step(self, batch, index):
            x, y = batch
            self.log("nll", F.nll_loss(tp.predict(self.net, x, 4).mean(0).log(), y))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    before = [p.detach().clone() for p in net.parameters()]
    module = Module()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*batch), 2)
    options = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "logger": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about workers
        trainer = lightning.Trainer(
            max_epochs=2, enable_progress_bar=False, enable_model_summary=False, **options
        )
        trainer.fit(module, loader, loader)
    assert trainer.global_step == 4
    assert torch.isfinite(trainer.callback_metrics["nll"])
    moved = [not torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True)]
    assert all(moved)
    trainer.save_checkpoint(tmp_path / "net.ckpt")
    state = torch.load(tmp_path / "net.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(state, strict=True)
