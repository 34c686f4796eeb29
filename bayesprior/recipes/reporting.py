"""Predict every split, collect the DataTree, write the report."""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from bayesprior.data.bundle import DataBundle
from bayesprior.data.corruptions import CORRUPTIONS, Corruption
from bayesprior.diagnostics.compare import RunResult
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.errors import BayesPriorError, ConfigError, checked
from bayesprior.inference.posteriors import StoredDraws
from bayesprior.inference.progress import read_trace
from bayesprior.inference.protocols import Posterior
from bayesprior.prediction.predict import Prediction, predict
from bayesprior.recipes.training import pick_device
from bayesprior.report.build import build_report
from bayesprior.storage import TRACE, chain_dir
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import save_tree
from bayesprior.tree.trace import draw_statistics
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["corrupted", "report"]

_NUM_IMAGES = 5000  # raw test images handed to the report; it shows a dozen


@checked(
    "module=network posterior=posterior data=bundle out=path prior=law likelihood=likelihood "
    "run_dir=path num_draws=integer batch_size=count seed=integer"
)
def report(
    module: nn.Module,
    posterior: Posterior,
    data: DataBundle,
    *,
    out: str | Path,
    prior: GaussianWeights | None = None,
    likelihood: Likelihood | None = None,
    run_dir: str | Path | None = None,
    title: str = "bayesprior report",
    subtitle: str = "",
    temperature: float = 1.0,
    shifted: Mapping[str, DataBundle] | None = None,
    ood: Mapping[str, DataBundle] | None = None,
    corruptions: Sequence[int] = (),
    runs: Sequence[RunResult] = (),
    method: str | None = None,
    baseline: str | None = None,
    configuration: Mapping[str, Any] | None = None,
    num_draws: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    device: str = "auto",
    mode: str = "full",
    progress: bool = True,
) -> xr.DataTree:
    """Say what a posterior brought: ``report.nc`` for ArviZ, and a page for a person.

    Parameters
    ----------
    module, posterior, data
        The network, the fit, and its task.
    out
        Folder of ``report.nc``, ``report.html``, ``report.md`` and ``report.json``.
    prior
        That the fit was made with, for what it did.
    likelihood
        `Categorical` by default.
    run_dir
        Folder with the run's ``trace.csv`` (or the chains').
    title, subtitle
        Of the page.
    temperature
        That the sampler was asked for.
    shifted, ood
        Further tasks by name, of which the test split is taken: with this task's labels, and
        foreign ones, whose labels are not used. A set that does not fit is left out and named.
    corruptions
        Severities (1 to 5) at which the test images are corrupted, all kinds each.
    runs, method, baseline
        Results on the same test points to set side by side; this run's name and its reference.
    configuration
        Shown at the page's end.
    num_draws
        Draws averaged; all stored ones (30 of a Gaussian) by default.
    batch_size, seed, device, progress
        Of the predictions.
    mode
        "full" or "summary", see `bayesprior.tree.build.to_datatree`.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    StorageError
        If the folder cannot be written.
    DataError
        If a draw gives NaN, or the labels of the task's own splits do not fit the network.
    """
    likelihood = likelihood or Categorical()
    folder = Path(out).expanduser()
    module = module.to(pick_device(device))

    def predicted(bundle: DataBundle, split: str) -> Prediction:
        return predict(
            module,
            posterior,
            bundle.loader(split, batch_size),
            likelihood,
            num_draws=num_draws,
            progress=progress,
            seed=seed,
        )

    plain = dataclasses.replace(data, train=data.train.without_augmentation())
    test = predicted(data, "test")
    validation = None
    if data.validation is not None and data.class_names:
        found = predicted(data, "validation")
        if found.mean_probs is not None:
            validation = Outcome.from_prediction("validation set", found)
    changed = {name: bundle for s in corruptions for name, bundle in corrupted(data, s).items()}
    unusable: dict[str, str] = {}

    def predicted_sets(bundles: Mapping[str, DataBundle]) -> dict[str, Prediction]:
        found = {}
        for name, bundle in bundles.items():
            try:
                found[name] = predicted(bundle, "test")
            except BayesPriorError as error:
                unusable[f"set {name}"] = str(error)
            except RuntimeError:  # torch's, of a network given another shape
                if bundle.input_shape == data.input_shape:
                    raise
                unusable[f"set {name}"] = (
                    f"its inputs are {bundle.input_shape}, the task's {data.input_shape}, and the "
                    "network does not take them; resize them"
                )
        return found

    sets = predicted_sets(changed | dict(shifted or {}))
    others = dict(ood or {})
    if isinstance(likelihood, Categorical):
        others = {name: _unlabeled(bundle) for name, bundle in others.items()}
    foreign = predicted_sets(others)
    traces = _traces(run_dir, posterior)
    statistics = None
    if run_dir is not None and isinstance(posterior, StoredDraws):
        which = test.chain.numpy(), test.draw.numpy()
        statistics = draw_statistics(run_dir, *which, traces)
    tree = to_datatree(
        prior=prior,
        draws=posterior.draws(num_draws, seed),
        train=predicted(plain, "train"),
        test=test,
        shifted=sets,
        ood=foreign,
        traces=traces,
        sample_stats=statistics,
        class_names=data.class_names or None,
        mode=mode,
        attrs={"data": data.name, "num_data": data.num_data, "seed": seed},
        seed=seed,
    )
    tree.attrs["missing"] = json.dumps(json.loads(tree.attrs["missing"]) | unusable)
    save_tree(tree, folder / "report.nc")
    page = build_report(
        tree,
        title=title,
        subtitle=subtitle,
        prior=prior,
        num_data=data.num_data,
        temperature=temperature,
        independent_draws=isinstance(posterior, GaussianWeights),
        validation=validation,
        images=_images(data),
        runs=runs,
        method=method,
        baseline=baseline,
        configuration=configuration,
    )
    page.write(folder)
    return tree


