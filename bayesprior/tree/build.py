"""Every method's result as one ArviZ DataTree."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from arviz_base import make_attrs
from jaxtyping import Shaped

from bayesprior.diagnostics.compare import MethodResult
from bayesprior.errors import ConfigError, DataError
from bayesprior.inference.protocols import Draw
from bayesprior.prediction.mixtures import LEVELS
from bayesprior.prediction.results import Prediction
from bayesprior.tree.beside import image_group, method_group
from bayesprior.tree.chains import ChainGrid
from bayesprior.tree.draws import WeightStatistics, weight_statistics
from bayesprior.tree.maps import sum_variables, sums_of
from bayesprior.tree.trace import Row, stack_traces
from bayesprior.version import __version__
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["to_datatree", "to_prediction"]

Variables = dict[str, tuple[tuple[str, ...], Any]]

# Fields of a prediction of numbers -> variable and dims after the points.
_OF_NUMBERS = {
    "mean": ("mean", "output"),
    "variance": ("variance", "output"),
    "quantiles": ("quantile", "output", "level"),
    "ranks": ("rank", "output"),
    "crps": ("crps",),
}


def to_datatree(
    *,
    prior: GaussianWeights | None = None,
    draws: Iterable[Draw] = (),
    train: Prediction | None = None,
    test: Prediction | None = None,
    validation: Prediction | None = None,
    shifted: Mapping[str, Prediction] | None = None,
    ood: Mapping[str, Prediction] | None = None,
    traces: Sequence[Sequence[Row]] = (),
    sample_stats: Mapping[str, Shaped[np.ndarray, " S"]] | None = None,
    methods: Sequence[MethodResult] = (),
    images: Mapping[int, Shaped[np.ndarray, "H W *channels"]] | None = None,
    maps: xr.Dataset | None = None,
    surface: xr.Dataset | None = None,
    class_names: Sequence[str] | None = None,
    mode: str = "full",
    num_prior_draws: int = 100,
    attrs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> xr.DataTree:
    """Collect a run's results in ArviZ's groups; what is not given is left out.

    Parameters
    ----------
    prior, draws
        The prior and the draws of the weights (one for a MAP estimate): groups ``posterior``,
        ``prior``, ``log_prior`` and ``constant_data``.
    train
        Predictions of the points that the posterior was conditioned on, by the same draws:
        ``log_likelihood``, ``posterior_predictive`` and ``observed_data``, all of variable ``y``.
    test
        Predictions of held-out points: ``predictions``.
    validation
        Of points on which to fit the temperature of the probabilities: ``validation``.
    shifted, ood
        Named sets of shifted points (with labels of the task) and of foreign ones (whose labels
        mean nothing and are left out): ``predictions_<name>``, attribute ``kind``.
    traces
        Each chain's rows of ``trace.csv``: ``trace``, of dims (chain, step).
    sample_stats
        Further scalars of each draw, in the order of ``draws``.
    methods
        Results on the same test points to set beside this run's, itself among them:
        ``methods_0``, ``methods_1``, ...
    images
        Raw test images by their position in the test set, those that a page shows: ``images``.
    maps
        Of a few test images whose pixels are predicted, from `bayesprior.tree.maps.map_group`.
    surface
        Data loss and prior between the prior's mean and the fit.
    class_names
        Coordinates of the classes.
    mode
        ``full``, or ``summary`` for large sets: the log likelihood (float32) and the averaged
        predictions, but no sampled labels.
    num_prior_draws
        Draws from the prior for group ``prior``.
    attrs
        Attributes of the tree; what is no text or number is written as JSON.
    seed
        Of the prior's draws and of the sampled labels.

    Returns
    -------
    xarray.DataTree
        Its attribute ``missing`` names what could not be made and why.

    Raises
    ------
    DataError
        If draws, sets and class names do not fit together.
    ConfigError
        If the mode is unknown or a set's name cannot name a group.

    Notes
    -----
    PSIS-LOO and power scaling read ``log_likelihood``, hence the training points: the log
    likelihood of other points is a variable of their ``predictions`` group. Sampled labels are
    drawn from the averaged probabilities: right for each point, independent between points.

    Examples
    --------
    >>> import torch
    >>> from bayesprior.weights.layout import ParameterLayout
    >>> prior = GaussianWeights.point(ParameterLayout(("w",), ((3,),)), torch.zeros(3), 1.0)
    >>> tree = to_datatree(prior=prior, draws=prior.draws(5), num_prior_draws=7)
    >>> sorted(tree.children)
    ['constant_data', 'log_prior', 'posterior', 'prior', 'sample_stats']
    >>> dict(tree["posterior"].mahalanobis.sizes)
    {'chain': 1, 'draw': 5}
    """
    if mode not in ("full", "summary"):
        raise ConfigError(f"mode must be 'full' or 'summary', got {mode!r}")
    sets = _named_sets(test, shifted or {}, ood or {})
    rng = np.random.default_rng(seed)
    groups: dict[str, xr.Dataset] = {}
    missing: dict[str, str] = {}
    grid: ChainGrid | None = None
    stats: dict[str, np.ndarray] = dict(sample_stats or {})
    draws = iter(draws)
    first = next(draws, None)
    if prior is not None and first is not None:
        found = weight_statistics(prior, itertools.chain([first], draws))
        grid = ChainGrid.of(found.chain, found.draw)
        groups["posterior"] = _weights(prior, found, grid)
        groups["log_prior"] = _dataset({"weights": _drawn(grid, found.log_prior)}, grid)
        under_prior = weight_statistics(prior, prior.draws(num_prior_draws, seed))
        groups["prior"] = _weights(
            prior, under_prior, ChainGrid.of(under_prior.chain, under_prior.draw)
        )
        groups["constant_data"] = _constants(prior)
        stats |= {"log_prior": found.log_prior, "mixture_weight": found.mixture}
    else:
        missing["posterior"] = "no prior or no draws were given"
    if train is not None:
        own = _prediction_grid(train)
        _check_same(grid, own, "the training set")
        groups |= _conditioned(train, own, mode, rng)
        stats["log_likelihood"] = np.asarray(train.log_likelihood, dtype=float).sum(1)
        grid = grid or own
    else:
        missing["log_likelihood"] = "no predictions of the training points: no LOO, no psense"
    if "log_prior" in stats and "log_likelihood" in stats:
        stats["lp"] = stats["log_prior"] + stats["log_likelihood"]
    if grid is not None and stats:
        variables = {name: _drawn(grid, np.asarray(v)) for name, v in stats.items()}
        groups["sample_stats"] = _dataset(variables, grid)
    for group, (kind, prediction) in sets.items():
        groups[group] = _predictions(prediction, kind, class_names, mode, rng)
    if validation is not None:
        groups["validation"] = _predictions(validation, "validation", class_names, "summary", rng)
    groups |= {f"methods_{i}": method_group(result) for i, result in enumerate(methods)}
    if images:
        groups["images"] = image_group(images)
    if maps is not None:
        groups["maps"] = maps
    if surface is not None:
        groups["surface"] = surface
    if test is None:
        missing["predictions"] = "no predictions of held-out points"
    if traces:
        groups["trace"] = stack_traces(traces).assign_attrs(_attrs())
    tree = xr.DataTree.from_dict(groups)
    dropped = grid.dropped if grid is not None else 0
    own_attrs = {"missing": missing, "mode": mode, "dropped_draws": dropped}
    if prior is not None:
        own_attrs |= {"provenance": prior.provenance, "layout_digest": prior.layout.digest()}
    tree.attrs = _attrs() | {
        k: v if isinstance(v, str | int | float) and not isinstance(v, bool) else json.dumps(v)
        for k, v in (own_attrs | dict(attrs or {})).items()
    }
    return tree


def _attrs() -> dict[str, Any]:
    library = {"inference_library": "bayesprior", "inference_library_version": __version__}
    return make_attrs(library)


def _drawn(grid: ChainGrid, values: np.ndarray, *dims: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Arrange a variable of the draws."""
    return ("chain", "draw", *dims), grid.arrange(values)


