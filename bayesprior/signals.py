"""Ctrl-C, and SIGTERM as batch systems send it: an exception, or a flag until a step is done."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Stop", "Terminated", "exception_of", "finish_step_on_signal", "stop_now", "taken"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; a `KeyboardInterrupt` of another exit status."""


def exception_of(signum: int, *words: str) -> KeyboardInterrupt:
    """Return the exception that a signal stands for."""
    return Terminated(*words) if signum == signal.SIGTERM else KeyboardInterrupt(*words)


def stop_now(signum: int, frame: Any = None) -> None:
    """Raise: the handler where nothing has to be finished first."""
    raise exception_of(signum)


@contextlib.contextmanager
def taken(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Give SIGINT and SIGTERM to a handler inside the block, in the main thread.

    A signal that is ignored (``nohup``) or that somebody else handles stays as it is.
    """
    ours: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        free = (signal.SIG_DFL, signal.default_int_handler, stop_now)
        found = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        ours = {s: before for s, before in found.items() if before in free}
    try:
        for signum in ours:
            signal.signal(signum, handler)
        yield
    finally:
        for signum, before in ours.items():
            signal.signal(signum, before)


class Stop:
    """Remembers a signal; the second one raises at once.

    Attributes
    ----------
    signum
        The signal; 0 before there was any.
    """

    def __init__(self) -> None:
        self.signum, self._process = 0, os.getpid()

    def __call__(self, signum: int, frame: Any = None) -> None:
        """Take a signal. Forked processes (a loader's workers) outlive the first one, too."""
        if self.signum and os.getpid() != self._process:
            os._exit(128 + signum)
        if self.signum:
            stop_now(signum)
        self.signum = signum


@contextlib.contextmanager
def finish_step_on_signal() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a flag: the step at hand is finished and saved."""
    stop = Stop()
    with taken(stop):
        yield stop
