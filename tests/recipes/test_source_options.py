import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.options import SourceOptions
from bayesprior.recipes.source_options import CollectOptions, ObjectiveOptions


def test_rates_follow_the_optimizer():
    assert SourceOptions().lr == 0.05
    assert SourceOptions(optimizer="adamw").lr == 1e-3
    assert ObjectiveOptions(optimizer="adamw", lr=0.1).lr == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.1}, "temperature belongs to objective simclr or moco, not supervised"),
        ({"objective": "simclr", "queue": 9}, "queue belongs to objective moco, not simclr"),
        ({"objective": "vicreg", "ema": 0.9}, "ema belongs to objective moco or byol, not vicreg"),
        ({"objective": "simclr", "collect_momentum": True}, "collect_momentum belongs to objecti"),
        ({"augmentations": "gray"}, "augmentations belongs to objective simclr or .*supervised"),
        ({"accuracy": True}, "accuracy belongs to objective"),
        ({"objective": "simlcr"}, "objective must be one of .*did you mean 'simclr'"),
        ({"optimizer": "adamw", "momentum": 1}, "momentum must be below 1 with adamw"),
        ({"warm_up": 20, "num_steps": 20}, "warm_up = 20 must be below num_steps = 20"),
    ],
)
def test_combinations_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        SourceOptions(**options)


def test_a_diagonal_of_checkpoints_has_no_rank():
    assert CollectOptions(diagonal_only=True).rank is None
    with pytest.raises(ConfigError, match="rank belongs to a law with directions"):
        CollectOptions(diagonal_only=True, rank=3)
