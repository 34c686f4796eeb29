"""Few-shot subsets, validation splits and class selection.

Each is a prefix of one random order of the examples, hence nested in its size.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from bayesprior.data.bundle import DataBundle
from bayesprior.data.datasets import read_targets
from bayesprior.errors import ConfigError, DataError, checked, nearest_name
from bayesprior.inference.generators import fold_seed

__all__ = ["few_shot", "select_classes", "split_off", "split_validation", "stratified_split"]


def _rank_in_class(labels: Int[Tensor, " N"], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shuffle, then rank every example within its class.

    Returns
    -------
    tuple
        Example indices in random order, the rank of each in its class, the size of its class.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(labels)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    by_class = labels[shuffled].argsort(stable=True)
    rank = torch.empty_like(shuffled)
    rank[by_class] = torch.arange(len(labels)) - first
    return shuffled, rank, counts[labels[shuffled]]


def _labels(bundle: DataBundle, needed: bool = False) -> Tensor:
    """Return the training labels; all 0 where an example has no class of its own."""
    if bundle.class_names and (targets := read_targets(bundle.train)).ndim == 1:
        return targets
    if needed:
        name = bundle.name
        raise DataError(f"{name!r} has no class for each example; this needs a classification task")
    return torch.zeros(bundle.num_data, dtype=torch.long)


def _exactly_one(**options: Any) -> None:
    if sum(value is not None for value in options.values()) != 1:
        raise ConfigError(f"give exactly one of {' and '.join(options)}")


@checked(bundle="bundle", num_data="integer", per_class="integer", seed="integer")
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
    name, number = ("num_data", num_data) if per_class is None else ("per_class", per_class)
    if number is None or number < 1:
        raise ConfigError(f"{name} must be at least 1, got {number}")
    labels = _labels(bundle, needed=per_class is not None)
    most, what = len(labels), "training examples"
    if per_class is not None:
        scarce = int(bundle.class_counts.argmin())
        most = int(bundle.class_counts[scarce])
        what += f" of class {bundle.class_names[scarce]!r}"
    if number > most:
        raise DataError(f"{name} = {number} is more than the {most} {what} of {bundle.name!r}")
    examples, rank, _ = _rank_in_class(labels, fold_seed(seed, 2))
    # A stable sort by rank keeps the shuffle within each round of one example per class.
    order = rank.argsort(stable=True)
    chosen = examples[order[: number if per_class is None else number * bundle.num_classes]]
    return dataclasses.replace(bundle, train=bundle.train.subset(chosen.sort().values))


def stratified_split(
    labels: Int[Tensor, " N"], num: int, seed: int
) -> tuple[Int[Tensor, " rest"], Int[Tensor, " num"]]:
    """Split examples in two, each class by (nearly) the same share.

    The j-th example of a class of n has key (j + 1/2) / n; those with the smallest keys form the
    second part, so a class gives n num / N examples, rounded.

    Parameters
    ----------
    labels
        Class labels, shape (N,).
    num
        Size of the second part, 0 < num < N.
    seed
        Decides the examples.

    Returns
    -------
    tuple
        Sorted example indices of both parts.

    Raises
    ------
    DataError
        If one part would be empty.

    Examples
    --------
    >>> rest, part = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), num=3, seed=0)
    >>> len(rest), len(part)
    (3, 3)
    """
    if not 0 < num < len(labels):
        raise DataError(f"cannot split {num} of {len(labels)} examples off: a part would be empty")
    examples, rank, size = _rank_in_class(labels, fold_seed(seed, 3))
    key = (rank.double() + 0.5) / size
    order = examples[key.argsort(stable=True)]
    return order[num:].sort().values, order[:num].sort().values


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


def split_off(bundle: DataBundle, split: str, size: float, seed: int) -> DataBundle:
    """Make a split, not augmented, of a number (an int) or share (a float) of training examples."""
    if isinstance(size, float):
        if not 0 < size < 1:
            option = "test_fraction" if split == "test" else "fraction"
            raise ConfigError(f"{option} must be in (0, 1), got {size}")
        size = round(size * bundle.num_data)
    rest, part = stratified_split(_labels(bundle), int(size), seed)
    train = bundle.train
    parts = {"train": train.subset(rest), split: train.subset(part).without_augmentation()}
    return dataclasses.replace(bundle, **parts)


def select_classes(bundle: DataBundle, classes: Sequence[int | str]) -> DataBundle:
    """Keep some classes, relabeled 0, 1, ... in the given order, in every split.

    Parameters
    ----------
    bundle
        A classification task.
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
    _labels(bundle, needed=True)
    chosen = [_class_index(bundle, c) for c in classes]
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise ConfigError(f"classes must be at least two, each once, got {list(classes)}")
    new_label = torch.full((bundle.num_classes,), -1)
    new_label[chosen] = torch.arange(len(chosen))
    parts = {}
    for split, data in bundle.splits.items():
        labels = new_label[read_targets(data)]
        rows = (labels >= 0).nonzero().flatten()
        parts[split] = data.subset(rows, targets=labels[rows])
    return DataBundle(bundle.name, **parts, class_names=[bundle.class_names[c] for c in chosen])


def _class_index(bundle: DataBundle, name: int | str) -> int:
    if name in bundle.class_names:
        return bundle.class_names.index(name)
    if isinstance(name, str):
        hint = nearest_name(name, bundle.class_names)
    elif 0 <= name < bundle.num_classes:
        return name
    else:
        hint = f"; its classes are 0..{bundle.num_classes - 1}"
    raise ConfigError(f"{bundle.name!r} has no class {name!r}{hint}")
