"""Predict every split, collect the DataTree, write the report."""

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from bayesprior.data.adapters import check_fit, forward_for
from bayesprior.data.bundle import DataBundle
from bayesprior.data.corruptions import CORRUPTIONS, Corruption
from bayesprior.diagnostics.compare import MethodResult, pick_baseline
from bayesprior.diagnostics.predictions import Outcome
from bayesprior.errors import BayesPriorError, ConfigError, checked
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.progress import read_trace
from bayesprior.inference.protocols import Posterior
from bayesprior.prediction.predict import predict
from bayesprior.prediction.results import Prediction
from bayesprior.recipes.arguments import default_likelihood
from bayesprior.recipes.digests import described
from bayesprior.recipes.training import pick_device
from bayesprior.report.build import build_report
from bayesprior.report.sections.uncertainty import shown_points
from bayesprior.report.surface import surface_values
from bayesprior.storage import REPORT_TREE, TRACE, chain_dir
from bayesprior.tasks.likelihoods import Categorical, Likelihood
from bayesprior.tasks.protocols import Forward, pair_forward
from bayesprior.tree.build import to_datatree
from bayesprior.tree.files import load_tree, save_tree
from bayesprior.tree.maps import map_group
from bayesprior.tree.trace import draw_statistics
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["corrupted", "rebuild", "report"]