def corrupted(data: DataBundle, severity: int) -> dict[str, DataBundle]:
    """Return the task with corrupted test images, by ``kind-severity``.

    Raises
    ------
    ConfigError
        If the severity is not 1 to 5, or the data set has no transform to put the corruption in.
    """
    if not hasattr(data.test, "transform"):
        raise ConfigError(
            f"{type(data.test).__name__} has no transform, so its images cannot be corrupted; "
            "use ArrayDataset or LazyDataset"
        )
    out = {}
    for kind in CORRUPTIONS:
        corruption = Corruption(kind, severity, then=data.test.transform)
        test = dataclasses.replace(data.test, transform=corruption)
        out[f"{kind}-{severity}"] = dataclasses.replace(data, test=test)
    return out


def _unlabeled(data: DataBundle) -> DataBundle:
    """Forget labels that mean nothing to the task and may be more than it has classes."""
    nothing = torch.zeros(len(data.test), dtype=torch.long)
    test = data.test.subset(torch.arange(len(data.test)), targets=nothing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the bundle warns of, it did when it was made
        return dataclasses.replace(data, test=test)


def _traces(run_dir: str | Path | None, posterior: Posterior) -> list[list[dict[str, float]]]:
    if run_dir is None:
        return []
    folders = [Path(run_dir).expanduser()]
    if isinstance(posterior, StoredDraws):
        folders = [chain_dir(run_dir, chain) for chain in range(posterior.num_chains)]
    return [read_trace(f / TRACE) for f in folders if (f / TRACE).exists()]


def _images(data: DataBundle) -> np.ndarray | None:
    """Return the raw test images, channels last; None if they are not all of one shape."""
    if len(data.test) > _NUM_IMAGES:
        return None
    images = [np.asarray(data.test.raw(i)) for i in range(len(data.test))]
    if len({image.shape for image in images}) > 1 or images[0].ndim not in (2, 3):
        return None
    stacked = np.stack(images)
    if stacked.ndim == 4 and stacked.shape[1] in (1, 3):
        stacked = np.moveaxis(stacked, 1, -1)
    return stacked[..., 0] if stacked.ndim == 4 and stacked.shape[-1] == 1 else stacked
