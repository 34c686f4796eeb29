import numpy as np
import pytest

from bayesprior.diagnostics.traces import stack_traces, trace_at
from bayesprior.errors import DataError
from bayesprior.inference.progress import TraceWriter, read_trace

ROWS = [{"step": float(s), "loss": s / 10.0} for s in (2, 4, 6)]


def test_chains_are_joined_by_step_and_gaps_are_nan(tmp_path):
    path = tmp_path / "trace.csv"
    writer = TraceWriter(path)
    for row in ROWS:
        writer.write(int(row["step"]), {"loss": row["loss"]})
    trace = stack_traces([read_trace(path), ROWS[1:]])
    np.testing.assert_array_equal(trace.step, [2, 4, 6])
    np.testing.assert_array_equal(trace.loss, [[0.2, 0.4, 0.6], [np.nan, 0.4, 0.6]])


def test_a_draw_gets_the_last_recorded_row():
    found = trace_at(ROWS, np.array([1, 2, 5, 6, 9]))
    np.testing.assert_array_equal(found["loss"], [np.nan, 0.2, 0.4, 0.6, 0.6])


@pytest.mark.parametrize("rows", [[], [{"loss": 1.0}]])
def test_an_empty_trace_is_refused(rows):
    with pytest.raises(DataError, match="chain 1 has no rows or no column 'step'"):
        stack_traces([ROWS, rows])
