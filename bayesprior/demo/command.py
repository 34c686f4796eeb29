"""``bayesprior demo``: typeset glyphs to handwritten digits by `transfer`, chains beside it."""

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesprior import recipes
from bayesprior.cli.console import printable
from bayesprior.cli.fitting import show_leaderboard
from bayesprior.data import DataBundle, select_classes
from bayesprior.demo.glyphs import glyphs
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import AverageOptions, DataOptions, MadeFrom, ModelOptions
from bayesprior.recipes.predicting import compare_runs, load_prediction, predict_run
from bayesprior.recipes.runs import open_run, read_results
from bayesprior.recipes.saved import load_run
from bayesprior.recipes.study_options import DemoOptions
from bayesprior.storage import PRIOR, REPORT_PAGE, SOURCE

__all__ = ["demo"]

_MODEL = ModelOptions(model="small_conv")
_CHAINS = "SGHMC under the same prior"


def demo(options: DemoOptions) -> None:
    """Run the embedded example, print the leaderboard and write the report of the chains."""
    folder = open_run(options.out, "demo", dataclasses.asdict(options))
    common: dict[str, Any] = {"seed": options.seed, "device": "cpu", "progress": options.progress}
    _fit_source(folder / "source", options, common)
    choice = DataOptions(data="digits", num_data=options.num_data, data_seed=options.seed)
    data = load_data(choice)
    made = MadeFrom(data=choice, model=_MODEL)
    found = recipes.transfer(
        data,
        _MODEL.model,
        source=folder / "source" / SOURCE,
        out=folder / "transfer",
        baselines="all",
        made_from=made,
        **common,
    )
    module, _ = load_model(_MODEL, data, seed=options.seed)
    recipes.sample(
        module,
        found.prior,
        data,
        sampler="sghmc",
        chains=2,
        num_draws=options.num_draws,
        out=folder / "sghmc",
        made_from=dataclasses.replace(made, prior=str(folder / "transfer" / PRIOR)),
        **common,
    )
    average = AverageOptions(device="cpu", progress=options.progress)
    stage = predict_run(folder / "sghmc", options=average)
    _report(folder, options, average)
    numbers = read_results(folder / "sghmc")[stage]
    chains = {"method": "SGHMC", "on": "test", "fits": 2, **numbers}
    show_leaderboard(found, [chains])
    print("SGHMC: two chains under the same prior.")
    print("One choice of images: differences of a few hundredths decide nothing.")
    print(f"The report on the chains, with figures: {printable(folder / REPORT_PAGE)}")


def _fit_source(out: Path, options: DemoOptions, common: Mapping[str, Any]) -> None:
    choice = DataOptions(data="glyphs")
    data = load_data(choice)
    module, head = load_model(_MODEL, data, seed=options.seed)
    recipes.fit_source(
        module,
        data,
        head=head,
        rank=10,
        num_steps=options.source_steps,
        num_snapshots=20,
        collect_every=max(options.source_steps // 50, 1),
        out=out,
        made_from=MadeFrom(data=choice, model=_MODEL),
        **common,
    )


def _letters() -> DataBundle:
    """Test images of letters, which are foreign to a network that knows ten digits."""
    return select_classes(glyphs(), list(string.ascii_letters))


def _report(folder: Path, options: DemoOptions, average: AverageOptions) -> None:
    """Write the report of the chains, `transfer` beside them."""
    run = load_run(folder / "sghmc")
    test = load_prediction(folder / "sghmc", average, fit=run)
    compared = compare_runs([folder / "sghmc", folder / "transfer"], options=average)
    recipes.report(
        run.module,
        run.posterior,
        run.data,
        out=folder,
        prior=run.prior,
        test=test,
        run_dir=run.folder,
        title="From typeset glyphs to handwritten digits",
        subtitle=f"{_CHAINS} as the committee's MAP, {options.num_data} labeled images",
        ood={"typeset letters": _letters()},
        corruptions=(3,),
        runs=compared.results,
        method=compared.method,
        baseline=compared.baseline,
        configuration=run.options,
        progress=False,
        device="cpu",
    )