_MAPS = 5  # images that are shown with their maps
_HELD_BYTES = 2**31  # draws kept in memory, so that each file is read once


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
    forward: Forward = pair_forward,
    test: Prediction | None = None,
    run_dir: str | Path | None = None,
    title: str = "bayesprior report",
    subtitle: str = "",
    temperature: float = 1.0,
    shifted: Mapping[str, DataBundle] | None = None,
    ood: Mapping[str, DataBundle] | None = None,
    left_out: Mapping[str, str] | None = None,
    corruptions: Sequence[int] = (),
    runs: Sequence[MethodResult] = (),
    method: str | None = None,
    baseline: str | None = None,
    only_prior: bool = False,
    configuration: Mapping[str, Any] | None = None,
    num_draws: int | None = None,
    batch_size: int = 256,
    batch_norm: str = "draw",
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
        By default what the data ask for, as in the recipes.
    forward
        Calls the network on a batch, as in the fit.
    test
        Predictions of the test split by these draws, where they were made before.
    run_dir
        Folder with the run's ``trace.csv`` (or the chains').
    title, subtitle
        Of the page.
    temperature
        That the sampler was asked for.
    shifted, ood
        Further tasks by name, of which the test split is taken: with this task's labels, and
        foreign ones, whose labels are not used. A set that does not fit is left out and named.
    left_out
        Further sets that were found not to fit, by name, and why: the page says so.
    corruptions
        Severities (1 to 5) at which the test images are corrupted, all kinds each.
    runs, method, baseline
        Results on the same test points to set side by side; this run's name among them (the
        first), and the one it is held against (the second of them).
    only_prior
        Whether these two differ in nothing but the prior; only then is it said what the prior did.
    configuration
        Shown at the page's end.
    num_draws
        Draws averaged; all stored ones (30 of a Gaussian) by default.
    batch_size, batch_norm, seed, device, progress
        Of the predictions; BatchNorm statistics are re-estimated on the training split.
    mode
        "full" or "summary", see `bayesprior.tree.build.to_datatree`.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    ConfigError
        If the network does not take the data, or answers with other classes.
    StorageError
        If the folder cannot be written.
    DataError
        If a draw gives NaN, or the labels of the task's own splits do not fit the network.
    """
    likelihood = likelihood or default_likelihood(data)
    folder, forward = Path(out).expanduser(), forward_for(data, forward)
    module = module.to(pick_device(device))
    check_fit(module, data, forward)
    of_logits = getattr(posterior, "average", "") == "logits"
    held = _held(posterior, num_draws, seed)
    plain = dataclasses.replace(data, train=data.train.without_augmentation())
    options: dict[str, Any] = {
        "forward": forward,
        "num_draws": num_draws,
        "batch_norm": batch_norm,
        "bn_loader": data.loader("train", batch_size) if batch_norm == "reestimate" else None,
        "progress": progress,
        "seed": seed,
    }

    def predicted(bundle: DataBundle, split: str, **more: Any) -> Prediction:
        loader = bundle.loader(split, batch_size)
        return predict(module, held, loader, likelihood, **options, **more)

    train = predicted(plain, "train")
    test = predicted(data, "test") if test is None else test
    validation = None
    if data.validation is not None and test.mean_probs is not None:
        validation = predicted(data, "validation")
    changed = {name: bundle for s in corruptions for name, bundle in corrupted(data, s).items()}
    unusable = {f"set {name}": why for name, why in (left_out or {}).items()}

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
        which = train.chain.numpy(), train.draw.numpy()
        statistics = draw_statistics(run_dir, *which, traces)
    surface = None
    if prior is not None:
        try:
            surface = surface_values(
                (prior, _first(held, prior, seed)),
                module=module,
                data=data,
                prior=prior,
                likelihood=likelihood,
                forward=forward,
                names=("prior's mean", "fit" if len(train.draw) == 1 else "first draw"),
                max_examples=min(256, batch_size),
                seed=seed,
            )
        except BayesPriorError as error:
            unusable["loss surface"] = str(error)
    names = sorted((r.name for r in runs), key=lambda name: name != method)
    compared = pick_baseline(names, baseline) if names else (method, baseline)
    said = {
        "title": title,
        "subtitle": subtitle,
        "data": data.name,
        "class_names": list(data.class_names),
        "likelihood": described(likelihood),
        "num_data": data.num_data,
        "seed": seed,
        "temperature": temperature,
        # members of a committee are no chain either
        "independent_draws": int(isinstance(posterior, GaussianWeights) or of_logits),
        "committee": int(of_logits),
        "method": compared[0] or "",
        "baseline": compared[1] or "",
        "only_prior": int(only_prior),
        "configuration": dict(configuration or {}),
    }
    tree = to_datatree(
        prior=prior,
        draws=held.draws(num_draws, seed),
        train=train,
        test=test,
        validation=validation,
        shifted=sets,
        ood=foreign,
        traces=traces,
        sample_stats=statistics,
        methods=runs,
        images=_images(data, test),
        maps=_maps(data, test, predicted),
        surface=surface,
        class_names=data.class_names or None,
        mode=mode,
        attrs=said,
        seed=seed,
    )
    tree.attrs["missing"] = json.dumps(json.loads(tree.attrs["missing"]) | unusable)
    save_tree(tree, folder / REPORT_TREE)
    rebuild(folder)  # from the file, so that the page is the one that it gives later
    return tree


def rebuild(folder: str | Path) -> Path:
    """Write a report's page anew from its ``report.nc`` alone; nothing is predicted again.

    Parameters
    ----------
    folder
        Of a report.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    DataError
        If there is no ``report.nc``, or it is no tree.
    """
    return build_report(load_tree(Path(folder) / REPORT_TREE)).write(folder)


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


def _images(data: DataBundle, test: Prediction) -> dict[int, np.ndarray]:
    """Return the raw test images that the page shows; none if they are not all of one shape."""
    if not hasattr(data.test, "raw") or test.mean_probs is None or test.mean_probs.ndim > 2:
        return {}
    picks = np.concatenate(list(shown_points(Outcome.from_prediction("test", test)).values()))
    images = {int(i): np.asarray(data.test.raw(int(i))) for i in picks}
    if len({image.shape for image in images.values()}) > 1:
        return {}
    return {i: _shown(image) for i, image in images.items() if image.ndim in (2, 3)}


def _maps(
    data: DataBundle, test: Prediction, predicted: Callable[..., Prediction]
) -> xr.Dataset | None:
    """Return the maps of the least certain test images, those that the page shows."""
    if test.images is None or test.predictive_entropy.ndim > 1:
        return None
    picks = test.predictive_entropy.argsort(descending=True, stable=True)[:_MAPS]
    chosen = data.test.subset(picks)
    found = predicted(dataclasses.replace(data, test=chosen), "test", keep_maps=True)
    raws = [chosen.raw(i) for i in range(len(chosen))]
    crop = getattr(chosen, "crop", None)
    shown = [np.asarray(raw if crop is None else crop(raw)) for raw in raws]
    images = {int(i): _shown(image) for i, image in zip(picks, shown, strict=True)}
    return map_group(images, found, data.class_names)


def _first(posterior: Posterior, prior: GaussianWeights, seed: int) -> PointPosterior:
    """Return the first draw: of a point the fit itself."""
    draw = next(iter(posterior.draws(1, seed)))
    return PointPosterior(draw.layout or prior.layout, draw.weights, draw.buffers)


def _shown(image: np.ndarray) -> np.ndarray:
    """Channels last, and none of gray."""
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _held(posterior: Posterior, num_draws: int | None, seed: int) -> Posterior:
    """Read the draws once, for every set and for what they say of the prior, if memory allows."""
    draws, size = [], 0
    for draw in posterior.draws(num_draws, seed):
        size += sum(tensor.nbytes for tensor in (draw.weights, *draw.buffers.values()))
        if size > _HELD_BYTES:
            return posterior
        draws.append(draw)
    average = getattr(posterior, "average", "probabilities")
    return DrawsInMemory(draws, posterior.layout, average=average)
