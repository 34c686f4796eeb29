"""Few-shot subsets, validation splits and class selection.

Each is a prefix of one random order of the examples, hence nested in its size.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import read_targets
from bayesprior.data.transforms import Standardization
from bayesprior.errors import ConfigError, DataError, checked, nearest_name
from bayesprior.inference.generators import fold_seed

__all__ = ["few_shot", "select_classes", "split_off", "split_validation"]


def _ordered(
    labels: Int[Tensor, " N"], seed: int, key: Callable[[Tensor, Tensor], Tensor]
) -> Int[Tensor, " N"]:
    """Return all examples by a key of (rank in the class, size of the class), ties at random.

    scikit-learn's splitters refuse classes with one example and parts smaller than the number of
    classes.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    counts, classes = torch.bincount(labels), labels[shuffled]
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty_like(shuffled)
    rank[classes.argsort(stable=True)] = torch.arange(len(labels)) - first
    return shuffled[key(rank, counts[classes]).argsort(stable=True)]


def _labels(bundle: DataBundle, needed: bool = False) -> Tensor:
    """Return the training labels; all 0 where an example has no class of its own."""
    if bundle.class_names and not bundle.has_masks:
        if (targets := read_targets(bundle.train)).ndim == 1:
            return targets
    if needed:
        name = bundle.name
        raise DataError(f"{name!r} has no class for each example; this needs a classification task")
    return torch.zeros(bundle.num_data, dtype=torch.long)


def _exactly_one(**options: Any) -> None:
    if sum(value is not None for value in options.values()) != 1:
        raise ConfigError(f"give exactly one of {' and '.join(options)}")


