from made_runs import case, make_prediction, rng, run, run_factory, run_factory_module

__all__ = ["case", "make_prediction", "rng", "run", "run_factory", "run_factory_module"]
