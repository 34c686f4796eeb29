"""Lightning: a callback that collects a posterior while a Trainer trains."""

import importlib
import sys
from typing import Any

from torch import nn

from bayesprior.errors import MissingDependencyError
from bayesprior.integrations.collecting import Collection

__all__ = ["CollectSWAG"]


class CollectSWAG(Collection):
    """Collects SWAG snapshots of a LightningModule, and can give its optimizer a prior.

    A callback of ``lightning.pytorch`` or, where only that is there, ``pytorch_lightning``. Its
    state is in the Trainer's checkpoints: ``trainer.fit(..., ckpt_path=...)`` goes on collecting.

    Parameters
    ----------
    rank
        K, the number of directions kept.
    start
        Optimizer steps before the first snapshot: when the learning rate has come down.
    every
        Steps between two snapshots.
    prior
        Given to the optimizer, see `bayesprior.attach_prior`.
    num_data
        N, the number of training examples; needed with a prior only.
    network
        Name of the submodule that is meant, such as ``"model"``; the whole module by default.

    Raises
    ------
    MissingDependencyError
        If Lightning is not installed.

    Examples
    --------
    >>> collect = CollectSWAG(rank=10, start=1000, every=20, network="model")
    >>> # trainer = lightning.pytorch.Trainer(callbacks=[collect]); trainer.fit(module, loader)
    >>> # collect.posterior().save("source.safetensors")
    """

    @staticmethod
    def _library() -> type[Any]:
        names = ("lightning.pytorch", "pytorch_lightning")
        for name in (*(n for n in names if n in sys.modules), *names):
            try:
                return importlib.import_module(name).Callback
            except ImportError:
                continue
        raise MissingDependencyError("this callback needs Lightning: pip install lightning")

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Give the optimizer the prior."""
        self._begin(pl_module, trainer.optimizers)

    def on_train_batch_end(
        self, trainer: Any, pl_module: nn.Module, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a snapshot if one is due."""
        self._after_step(pl_module, trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Take the prior from the optimizer."""
        self._end()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Take the prior from the optimizer."""
        self._end()
