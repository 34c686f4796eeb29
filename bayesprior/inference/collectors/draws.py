"""Thinned draws on disk, one file each."""

from pathlib import Path
from typing import Any

from torch import distributed

from bayesprior.errors import CheckpointError, ConfigError, checked
from bayesprior.inference.posteriors import save_draw, stored_draw_paths
from bayesprior.inference.protocols import Draw, StepEvent
from bayesprior.storage import chain_dir

__all__ = ["DrawWriter"]


class DrawWriter:
    """Writes the weights, with their BatchNorm statistics, after every collected step.

    Files are ``run_dir/chain-00/draw-0000.safetensors`` and so on, each written atomically;
    `bayesprior.inference.posteriors.StoredDraws` reads them.

    Parameters
    ----------
    run_dir
        The run's folder.
    chain
        Number of the chain, from 0.

    Raises
    ------
    ConfigError
        At the first draw, if the folder holds draws already and the run was not resumed.

    Notes
    -----
    A resumed run writes the draws that came after its checkpoint again: `load_state_dict`
    deletes them, so that a run that ends earlier leaves no draws of its former self. Of the
    processes that share a chain (data-parallel training) only the first touches the folder.
    """

    @checked(run_dir="path", chain="integer")
    def __init__(self, run_dir: str | Path, chain: int = 0) -> None:
        if chain < 0:
            raise ConfigError(f"chain must be 0 or more, got {chain}")
        self.folder = chain_dir(run_dir, chain)
        self.chain = chain
        self.next_index = 0
        self._owned = False

    def update(self, event: StepEvent) -> None:
        """Write one draw."""
        if _is_first_process():
            if not self._owned and stored_draw_paths(self.folder):
                raise ConfigError(
                    f"{self.folder} holds draws of another run; resume it or choose another folder"
                )
            self._owned = True
            draw = Draw(self.chain, self.next_index, event.weights(), event.buffers(), event.layout)
            save_draw(self.folder, event.layout, draw, step=event.step)
        self.next_index += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the number of draws written."""
        return {"next_index": self.next_index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the draws that `state_dict` knew; later ones are deleted."""
        self.next_index = state["next_index"]
        self._owned = True
        if not _is_first_process():
            return
        paths = stored_draw_paths(self.folder)
        if len(paths) < self.next_index:
            raise CheckpointError(
                f"{self.folder} holds {len(paths)} draws but the checkpoint counts "
                f"{self.next_index}; restore the missing files or start again"
            )
        for path in reversed(paths[self.next_index :]):
            path.unlink()


def _is_first_process() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0
