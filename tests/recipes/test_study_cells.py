import pytest
import torch
from recipes_cases import QUIET, fresh, target_task

from bayesprior.errors import ConfigError
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.recipes import fit_map


def test_a_snapshot_is_the_fit_that_stops_there(tmp_path):
    prior, state, data = target_task()
    options = {**QUIET, "num_steps": 12, "lr": 0.05, "batch_size": 8, "seed": 2}
    fit_map(fresh(state), prior, data, out=tmp_path / "whole", snapshots=3, **options)
    for stop, draw in zip((4, 8, 12), StoredDraws(tmp_path / "whole").draws(), strict=True):
        stopped = fit_map(
            fresh(state), prior, data, out=tmp_path / f"stop-{stop}", stop=stop, **options
        )
        assert torch.equal(stopped.weights, draw.weights)
    for name in ("stop", "snapshots"):
        with pytest.raises(ConfigError, match=f"{name} must be at most num_steps = 12"):
            fit_map(fresh(state), prior, data, **{name: 13}, **options)
    with pytest.raises(ConfigError, match="snapshots are kept in a folder; give out="):
        fit_map(fresh(state), prior, data, snapshots=3, **options)