def _dataset(variables: Variables, grid: ChainGrid | None, **coords: Any) -> xr.Dataset:
    if grid is not None:
        coords |= {"chain": grid.chains, "draw": np.arange(grid.shape[1])}
    return xr.Dataset(variables, coords, _attrs())


def _weights(prior: GaussianWeights, found: WeightStatistics, grid: ChainGrid) -> xr.Dataset:
    dims: dict[str, tuple[str, ...]] = {"mahalanobis": ()}
    dims |= dict.fromkeys(("block_mahalanobis", "weight_norm"), ("block",))
    coords: dict[str, Any] = {"block": list(prior.layout.names)}
    if prior.rank:  # ArviZ summarizes no variable without values
        dims = {"prior_coordinate": ("prior_direction",), **dims}
        coords["prior_direction"] = np.arange(prior.rank)
    variables = {name: _drawn(grid, found.values[name], *rest) for name, rest in dims.items()}
    return _dataset(variables, grid, **coords)


def _constants(prior: GaussianWeights) -> xr.Dataset:
    sizes = [where.stop - where.start for where in prior.layout.slices.values()]
    variables: Variables = {
        "prior_rms_std": (("block",), list(prior.block_rms_std().values())),
        "block_size": (("block",), sizes),
    }
    shape = {
        "rank": prior.rank,
        "effective_rank": float(prior.effective_rank),
        "drift_share": float(prior.drift_share),
    }
    if (share := prior.provenance.get("jitter_share")) is not None:
        shape["jitter_share"] = float(share)
    return _dataset(variables, None, block=list(prior.layout.names)).assign_attrs(shape)


