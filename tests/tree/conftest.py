from made_runs import (
    case,
    labels,
    make_prediction,
    numbers,
    rng,
    run,
    run_factory,
    run_factory_module,
)

__all__ = [
    "case",
    "labels",
    "make_prediction",
    "numbers",
    "rng",
    "run",
    "run_factory",
    "run_factory_module",
]
