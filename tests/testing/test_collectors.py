"""The suite accepts our collectors, and names the promise that another breaks."""

import os
import subprocess
import sys

import pytest
import torch

from bayesprior.inference.collectors import SWAG, DrawsInMemory, DrawWriter, Watching
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.testing import check_collector


def stacked(posterior):
    return torch.stack([draw.weights for draw in posterior.draws()])


def variance(swag):
    return swag.posterior().variance


def test_ours_keep_the_contract(tmp_path):
    check_collector(lambda: SWAG(rank=4), result=lambda swag: swag.posterior().covariance_matrix)
    check_collector(lambda: SWAG(diagonal_only=True), result=variance)
    check_collector(DrawsInMemory, result=stacked)
    check_collector(lambda: DrawWriter(tmp_path), result=lambda _: stacked(StoredDraws(tmp_path)))
    check_collector(
        lambda: Watching(SWAG(rank=3), select="weight"),
        result=lambda watching: variance(watching.collector),
    )


class Forgetful(SWAG):
    def load_state_dict(self, state):
        super().load_state_dict(state | {"count": state["count"] + 1})


class Meddling(SWAG):
    def update(self, event):
        super().update(event)
        with torch.no_grad():
            event.module.weight.add_(1)


class Stateless:
    def update(self, event):
        pass


class Shy(SWAG):
    """Hides its state in an object, which no checkpoint may hold."""

    def state_dict(self):
        return {"all": self}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Forgetful(rank=3), "a resumed collector must learn the same"),
        (lambda: Meddling(rank=3), "update must not move the weights"),
        (Stateless, "a method of the Collector protocol is missing"),
        (lambda: Shy(rank=3), "state_dict must hold tensors and primitives only"),
    ],
)
def test_broken_promises_are_named(make, message):
    with pytest.raises(AssertionError, match=message):
        check_collector(make, result=variance)


def test_without_assertions_there_are_no_contracts():
    """``python -O`` would let everything pass."""
    command = [sys.executable, "-O", "-c", "import bayesprior.testing"]
    done = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "run Python without -O" in done.stderr