def _prediction_grid(prediction: Prediction) -> ChainGrid:
    return ChainGrid.of(np.asarray(prediction.chain), np.asarray(prediction.draw))


def _check_same(grid: ChainGrid | None, other: ChainGrid, what: str) -> None:
    if grid is not None and grid.shape != other.shape:
        raise DataError(
            f"the weights have {grid.shape} (chain, draw) but the predictions of {what} "
            f"{other.shape}; make both from the same draws"
        )


def _named_sets(
    test: Prediction | None, shifted: Mapping[str, Prediction], ood: Mapping[str, Prediction]
) -> dict[str, tuple[str, Prediction]]:
    """``group -> (kind, prediction)``."""
    out = {"predictions": ("test", test)} if test is not None else {}
    for kind, sets in (("shift", shifted), ("ood", ood)):
        for name, prediction in sets.items():
            group = f"predictions_{name}"
            if not name or "/" in name or group in out:
                raise ConfigError(f"{name!r} cannot name a set: empty, with a '/', or used twice")
            out[group] = (kind, prediction)
    return out


def _sampled(prediction: Prediction, rng: np.random.Generator) -> np.ndarray:
    """Outcomes for each draw and point, from the averaged law."""
    num_draws = len(prediction.chain)
    if prediction.label_probs is not None:
        probs = np.asarray(prediction.label_probs)
        return (rng.random((num_draws, *probs.shape)) < probs).astype(np.int32)
    if prediction.mean_probs is None:
        mean, variance = np.asarray(prediction.mean), np.asarray(prediction.variance)
        drawn = mean + np.sqrt(variance) * rng.standard_normal((num_draws, *mean.shape))
        return drawn[..., 0] if mean.shape[1] == 1 else drawn
    cumulative = np.asarray(prediction.mean_probs).cumsum(axis=1)
    cumulative /= cumulative[:, -1:]
    shape = (num_draws, len(cumulative), 1, *cumulative.shape[2:])
    # one draw at a time: all of them would need S x N x C numbers
    labels = [(u > cumulative).sum(axis=1) for u in map(rng.random, [shape[1:]] * num_draws)]
    return np.stack(labels).astype(np.int32)


def _targets(prediction: Prediction) -> np.ndarray:
    """Return what happened; of one output as numbers (N,), the shape of their log likelihood."""
    targets = np.asarray(prediction.targets)
    return targets[:, 0] if prediction.mean is not None and targets.shape[1:] == (1,) else targets


def _point_dims(values: Any, point: str, output: str = "output") -> tuple[str, ...]:
    """``(point,)``, ``(point, output)`` or ``(point, row, column)``."""
    return (point, *{1: (), 2: (output,), 3: ("row", "column")}[np.ndim(values)])


def _output(prediction: Prediction) -> str:
    """Return what the entries of a target of several are called."""
    return "output" if prediction.label_probs is None else "label"


def _conditioned(
    train: Prediction, grid: ChainGrid, mode: str, rng: np.random.Generator
) -> dict[str, xr.Dataset]:
    points = {"train_point": np.arange(train.num_points)}
    drawn = _drawn(grid, _scores(train, mode), "train_point")
    groups = {"log_likelihood": _dataset({"y": drawn}, grid, **points)}
    if train.targets is None:
        return groups
    targets = _targets(train)
    dims = _point_dims(targets, "train_point", _output(train))
    groups["observed_data"] = _dataset({"y": (dims, targets)}, None, **points)
    if mode == "full":
        labels = {"y": _drawn(grid, _sampled(train, rng), *dims)}
        groups["posterior_predictive"] = _dataset(labels, grid, **points)
    return groups


