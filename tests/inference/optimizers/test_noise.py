import math
import os
import threading
import warnings

import pytest
import torch

from bayesprior.inference.generators import generator
from bayesprior.inference.optimizers._noise import NoiseStream, standard_normal

CPU = torch.device("cpu")
LARGE = 1 << 18


def test_the_state_decides_the_noise():
    state = generator("cpu", "noise", 0, 0, 0).get_state()
    first, after = standard_normal(state, 100, torch.float32, CPU)
    again, after_again = standard_normal(state, 100, torch.float32, CPU)
    assert torch.equal(first, again)
    assert torch.equal(after, after_again)
    following, _ = standard_normal(after, 100, torch.float32, CPU)
    assert not torch.isclose(first, following).any()
    assert not torch.equal(state, generator("cpu", "noise", 0, 0, 1).get_state())


@pytest.mark.parametrize("size", [100, LARGE])
def test_computing_ahead_changes_no_number(size):
    """Also when the guess was wrong: another size, an older state."""
    stream, state = NoiseStream(), generator("cpu", "noise", 0, 0, 0).get_state()
    for wanted in (size, size, size + 1, size, size):
        expected, expected_after = standard_normal(state, wanted, torch.float32, CPU)
        noise, after = stream.draw(state, wanted, torch.float32, CPU)
        assert torch.equal(noise, expected)
        assert torch.equal(after, expected_after)
        state = after
    older = generator("cpu", "noise", 0, 0, 0).get_state()
    assert torch.equal(
        stream.draw(older, size, torch.float32, CPU)[0],
        standard_normal(older, size, torch.float32, CPU)[0],
    )


def test_small_draws_start_no_thread():
    before = threading.active_count()
    NoiseStream().draw(generator("cpu", "noise", 0, 0, 0).get_state(), 100, torch.float32, CPU)
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_during_the_fill_neither_hangs_nor_changes_a_number():
    stream, state = NoiseStream(), generator("cpu", "noise", 0, 0, 0).get_state()
    size = 20 * LARGE
    _, after = stream.draw(state, size, torch.float32, CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on fork with threads
        child = os.fork()
    if child == 0:
        noise, _ = stream.draw(after, size, torch.float32, CPU)
        same = torch.equal(noise[:100], standard_normal(after, 112, torch.float32, CPU)[0][:100])
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.statistical
def test_draws_are_standard_normal():
    noise, _ = standard_normal(
        generator("cpu", "noise", 5, 0, 0).get_state(), 10**6, torch.float32, CPU
    )
    z = noise.double().mean() * math.sqrt(10**6)
    chi2 = (noise.double().square().sum() - 10**6) / math.sqrt(2 * 10**6)
    # Two checks with a false-alarm rate of 1e-6 together: |z| < 5.03.
    assert z.abs() < 5.03
    assert chi2.abs() < 5.03
