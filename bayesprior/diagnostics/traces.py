"""The recorded steps of the chains as arrays."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer

from bayesprior.errors import DataError

__all__ = ["stack_traces", "trace_at"]

Row = Mapping[str, float]


def stack_traces(traces: Iterable[Sequence[Row]]) -> xr.Dataset:
    """Bring the rows of every chain's ``trace.csv`` into variables of dims (chain, step).

    Parameters
    ----------
    traces
        One list of rows (see `bayesprior.inference.progress.read_trace`) a chain.

    Returns
    -------
    xarray.Dataset
        One variable for each column; NaN at steps that a chain did not record.

    Raises
    ------
    DataError
        If a chain has no row or its rows lack ``step``.

    Examples
    --------
    >>> rows = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": 1.0}]
    >>> dict(stack_traces([rows, rows[:1]]).sizes)
    {'chain': 2, 'step': 2}
    """
    chains = []
    for chain, rows in enumerate(traces):
        if not rows or "step" not in rows[0]:
            raise DataError(f"the trace of chain {chain} has no rows or no column 'step'")
        columns = [name for name in rows[0] if name != "step"]
        steps = np.array([row["step"] for row in rows]).astype(int)
        values = {name: ("step", np.array([row[name] for row in rows])) for name in columns}
        chains.append(xr.Dataset(values, {"step": steps}))
    return xr.concat(chains, xr.IndexVariable("chain", np.arange(len(chains))), join="outer")


def trace_at(
    rows: Sequence[Row], steps: Integer[np.ndarray, " draw"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """Return each column's last recorded value at or before each step (NaN before the first).

    Parameters
    ----------
    rows
        One chain's trace, in order of its steps.
    steps
        The steps at which draws were kept.
    """
    recorded = np.array([row["step"] for row in rows])
    where = np.searchsorted(recorded, steps, side="right") - 1
    return {
        name: np.where(where >= 0, np.array([row[name] for row in rows])[where], np.nan)
        for name in rows[0]
        if name != "step"
    }