def _scores(prediction: Prediction, mode: str) -> np.ndarray:
    return np.asarray(prediction.log_likelihood, np.float32 if mode == "summary" else float)


def _predictions(
    prediction: Prediction,
    kind: str,
    class_names: Sequence[str] | None,
    mode: str,
    rng: np.random.Generator,
) -> xr.Dataset:
    grid = _prediction_grid(prediction)
    variables: Variables = {}
    coords: dict[str, Any] = {"point": np.arange(prediction.num_points)}
    for name in ("predictive_entropy", "expected_entropy", "mutual_information", "energy"):
        if (values := getattr(prediction, name)) is not None:
            variables[name] = (_point_dims(values, "point"), np.asarray(values))
    if prediction.calibration is not None and kind != "ood":
        variables["calibration"] = (("sum", "bin"), np.asarray(prediction.calibration))
        coords["sum"] = ["points", "confidence", "correct"]
    if kind != "ood":
        variables |= sum_variables(prediction.images)
    if prediction.mean_probs is not None:
        probs = np.asarray(prediction.mean_probs)
        names = list(class_names or map(str, range(probs.shape[1])))
        if len(names) != probs.shape[1]:
            raise DataError(f"{len(names)} class names but {probs.shape[1]} classes of outputs")
        grid_dims = ("row", "column")[: probs.ndim - 2]
        variables["probs"] = (("point", "class_name", *grid_dims), probs)
        coords["class_name"] = names
    if prediction.label_probs is not None:
        probs = np.asarray(prediction.label_probs)
        variables["label_probs"] = (("point", "label"), probs)
        coords["label"] = list(class_names or map(str, range(probs.shape[1])))
    for name, (variable, *dims) in _OF_NUMBERS.items():
        if (values := getattr(prediction, name)) is not None:
            variables[variable] = (("point", *dims), np.asarray(values))
            coords |= {"level": list(LEVELS)} if "level" in dims else {}
    if prediction.weight is not None:
        variables["mixture_weight"] = _drawn(grid, np.asarray(prediction.weight))
    if kind != "ood":
        variables["log_likelihood"] = _drawn(grid, _scores(prediction, mode), "point")
        variables["log_score"] = ("point",), np.asarray(prediction.average_log_likelihood)
        if prediction.targets is not None:
            targets = _targets(prediction)
            variables["target"] = (_point_dims(targets, "point", _output(prediction)), targets)
    laws = (prediction.mean_probs, prediction.label_probs, prediction.mean)
    if mode == "full" and any(law is not None for law in laws):
        labels = _sampled(prediction, rng)
        own = _point_dims(labels[0], "point", _output(prediction))
        variables["y"] = _drawn(grid, labels, *own)
    metrics = json.dumps(dict(prediction.metrics)) if kind != "ood" else "{}"
    told = {"kind": kind, "metrics": metrics, "own_score": int(prediction.log_score is not None)}
    return _dataset(variables, grid, **coords).assign_attrs(told)


def to_prediction(tree: xr.DataTree, group: str = "predictions") -> Prediction:
    """Take a group of predictions back as what `bayesprior.prediction.predict.predict` found.

    Draws count from 0 in each chain, and those that the tree left out are gone.
    """
    data = tree[group].dataset
    shape = data.sizes["chain"], data.sizes["draw"]
    names = {"probs": "mean_probs", "target": "targets", "mixture_weight": "weight"}
    names |= {"label_probs": "label_probs", **{v: n for n, (v, *_) in _OF_NUMBERS.items()}}
    kept = ("predictive_entropy", "expected_entropy", "mutual_information", "energy")
    names |= {n: n for n in (*kept, "calibration", "log_likelihood")}
    names |= {"log_score": "log_score"} if data.attrs.get("own_score", 0) else {}
    found = {field: np.array(data[n].values) for n, field in names.items() if n in data}
    for name in ("weight", "log_likelihood"):
        if name in found:
            found[name] = found[name].reshape(-1, *found[name].shape[2:]).astype(float)
    if "mean" in found and "targets" in found:
        found["targets"] = found["targets"].reshape(found["mean"].shape)
    parts: dict[str, Any] = dict.fromkeys(("mean_probs", "log_likelihood", "targets"))
    parts |= {name: torch.from_numpy(values) for name, values in found.items()}
    return Prediction(
        **parts,
        chain=torch.from_numpy(np.repeat(data.chain.values, shape[1])),
        draw=torch.arange(shape[1]).repeat(shape[0]),
        metrics=json.loads(data.attrs["metrics"]),
        images=sums_of(data),
    )
