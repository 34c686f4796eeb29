"""``bayesprior demo``: a source of typeset glyphs, a study on handwritten digits, a report."""

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bayesprior import recipes
from bayesprior.cli.console import printable
from bayesprior.cli.reporting import show_comparison
from bayesprior.data import DataBundle, select_classes
from bayesprior.demo.glyphs import glyphs
from bayesprior.diagnostics.compare import paired_differences
from bayesprior.recipes.named import load_data, load_model
from bayesprior.recipes.options import DataOptions, DemoOptions, MadeFrom, ModelOptions
from bayesprior.recipes.runs import open_run
from bayesprior.recipes.studying import Comparison
from bayesprior.report.verdicts import comparison_verdict
from bayesprior.storage import REPORT_PAGE, SOURCE

__all__ = ["GRID", "SELECTION_SEEDS", "demo", "methods"]

GRID: Mapping[str, tuple[float, ...]] = {"lr": (0.005, 0.02), "rms_std": (0.01, 0.3, 10.0)}
"""Learning rates, and widths of the backbone's prior: from about the source's own to one that, with
20 images, is next to no weight decay. Narrower ones around zero leave fine-tuning no chance."""
SELECTION_SEEDS = 2
BASELINE, ISOTROPIC = "fine-tuning", "L2-SP"
MAP, SWAG, SGLD = (f"{name}, learned prior" for name in ("MAP", "SWAG", "SGLD"))
REPORTED = SWAG
HEAD_STD = 3**0.5
"""Standard deviation of the head's weights, the same for every method."""
MOMENTUM = 0.9
"""Of MAP and SWAG. SGLD has none, and takes 1 / (1 - momentum) times the rates."""


def methods(budget: int) -> dict[str, Any]:
    """Return what is compared: where the backbone's prior lies, its shape, and the inference."""
    swag = {"num_snapshots": 20, "rank": 10, "collect_every": max(budget // 60, 1)}
    draws = max(budget // 8, 1)
    sgld = {
        "chains": 2,
        "num_draws": min(draws, 25),
        "thin": max(draws // 25, 1),
        # at 1 a new head drowns 20 labels; the backbone is sampled at 1
        "head_temperature": 1e-4,
    }
    rates = [rate / (1 - MOMENTUM) for rate in GRID["lr"]]
    described: dict[str, dict[str, Any]] = {
        "from scratch": {"start": "random", "prior": {"shape": "zero"}},
        BASELINE: {"start": "source", "prior": {"shape": "zero"}},
        ISOTROPIC: {"prior": {"shape": "isotropic"}},
        MAP: {},
        SWAG: {"inference": "swag", **swag},
        SGLD: {"inference": "sgld", **sgld, "grid": {**GRID, "lr": rates}},
    }
    for method in described.values():
        method["prior"] = {"head_std": HEAD_STD, **method.get("prior", {})}
        method.setdefault("grid", dict(GRID))
        if method.get("inference") != "sgld":
            method["momentum"] = MOMENTUM
    return described


def demo(options: DemoOptions) -> None:
    """Run the embedded example, print the study's table and write the report of one fit."""
    folder = open_run(options.out, "demo", dataclasses.asdict(options))
    model = ModelOptions(model="small_conv")
    common: dict[str, Any] = {"seed": options.seed, "device": "cpu", "progress": options.progress}
    _fit_source(folder / "source", options, model, common)
    found = recipes.study(
        data="digits",
        model=model.model,
        source=str(folder / "source" / SOURCE),
        out=str(folder / "study"),
        methods=methods(options.budget),
        baseline=BASELINE,
        budget=options.budget,
        num_data=(options.num_data,),
        seeds=options.seeds,
        selection_seeds=SELECTION_SEEDS,
        jobs=options.jobs,
        **common,
    )
    comparison = found.comparisons[0]
    _report(folder, comparison, options)
    show_comparison(comparison)
    print(f"* {_of_the_covariance(comparison)}")
    print(f"The report, with figures: {printable(folder / REPORT_PAGE)}")
    print(f"The study's own page: {printable(found.folder / REPORT_PAGE)}")


def _fit_source(
    out: Path, options: DemoOptions, model: ModelOptions, common: Mapping[str, Any]
) -> None:
    choice = DataOptions(data="glyphs")
    data = load_data(choice)
    module, head = load_model(model, data, seed=options.seed)
    recipes.fit_source(
        module,
        data,
        head=head,
        rank=10,
        num_steps=options.source_steps,
        num_snapshots=20,
        collect_every=max(options.source_steps // 50, 1),
        out=out,
        made_from=MadeFrom(data=choice, model=model),
        **common,
    )


def _of_the_covariance(comparison: Comparison) -> str:
    """Say whether the learned covariance brought anything over an isotropic one."""
    pair = [r for r in comparison.results if r.name in (MAP, ISOTROPIC)]
    if len(pair) < 2:
        return f"{MAP} and {ISOTROPIC} cannot be compared: one of them has no fit."
    verdict = comparison_verdict(paired_differences(pair, ISOTROPIC), MAP, ISOTROPIC)
    return f"The learned covariance: {verdict.question} {verdict.headline}. {verdict.reason}"


def _letters() -> DataBundle:
    """Test images of letters, which are foreign to a network that knows ten digits."""
    return select_classes(glyphs(), list(string.ascii_letters))


def _report(folder: Path, comparison: Comparison, options: DemoOptions) -> None:
    """Write the report of the first fit of one method, all methods beside it."""
    run = recipes.load_run(comparison.folders[REPORTED][0])
    recipes.report(
        run.module,
        run.posterior,
        run.data,
        out=folder,
        prior=run.prior,
        run_dir=run.folder,
        title="From typeset glyphs to handwritten digits",
        subtitle=f"{REPORTED}, {options.num_data} labeled images",
        ood={"typeset letters": _letters()},
        corruptions=(3,),
        runs=comparison.results,
        method=REPORTED,
        baseline=BASELINE,
        configuration=run.options,
        progress=False,
        device="cpu",
    )
