import os
import signal
import threading

import pytest

from bayesprior.signals import Terminated, finish_step_on_signal, stop_now, taken

SIGNALS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    """A job in the background ignores Ctrl-C."""
    before = [(s, signal.getsignal(s)) for s in SIGNALS]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for signum, handler in before:
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_a_flag_and_the_second_an_exception(signum):
    handlers = [signal.getsignal(s) for s in SIGNALS]
    with finish_step_on_signal() as stop:
        assert not stop.signum
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
        with pytest.raises(SIGNALS[signum]):
            os.kill(os.getpid(), signum)
    assert [signal.getsignal(s) for s in SIGNALS] == handlers


@pytest.mark.parametrize("signum", SIGNALS)
def test_where_nothing_is_to_be_finished_it_raises_at_once(signum):
    with taken(stop_now):
        with finish_step_on_signal() as stop:
            os.kill(os.getpid(), signum)
            assert stop.signum == signum
        with pytest.raises(SIGNALS[signum]):
            os.kill(os.getpid(), signum)


def test_signals_that_are_ignored_or_somebody_elses_stay():
    seen = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda signum, frame: seen.append(signum))
    with finish_step_on_signal() as stop:
        for signum in SIGNALS:
            os.kill(os.getpid(), signum)
    assert not stop.signum
    assert seen == [signal.SIGTERM]


def test_other_threads_leave_signals_alone():
    def work():
        with finish_step_on_signal() as stop:
            seen.append((stop.signum, signal.getsignal(signal.SIGTERM)))

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(0, signal.SIG_DFL)]


def test_a_worker_of_a_loader_outlives_the_signal_that_its_parent_finishes_a_step_for():
    with finish_step_on_signal():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGTERM
