"""Predictions for new data: pictures, arrays and tables that nobody has labeled."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from bayesprior.diagnostics.uncertainty import entropy
from bayesprior.errors import ConfigError, DataError
from bayesprior.prediction.mixtures import LEVELS
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.new_inputs import NewInputs
from bayesprior.recipes.options import NewDataOptions
from bayesprior.recipes.predicting import averaged
from bayesprior.recipes.saved import FitRun, load_run
from bayesprior.storage import atomic_path
from bayesprior.tasks.likelihoods import Bernoulli
from bayesprior.tasks.protocols import inputs_forward

__all__ = [
    "NewLabels",
    "NewNumbers",
    "NewPredictions",
    "Threshold",
    "check_out",
    "fitted_threshold",
    "listed",
    "predict_new",
]


class Threshold(NamedTuple):
    """Which answers to abstain from, fitted on examples with labels.

    Attributes
    ----------
    confidence
        Least largest probability that is answered.
    num_data
        Examples it was fitted on.
    num_kept
        Those of them that are answered.
    num_errors
        Those of the answers that are wrong.
    """

    confidence: float
    num_data: int
    num_kept: int
    num_errors: int


class _Rows:
    """A table with one row an input."""

    _digits: ClassVar[str] = ".6g"

    @property
    def columns(self) -> list[str]:
        """Names of a row's entries."""
        raise NotImplementedError

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row an input."""
        raise NotImplementedError

    def csv(self) -> str:
        """Return the rows as comma-separated values with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows():
            writer.writerow([self._cell(value) for value in row.values()])
        return text.getvalue()

    def _cell(self, value: Any) -> Any:
        if isinstance(value, float):
            return format(value, self._digits)
        return str(value).lower() if isinstance(value, bool) else value

    def write(self, path: str | Path) -> None:
        """Write the rows to a .csv file, atomically; replaces only a file of the same kind.

        Raises
        ------
        ConfigError
            If there is a file that is none of ours.
        StorageError
            If it cannot be written.
        """
        with atomic_path(check_out(path)) as temporary:
            temporary.write_text(self.csv(), encoding="utf-8", errors="surrogateescape")


@dataclass(frozen=True, eq=False)
class NewNumbers(_Rows):
    """What a run says of N new inputs whose targets are P numbers, in the targets' unit.

    Attributes
    ----------
    files
        Where each came from: a table, or an archive, and the row in it.
    mean, std
        (N, P), of the predictive law, noise included.
    quantiles
        (N, P, 4), of the same law, the mixture of the draws', at the levels
        `bayesprior.prediction.mixtures.LEVELS`.
    unreadable
        File -> reason, of what could not be read.
    """

    files: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    quantiles: np.ndarray
    unreadable: dict[str, str] = field(default_factory=dict)

    _digits: ClassVar[str] = ".9g"

    @property
    def columns(self) -> list[str]:
        """Names of a row's entries: file, and for each number mean, std and interval ends."""
        names = ["mean", "std", "low_50", "high_50", "low_90", "high_90"]
        several = self.mean.shape[1]
        return ["file", *(n if several == 1 else f"{n}_{i}" for i in range(several) for n in names)]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row an input; intervals are central ones, of 50 % and 90 %."""
        ends = [LEVELS.index(level) for level in (0.25, 0.75, 0.05, 0.95)]
        laws = np.concatenate([np.stack([self.mean, self.std], 2), self.quantiles[..., ends]], 2)
        for file, row in zip(self.files, laws, strict=True):
            yield dict(zip(self.columns, [file, *map(float, row.ravel())], strict=True))


@dataclass(frozen=True, eq=False)
class NewPredictions(_Rows):
    """What a run says of N new inputs.

    Attributes
    ----------
    files
        Where each came from: a picture's file, or an archive and the row in it.
    class_names
        Of the C classes.
    probs
        (N, C), average of the class probabilities over draws.
    threshold
        For abstaining; None if the run has no validation data to fit it on.
    unreadable
        File -> reason, of the pictures that could not be read.
    """

    files: tuple[str, ...]
    class_names: tuple[str, ...]
    probs: np.ndarray
    threshold: Threshold | None
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of a row's entries: file, class, one probability a class, entropy, abstain."""
        own = ("file", "class", "entropy", "abstain")
        probabilities = [f"p({name})" if name in own else name for name in self.class_names]
        return ["file", "class", *probabilities, "entropy", "abstain"]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row an input; ``abstain`` is None where there is no threshold."""
        known = self.threshold
        for file, probs, nats in zip(self.files, self.probs, entropy(self.probs), strict=True):
            abstains = None if known is None else bool(probs.max() < known.confidence)
            values = [file, self.class_names[int(probs.argmax())], *map(float, probs), float(nats)]
            yield dict(zip(self.columns, [*values, abstains], strict=True))


@dataclass(frozen=True, eq=False)
class NewLabels(_Rows):
    """What a run says of N new inputs that may have several of C labels.

    Attributes
    ----------
    files
        Where each came from: a picture's file, or an archive or table and the row in it.
    class_names
        Of the labels.
    probs
        (N, C), the average over draws of each label's probability.
    unreadable
        File -> reason, of what could not be read.
    """

    files: tuple[str, ...]
    class_names: tuple[str, ...]
    probs: np.ndarray
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of a row's entries: file, labels, one probability a label, entropy."""
        own = ("file", "labels", "entropy")
        each = [f"p({name})" if name in own else name for name in self.class_names]
        return ["file", "labels", *each, "entropy"]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row an input; ``labels`` are those above 1/2, ``entropy`` the sum of all."""
        entropies = entropy(np.stack([self.probs, 1 - self.probs], -1)).sum(1)
        for file, probs, nats in zip(self.files, self.probs, entropies, strict=True):
            said = "; ".join(n for n, p in zip(self.class_names, probs, strict=True) if p > 0.5)
            values = [file, said, *map(float, probs), float(nats)]
            yield dict(zip(self.columns, values, strict=True))


def check_out(path: str | Path) -> Path:
    """Return the path of a table; refuse a file that is not ours to replace.

    Raises
    ------
    ConfigError
        If it has another ending than .csv, or holds something else.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"out must be a .csv file, got {str(path)!r}")
    if path.is_dir():
        raise ConfigError(f"out is a folder: {path}")
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            if not file.readline().startswith(("file,class,", "file,labels,", "file,mean")):
                raise ConfigError(
                    f"out is {path}, which holds something else; choose another; nothing was "
                    "overwritten"
                )
    return path


class NewDataCall(NewDataOptions, kw_only=False):
    """Arguments of `predict_new`."""

    run: str | Path | FitRun
    """Folder of a fit, or what `bayesprior.load_run` made of it."""
    new: Sequence[str | Path]
    """Folders of pictures (searched through), picture files, .npz files with ``x``, or tables."""


@recipe(NewDataCall)
def predict_new(call: NewDataCall) -> NewPredictions | NewLabels | NewNumbers:
    """Predict pictures, arrays and tables with a finished run, through its own transform.

    Returns
    -------
    NewPredictions, NewLabels or NewNumbers
        What cannot be read is named in ``unreadable``, the others are predicted.

    Raises
    ------
    ConfigError
        If the run is not finished or has no kind of targets, or there is nothing to predict.
    DataError
        If not one input can be read.
    """
    fit = call.run if isinstance(call.run, FitRun) else load_run(call.run, trust=call.trust)
    names = fit.data.class_names
    if not names and not fit.data.num_numbers:
        raise ConfigError(f"{fit.data.name!r} has no classes, of which new data could be")
    if isinstance(fit.data.peek(1), Mapping):
        raise ConfigError(
            f"examples of {fit.data.name!r} are dictionaries, which files do not hold; in Python: "
            "bp.load_run(folder).predict_proba(batches)"
        )
    new = [call.new] if isinstance(call.new, str | Path) else call.new
    source = NewInputs([Path(path).expanduser() for path in new], fit.data, call.batch_size)
    threshold = None
    several = isinstance(fit.likelihood, Bernoulli)
    if names and not several and fit.data.validation is not None:
        known = averaged(fit, fit.data.loader("validation", call.batch_size), call)
        threshold = fitted_threshold(_array(known.mean_probs), _array(known.targets), call.risk)
    try:
        found = averaged(fit, source, call, inputs_forward)
    except DataError:
        if source.files:
            raise
        raise DataError(f"nothing could be read: {listed(source.unreadable)}") from None
    if found.mean is not None and found.variance is not None:
        mean, std, ends = map(np.asarray, (found.mean, found.variance.sqrt(), found.quantiles))
        return NewNumbers(tuple(source.files), mean, std, ends, source.unreadable)
    if several:
        probs = np.asarray(found.label_probs)
        return NewLabels(tuple(source.files), names, probs, source.unreadable)
    probs = _array(found.mean_probs)
    return NewPredictions(tuple(source.files), names, probs, threshold, source.unreadable)


def _array(found: Tensor | None) -> np.ndarray:
    if found is None or found.ndim > 2:
        raise ConfigError(
            "the run does not predict one class an input, as this table needs; of masks: "
            "bayesprior.recipes.predict_masks"
        )
    return found.numpy()


def listed(unreadable: Mapping[str, str]) -> str:
    """Return files and reasons in one line; the first few."""
    parts = [f"{file}: {reason}" for file, reason in list(unreadable.items())[:5]]
    return "; ".join(parts) + (f"; and {len(unreadable) - 5} more" if len(unreadable) > 5 else "")


def fitted_threshold(probs: np.ndarray, targets: np.ndarray, risk: float) -> Threshold:
    """Return the least confidence at which at most a share ``risk`` of the answers is wrong.

    Confidence is the largest probability; equal ones are answered or abstained from together.
    The share is the one on these examples: on few of them it is a rough guide to others.

    Parameters
    ----------
    probs
        (N, C).
    targets
        (N,) labels.
    risk
        In [0, 1].

    References
    ----------
    Y. Geifman and R. El-Yaniv, Selective classification for deep neural networks,
    arXiv:1705.08500

    Examples
    --------
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    >>> fitted_threshold(probs, np.array([0, 0, 1]), risk=0.1)
    Threshold(confidence=0.8, num_data=3, num_kept=2, num_errors=0)
    """
    confidence = probs.max(1)
    order = np.argsort(-confidence, kind="stable")
    levels = confidence[order]
    errors = np.cumsum((probs.argmax(1) != targets)[order])
    ends = np.append(levels[1:] != levels[:-1], True)
    good = np.flatnonzero(ends & (errors <= risk * np.arange(1, len(levels) + 1) + 1e-9))
    if not good.size:
        return Threshold(float("inf"), len(levels), 0, 0)
    last = int(good[-1])
    return Threshold(float(levels[last]), len(levels), last + 1, int(errors[last]))
