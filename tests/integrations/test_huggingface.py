import pytest
import torch
from torch import nn

import bayesprior as bp
from bayesprior.errors import CheckpointError

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # advice of the trainer's libraries


class Net(nn.Module):
    """A linear classifier that returns its loss, as a Trainer wants it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)

    def forward(self, x, labels):
        logits = self.linear(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def rows():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    return [{"x": row, "labels": int(row[0] > 0)} for row in x]


def trainer(callback, folder, steps=20, model=None):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="sgd",
        save_steps=10,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    return transformers.Trainer(
        model=model or Net(), args=arguments, train_dataset=rows(), callbacks=[callback]
    )


def test_a_resumed_training_collects_what_an_unbroken_one_does(tmp_path):
    whole = bp.huggingface.CollectSWAG(rank=2, start=4, every=2, network="linear")
    assert isinstance(whole, transformers.TrainerCallback)
    trainer(whole, tmp_path).train()
    assert whole.swag.count == 8
    assert whole.posterior().layout.names == ("weight", "bias")

    again = bp.huggingface.CollectSWAG(rank=2, start=4, every=2, network="linear")
    trainer(again, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert again.swag.count == 8
    torch.testing.assert_close(
        again.posterior().covariance_matrix, whole.posterior().covariance_matrix
    )


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    trainer(transformers.TrainerCallback(), tmp_path, steps=10).train()
    collect = bp.huggingface.CollectSWAG(rank=2)
    with pytest.raises(CheckpointError, match="saved without this callback"):
        trainer(collect, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))


def test_the_prior_enters_every_step_and_is_taken_away(tmp_path):
    net = Net()
    layout = bp.ParameterLayout.from_module(net)
    prior = bp.GaussianWeights.point(layout, torch.zeros(layout.dim), std=0.05)
    collect = bp.huggingface.CollectSWAG(rank=1, prior=prior, num_data=40)
    with_prior = trainer(collect, tmp_path / "with", model=net)
    with_prior.train()
    without = Net()
    trainer(transformers.TrainerCallback(), tmp_path / "without", model=without).train()
    assert layout.flatten(net).norm() < 0.5 * layout.flatten(without).norm()
    inner = getattr(with_prior.optimizer, "optimizer", with_prior.optimizer)
    assert not inner._optimizer_step_pre_hooks