@checked(bundle="bundle", num_data="count", per_class="count", seed="integer")
def few_shot(
    bundle: DataBundle, *, num_data: int | None = None, per_class: int | None = None, seed: int = 0
) -> DataBundle:
    """Keep a small part of the training examples, class-balanced where they have classes.

    The subsets of one seed are nested: its 20 examples are among its 50. The validation and test
    splits stay.

    Parameters
    ----------
    bundle
        Any task. Without labels of one class an example, as in regression, the order is random.
    num_data
        Examples in all. Class sizes differ by one at most (by more only where a class runs out);
        which classes get the remainder is drawn at random.
    per_class
        Examples of every class; give this or ``num_data``.
    seed
        Decides the examples.

    Raises
    ------
    DataError
        If there are fewer training examples than asked for, or ``per_class`` without classes.
    ConfigError
        If not exactly one of ``num_data`` and ``per_class`` is given, or it is below 1.

    Warns
    -----
    UserWarning
        If a class is left without a training example.

    Examples
    --------
    >>> from bayesprior.data import digits
    >>> few_shot(digits(), num_data=20, seed=3).class_counts.tolist()
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    _exactly_one(num_data=num_data, per_class=per_class)
    number = num_data or per_class or 0
    labels = _labels(bundle, needed=per_class is not None)
    most, what = len(labels), "training examples"
    if per_class is not None:
        scarce = int(bundle.class_counts.argmin())
        most = int(bundle.class_counts[scarce])
        what += f" of class {bundle.class_names[scarce]!r}"
    if number > most:
        name = "num_data" if per_class is None else "per_class"
        raise DataError(f"{name} = {number} is more than the {most} {what} of {bundle.name!r}")
    # Rounds of one example a class.
    order = _ordered(labels, fold_seed(seed, 2), lambda rank, _: rank)
    chosen = order[: number if per_class is None else number * bundle.num_classes]
    return _fitted(dataclasses.replace(bundle, train=bundle.train.subset(chosen.sort().values)))


def split_validation(
    bundle: DataBundle, *, fraction: float | None = None, num: int | None = None, seed: int = 0
) -> DataBundle:
    """Take validation examples out of the training split, class by class; test is not touched.

    Parameters
    ----------
    bundle
        A task without a validation split.
    fraction
        Share of the training examples, in (0, 1).
    num
        Number of validation examples; give this or ``fraction``.
    seed
        Decides the examples.

    Returns
    -------
    DataBundle
        Its validation split is not augmented.

    Raises
    ------
    ConfigError
        If the bundle has a validation split already, or not exactly one of ``fraction`` and
        ``num`` is given.
    DataError
        If a split would be empty.

    Warns
    -----
    UserWarning
        If a class is left without a training example.

    Examples
    --------
    >>> from bayesprior.data import digits
    >>> few = few_shot(digits(), num_data=200)
    >>> bundle = split_validation(dataclasses.replace(few, validation=None), fraction=0.1)
    >>> len(bundle.train), len(bundle.validation)
    (180, 20)
    """
    if held := bundle.validation:
        raise ConfigError(f"{bundle.name!r} already has {len(held)} validation examples; use those")
    _exactly_one(fraction=fraction, num=num)
    size = float(fraction) if fraction is not None else num or 0
    return split_off(bundle, "validation", size, seed)


def _fitted(bundle: DataBundle) -> DataBundle:
    """Standardize a table by what is left for training."""
    own = getattr(bundle.train, "transform", None)
    if not isinstance(own, Standardization):
        return bundle
    own = own.fitted(bundle.train.inputs)
    splits = {n: dataclasses.replace(data, transform=own) for n, data in bundle.splits.items()}
    return dataclasses.replace(bundle, **splits)


def split_off(bundle: DataBundle, split: str, size: float, seed: int) -> DataBundle:
    """Make a split, not augmented, of training examples, each class by (nearly) the same share.

    The j-th example of a class of n has key (j + 1/2) / n; those with the smallest keys form the
    split, so a class gives n num / N examples, rounded. A share for testing leaves every class an
    example to train on: it is smaller where a class has no other, and there is none if none has.

    Parameters
    ----------
    bundle
        Any task.
    split
        Name of the split to make.
    size
        Number (an int) or share (a float) of the training examples.
    seed
        Decides the examples.

    Raises
    ------
    ConfigError
        If a share is outside (0, 1).
    DataError
        If one part would be empty.
    """
    num, train = int(size), bundle.train
    if isinstance(size, float):
        if not 0 < size < 1:
            option = "test_fraction" if split == "test" else "fraction"
            raise ConfigError(f"{option} must be in (0, 1), got {size}")
        num = round(size * len(train))
    labels = _labels(bundle)
    is_test = split == "test" and isinstance(size, float) and bool(bundle.class_names)
    if is_test:
        num = min(num, len(train) - len(labels.unique()))
        if num == 0:
            return bundle
    if not 0 < num < len(train):
        raise DataError(f"cannot split {num} of {len(train)} examples off: a part would be empty")

    def key(j: Tensor, n: Tensor) -> Tensor:
        return (j.double() + 0.5) / n + (is_test & (j == n - 1))

    order = _ordered(labels, fold_seed(seed, 3), key)
    rest, part = (train.subset(rows.sort().values) for rows in (order[num:], order[:num]))
    new = {"train": rest, split: part.without_augmentation()}
    return _fitted(dataclasses.replace(bundle, **new))


def select_classes(bundle: DataBundle, classes: Sequence[int | str]) -> DataBundle:
    """Keep some classes, relabeled 0, 1, ... in the given order, in every split.

    Parameters
    ----------
    bundle
        A classification task. Where examples have several labels all of them stay, with those
        labels alone.
    classes
        Names or indices; at least two, each once.

    Raises
    ------
    ConfigError
        If a class is unknown or given twice, or there is only one.
    DataError
        If a split has no example of these classes.

    Examples
    --------
    >>> from bayesprior.data import digits
    >>> select_classes(digits(), [5, 6, 7, 8, 9]).class_names
    ('5', '6', '7', '8', '9')
    """
    several = bundle.has_several_labels
    if not several:
        _labels(bundle, needed=True)
    chosen = [_class_index(bundle, c) for c in classes]
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise ConfigError(f"classes must be at least two, each once, got {list(classes)}")
    new_label = torch.full((bundle.num_classes,), -1)
    new_label[chosen] = torch.arange(len(chosen))
    parts = {}
    for split, data in bundle.splits.items():
        labels = read_targets(data)
        if several:
            parts[split] = data.subset(torch.arange(len(data)), targets=labels[:, chosen])
            continue
        labels = new_label[labels]
        rows = (labels >= 0).nonzero().flatten()
        parts[split] = data.subset(rows, targets=labels[rows])
    names = tuple(bundle.class_names[c] for c in chosen)
    return _fitted(DataBundle(bundle.name, **parts, class_names=names, columns=bundle.columns))


def _class_index(bundle: DataBundle, name: int | str) -> int:
    names, numbers = bundle.class_names, range(bundle.num_classes)
    if name in names:
        return names.index(name)
    if name in numbers:
        return int(name)
    hint = nearest_name(str(name), names) or f"; its classes are 0..{numbers[-1]}"
    raise ConfigError(f"{bundle.name!r} has no class {name!r}{hint}")
