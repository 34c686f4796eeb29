"""The recorded steps of the chains as arrays."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Integer

from bayesprior.errors import DataError
from bayesprior.inference.posteriors import stored_step
from bayesprior.storage import chain_dir, draw_path

__all__ = ["draw_statistics", "stack_traces"]

Row = Mapping[str, float]

PER_DRAW = ("lr", "temperature", "kinetic_temperature", "configurational_temperature")
"""Columns of the trace that speak of the sampler at one draw, rather than of one batch; also of a
parameter group, as ``temperature.0``."""


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


def draw_statistics(
    run_dir: str | Path,
    chain: Integer[np.ndarray, " S"],
    draw: Integer[np.ndarray, " S"],
    traces: Sequence[Sequence[Row]],
) -> dict[str, Float[np.ndarray, " S"]]:
    """Return step, learning rate and temperatures at every stored draw, for ``sample_stats``.

    Parameters
    ----------
    run_dir
        Folder of ``chain-00``, ``chain-01``, ... with the draws, whose headers know their step.
    chain, draw
        Which draws, as `bayesprior.prediction.results.Prediction` names them.
    traces
        Each chain's rows of ``trace.csv``. Of a step that was not recorded the last row before it
        is taken.

    Returns
    -------
    dict
        ``step``, and those of ``lr``, ``temperature``, ``kinetic_temperature`` and
        ``configurational_temperature`` that every chain recorded. Nothing if a draw's step is not
        on record.

    Raises
    ------
    PriorFileError
        If a draw's file is missing or damaged.
    """
    pairs = zip(chain.tolist(), draw.tolist(), strict=True)
    found = [stored_step(draw_path(chain_dir(run_dir, c), i)) for c, i in pairs]
    if None in found:
        return {}
    out = {"step": np.array(found, float)}
    if len(traces) <= chain.max() or not all(traces):
        return out
    recorded = [
        name
        for name in traces[0][0]
        if name.split(".")[0] in PER_DRAW and all(name in rows[0] for rows in traces)
    ]
    out |= {name: np.full(len(chain), np.nan) for name in recorded}
    for i, (number, step) in enumerate(zip(chain, out["step"], strict=True)):
        rows = [row for row in traces[number] if row["step"] <= step]
        for name in recorded if rows else ():
            out[name][i] = rows[-1][name]
    return out
