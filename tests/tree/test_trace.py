import numpy as np
import pytest
import torch

from bayesprior.errors import DataError
from bayesprior.inference.posteriors import save_draw
from bayesprior.inference.progress import TraceWriter, read_trace
from bayesprior.inference.protocols import Draw
from bayesprior.storage import chain_dir
from bayesprior.tree.trace import draw_statistics, stack_traces
from bayesprior.weights.layout import ParameterLayout

ROWS = [{"step": float(s), "loss": s / 10.0} for s in (2, 4, 6)]


def test_chains_are_joined_by_step_and_gaps_are_nan(tmp_path):
    path = tmp_path / "trace.csv"
    writer = TraceWriter(path)
    for row in ROWS:
        writer.write(int(row["step"]), {"loss": row["loss"]})
    trace = stack_traces([read_trace(path), ROWS[1:]])
    np.testing.assert_array_equal(trace.step, [2, 4, 6])
    np.testing.assert_array_equal(trace.loss, [[0.2, 0.4, 0.6], [np.nan, 0.4, 0.6]])


@pytest.mark.parametrize("rows", [[], [{"loss": 1.0}]])
def test_an_empty_trace_is_refused(rows):
    with pytest.raises(DataError, match="chain 1 has no rows or no column 'step'"):
        stack_traces([ROWS, rows])


def stored(folder, steps):
    layout = ParameterLayout(("w",), ((2,),))
    for chain, row in enumerate(steps):
        for index, step in enumerate(row):
            draw = Draw(chain, index, torch.zeros(2))
            save_draw(chain_dir(folder, chain), layout, draw, step=step)


def test_every_draw_gets_its_step_and_the_samplers_state(tmp_path):
    stored(tmp_path, [[2, 5], [4, 9]])
    traces = [
        [{"step": s, "lr": 0.1 * s, "temperature": 1.0, "loss": 3.0} for s in (2.0, 4.0, 6.0)],
        [{"step": s, "lr": 0.2 * s, "temperature": 0.5} for s in (3.0, 6.0)],
    ]
    chain, draw = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    found = draw_statistics(tmp_path, chain, draw, traces)
    assert set(found) == {"step", "lr", "temperature"}  # the loss is that of a batch
    np.testing.assert_array_equal(found["step"], [2, 5, 4, 9])
    np.testing.assert_allclose(found["lr"], [0.2, 0.4, 0.6, 1.2])
    np.testing.assert_array_equal(found["temperature"], [1, 1, 0.5, 0.5])
    early = draw_statistics(tmp_path, chain, draw, [traces[0], [{"step": 7.0, "lr": 1.0}]])
    np.testing.assert_allclose(early["lr"], [0.2, 0.4, np.nan, 1.0])
    last = draw_statistics(tmp_path, chain[1::2], draw[1::2], traces)  # thinned
    np.testing.assert_array_equal(last["step"], [5, 9])


def test_what_is_not_on_record_is_left_out(tmp_path):
    chain, draw = np.array([0, 1]), np.array([0, 0])
    stored(tmp_path, [[2], [4]])
    for traces in ([], [[{"step": 1.0, "lr": 1.0}], []]):
        assert set(draw_statistics(tmp_path, chain, draw, traces)) == {"step"}
    stored(tmp_path, [[None], [4]])
    assert draw_statistics(tmp_path, chain, draw, []) == {}
