"""``bayesprior demo``: source, prior, tuning, final fits, table and report."""

from bayesprior.cli.choices import flat

__all__ = ["demo_command"]


def demo_command(
    *,
    out: str = "demo",
    num_data: int = 20,
    seeds: int = 5,
    num_steps: int = 100,
    source_steps: int = 800,
    seed: int = 0,
    jobs: int = 2,
    progress: bool = True,
) -> None:
    """Run the embedded example, offline: typeset glyphs to handwritten digits.

    Fits a source posterior to 62 typeset characters, makes it a prior, and classifies real
    handwritten digits from a few labeled images: from scratch, by fine-tuning, with L2-SP, and by
    MAP, SWAG and SGLD with the learned prior. Every method is tuned on validation data with the
    same budget. Prints one table and writes report.html.

    Parameters
    ----------
    out
        Folder to write; a run that was stopped continues, what is finished is not done again.
    num_data
        Labeled handwritten images in all.
    seeds
        Repetitions with fresh images, head and noise.
    num_steps
        Steps of each fit; SGLD takes its burn-in from it and more for its draws.
    source_steps
        Steps on the source.
    seed
        First of the seeds.
    jobs
        Fits at a time, each on one core.
    progress
        Show progress bars.
    """
    options = flat(locals())
    from bayesprior.demo.steps import run_demo

    run_demo(options)
