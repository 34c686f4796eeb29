"""``bayesprior demo``: source, prior, tuning, final fits, table and report."""

import dataclasses

from bayesprior.recipes.options import DemoOptions

__all__ = ["demo"]


def demo(options: DemoOptions) -> None:
    """Run the embedded example, see `bayesprior.demo.steps.run_demo`."""
    from bayesprior.demo.steps import run_demo

    run_demo(dataclasses.asdict(options))
