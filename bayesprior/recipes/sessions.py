"""One process at a time in a run folder, and the time that all of them took."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

from bayesprior.errors import ConfigError, MissingDependencyError, StorageError
from bayesprior.recipes.runs import run_folder
from bayesprior.storage import LOCK, SESSION, last_checkpoint, remove_leftovers, write_text

__all__ = ["Session", "locked", "logged"]


@contextlib.contextmanager
def locked(out: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes out of a folder, and remove what killed ones left half-written.

    The operating system releases the lock when the process ends, however it ends.

    Raises
    ------
    ConfigError
        If another process works in the folder; names its id.
    StorageError
        If the folder cannot be made.
    """
    folder = run_folder(out)
    path, owner = folder / LOCK, ""
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_fifo():  # opening it would wait for ever
            raise OSError(f"{LOCK} is a pipe")
        with contextlib.suppress(FileNotFoundError):
            owner = path.read_text(errors="replace").strip()  # before: some systems empty the file
        lock.acquire(timeout=0)
        path.write_text(str(os.getpid()))
    except Timeout:
        who = f"process {owner}" if owner else "another process"
        raise ConfigError(
            f"{folder} is in use by {who}; wait for it or choose another out"
        ) from None
    except OSError as error:
        raise StorageError(f"could not write into {folder}: {error}") from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        # Removed while it is held, so that nobody holds a lock on a file that is gone.
        path.unlink(missing_ok=True)
        lock.release()


class Session:
    """Adds up the seconds of a run over its interrupted sessions.

    A killed session counts up to its last checkpoint: what came later is done again.

    Parameters
    ----------
    folder
        The run's folder, in which this process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._before, self._start = folder / SESSION, 0.0, time.time()
        self._finished = False
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if not self._path.is_file():  # a pipe would wait for ever
                raise FileNotFoundError
            found = json.loads(self._path.read_text())
            self._before, started = float(found["seconds"]), found["started"]
            if started is not None and (last := last_checkpoint(folder)) is not None:
                self._before += max(last.stat().st_mtime - float(started), 0.0)
        self._write(self._before, self._start)

    @property
    def seconds(self) -> float:
        """Seconds of all sessions until now."""
        return self._before + time.time() - self._start

    def pause(self) -> None:
        """Write the seconds down, unless the run is finished: it ends here, but orderly."""
        if not self._finished:
            self._write(self.seconds, None)

    def finish(self) -> None:
        """Forget it: the results hold the seconds."""
        self._path.unlink(missing_ok=True)
        self._finished = True

    def _write(self, seconds: float, started: float | None) -> None:
        write_text(self._path, json.dumps({"seconds": seconds, "started": started}))


def logged(
    fabric: Fabric | None, logger: str | None, folder: Path | None, device: torch.device
) -> Fabric | None:
    """Return a fabric that also logs into ``folder/logs``, a new version for each session.

    Raises
    ------
    ConfigError
        If there is a fabric already: it takes loggers itself.
    MissingDependencyError
        If tensorboard is asked for and not installed.
    """
    if logger is None or folder is None:
        return fabric
    if fabric is not None:
        raise ConfigError("logger is for runs without a fabric; give Fabric(loggers=...) its own")
    try:
        kind = TensorBoardLogger(folder, name="logs") if logger == "tensorboard" else None
    except ModuleNotFoundError:
        raise MissingDependencyError(
            "logger='tensorboard' needs tensorboard: pip install tensorboard; or logger='csv'"
        ) from None
    loggers = kind or CSVLogger(folder, name="logs", flush_logs_every_n_steps=1)
    devices = [device.index] if device.type == "cuda" and device.index is not None else 1
    return Fabric(accelerator=device.type, devices=devices, loggers=loggers)
