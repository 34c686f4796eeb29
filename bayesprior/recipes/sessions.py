"""One process at a time in a run folder, and the time that all of them took."""

import contextlib
import errno
import json
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from bayesprior.errors import ConfigError, StorageError
from bayesprior.storage import CHECKPOINT, LOCK, SESSION, atomic_path, remove_leftovers

__all__ = ["Session", "locked"]


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of a folder, and remove what killed ones left half-written.

    The operating system releases the lock when the process ends, however it ends.

    Raises
    ------
    ConfigError
        If another process works in the folder; names its id.
    StorageError
        If the folder cannot be made.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; out needs a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _take(folder / LOCK)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"could not write into {folder}: {error}") from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        # Removed while it is held, so that nobody holds a lock on a file that is gone.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path) -> int:
    """Open the lock's file, lock it and write this process's id into it."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system
        warnings.warn(f"{path.parent} is not locked against other processes", stacklevel=4)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                who = f"process {owner}" if owner else "another process"
                raise ConfigError(
                    f"{path.parent} is in use by {who}; wait for it or choose another out"
                ) from None
            raise
        try:
            if os.fstat(handle).st_ino == path.stat().st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the former owner removed it in between
    os.truncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


class Session:
    """Adds up the seconds of a run over its interrupted sessions.

    A killed session counts up to its last checkpoint: what came later is done again.

    Parameters
    ----------
    folder
        The run's folder, in which this process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / SESSION
        self._before = 0.0
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path.read_text())
            self._before = float(found["seconds"])
            if found["started"] is not None:
                checkpoints = [*folder.glob(CHECKPOINT), *folder.glob(f"chain-*/{CHECKPOINT}")]
                last = max((path.stat().st_mtime for path in checkpoints), default=0.0)
                self._before += max(last - float(found["started"]), 0.0)
        self._start = time.time()
        self._write(self._before, self._start)

    @property
    def seconds(self) -> float:
        """Seconds of all sessions until now."""
        return self._before + time.time() - self._start

    def pause(self) -> None:
        """Write the seconds down: the run ends here unfinished, but orderly."""
        self._write(self.seconds, None)

    def finish(self) -> None:
        """Forget it: the results hold the seconds."""
        self._path.unlink(missing_ok=True)

    def _write(self, seconds: float, started: float | None) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps({"seconds": seconds, "started": started}))
