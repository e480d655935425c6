"""Training in several processes, and by Lightning."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import topoprior as tp
from tests.nn.test_torch_features import make_net, seeded


@pytest.fixture(params=["klein-3x3", "gaussian"])
def net(request):
    return make_net(request.param)


@pytest.fixture
def batch():
    return torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])


# --- several processes -----------------------------------------------------------------------


def _gradients_in_a_process(rank, net, x, y, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    try:
        model = nn.parallel.DistributedDataParallel(net)
        torch.manual_seed(7)  # the same draw of the weights on both ranks
        half = len(x) // 2
        part = slice(rank * half, (rank + 1) * half)
        tp.elbo_loss(model(x[part]), y[part], model, 1000).backward()
        torch.save([p.grad for p in net.parameters()], f"{folder}/gradients-{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(batch, tmp_path):
    """DistributedDataParallel over gloo, half of the batch a rank; the KL counts once, not twice."""
    net = nn.Sequential(make_net("klein-3x3"), nn.ReLU(), tp.BayesLinear(4, 4))
    torch.multiprocessing.spawn(_gradients_in_a_process, (copy.deepcopy(net), *batch, tmp_path), nprocs=2)
    x, y = batch
    seeded(lambda: tp.elbo_loss(net(x), y, net, 1000)).backward()
    for rank in (0, 1):
        gradients = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for p, gradient in zip(net.parameters(), gradients, strict=True):
            torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)


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
