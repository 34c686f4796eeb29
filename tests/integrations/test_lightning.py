import pickle

import pytest
import torch
from torch import nn

import bayesprior as bp
from bayesprior.integrations.collecting import Collection
from bayesprior.integrations.lightning import CollectSWAG

pl = pytest.importorskip("lightning.pytorch")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and logging


class Task(pl.LightningModule):
    """A linear classifier with plain SGD, on batches that depend on nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)

    def training_step(self, batch, index):
        inputs, targets = batch
        return nn.functional.cross_entropy(self.model(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)


def batches():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=g)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8
    )


def fit(callback, folder, epochs=4, **options):
    task = Task()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(task, batches(), ckpt_path=options.get("ckpt_path"))
    return task, trainer


def test_snapshots_are_those_of_a_loop_written_out(tmp_path):
    collect = CollectSWAG(rank=3, start=6, every=2, network="model")
    assert isinstance(collect, pl.Callback)
    assert isinstance(collect, Collection)
    fit(collect, tmp_path)

    task, swag = Task(), bp.SWAG(rank=3)
    layout = bp.ParameterLayout.from_module(task.model)
    optimizer = task.configure_optimizers()
    step = 0
    for _ in range(4):
        for index, batch in enumerate(batches()):
            optimizer.zero_grad()
            task.training_step(batch, index).backward()
            optimizer.step()
            step += 1
            if step in (8, 10, 12, 14, 16, 18, 20):
                swag.update_weights(layout.flatten(task.model), layout)
    found, expected = collect.posterior(), swag.posterior()
    assert found.layout == layout
    assert torch.equal(found.loc, expected.loc)
    assert torch.equal(found.covariance_matrix, expected.covariance_matrix)
    assert found.provenance["swag"]["num_snapshots"] == 7
    assert found.provenance["role"] == "source posterior"


def test_accumulated_gradients_count_once(tmp_path):
    collect = CollectSWAG(rank=1, every=1)
    fit(collect, tmp_path, accumulate_grad_batches=5)
    assert collect.swag.count == 4
    assert collect.posterior().layout.names == ("model.weight", "model.bias")


def test_a_resumed_training_collects_what_an_unbroken_one_does(tmp_path):
    whole = CollectSWAG(rank=2, start=3, every=3, network="model")
    fit(whole, tmp_path)
    first = CollectSWAG(rank=2, start=3, every=3, network="model")
    _, trainer = fit(first, tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = CollectSWAG(rank=2, start=3, every=3, network="model")
    task = Task()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=4,
        callbacks=[second],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, batches(), ckpt_path=tmp_path / "half.ckpt")
    assert second.swag.count == whole.swag.count
    assert torch.equal(second.posterior().covariance_matrix, whole.posterior().covariance_matrix)


def test_the_prior_enters_every_step_and_is_taken_away(tmp_path):
    task = Task()
    layout = bp.ParameterLayout.from_module(task.model)
    prior = bp.GaussianWeights.point(layout, torch.zeros(layout.dim), std=0.5)
    collect = CollectSWAG(rank=1, prior=prior, num_data=40, network="model")
    trained, trainer = fit(collect, tmp_path)

    optimizer = task.configure_optimizers()
    bp.attach_prior(optimizer, task.model, prior, num_data=40)
    for _ in range(4):
        for index, batch in enumerate(batches()):
            optimizer.zero_grad()
            task.training_step(batch, index).backward()
            optimizer.step()
    assert torch.equal(layout.flatten(trained.model), layout.flatten(task.model))
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks


def test_a_callback_can_be_sent_to_another_process():
    collect = CollectSWAG(rank=2, every=1, network="model")
    collect._after_step(Task(), 1)
    again = pickle.loads(pickle.dumps(collect))
    assert isinstance(again, CollectSWAG)
    assert isinstance(again, pl.Callback)
    assert (again.swag.count, again.every) == (1, 1)
