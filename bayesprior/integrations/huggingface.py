"""Hugging Face: a callback that collects a posterior while a ``transformers`` Trainer trains."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprior.errors import CheckpointError, MissingDependencyError
from bayesprior.integrations.collecting import Collection
from bayesprior.storage import atomic_path

__all__ = ["CollectSWAG"]

_STATE = "bayesprior-swag.pt"


class CollectSWAG(Collection):
    """Collects SWAG snapshots of a Trainer's model, and can give its optimizer a prior.

    A ``transformers.TrainerCallback``. Its state goes beside every checkpoint of the Trainer, as
    ``checkpoint-N/bayesprior-swag.pt``; a resumed training goes on collecting.

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
        Name of the submodule that is meant, such as ``"bert"``; the whole model by default.

    Raises
    ------
    MissingDependencyError
        If ``transformers`` is not installed.
    """

    @staticmethod
    def _library() -> type[Any]:
        try:
            from transformers import TrainerCallback  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise MissingDependencyError(
                "this callback needs transformers: pip install 'bayesprior[huggingface]'"
            ) from None
        return TrainerCallback

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        """Give the optimizer the prior; go on where a resumed training was saved.

        Raises
        ------
        CheckpointError
            If the training is resumed from a checkpoint that this callback did not see.
        """
        if state.global_step > 0:
            places = [Path(args.output_dir) / f"checkpoint-{state.global_step}"]
            if isinstance(args.resume_from_checkpoint, str):
                places.insert(0, Path(args.resume_from_checkpoint))
            path = next((p / _STATE for p in places if (p / _STATE).is_file()), None)
            if path is None:
                raise CheckpointError(
                    f"{places[-1]} has no {_STATE}: it was saved without this callback; train "
                    "from the start, or resume without it"
                )
            self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # accelerate wraps the optimizer, and the inner one is what steps
        self._begin(model, [getattr(optimizer, "optimizer", optimizer)])

    def on_step_end(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, **_: Any
    ) -> None:
        """Take a snapshot if one is due."""
        self._after_step(model, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the state beside the Trainer's checkpoint."""
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / _STATE
            with atomic_path(path) as temporary:
                torch.save(self.state_dict(), temporary)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the prior from the optimizer."""
        self._end()
