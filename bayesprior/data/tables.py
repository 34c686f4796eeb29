"""Tables in text files, with class labels or numbers to predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayesprior.data.arrays import from_arrays, reason
from bayesprior.data.bundle import DataBundle
from bayesprior.data.targets import LABELS
from bayesprior.data.transforms import Normalization
from bayesprior.errors import DataError, MissingDependencyError, nearest_name

__all__ = ["from_csv", "read_columns"]

_SEPARATORS = ",;\t"


def from_csv(
    path: str | Path,
    *,
    target: str | Sequence[str],
    drop: str | Sequence[str] = (),
    kind: str | None = None,
    normalize: Normalization = "train",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> DataBundle:
    r"""Read a task from a `.csv` file: one example a line below the columns' names.

    Parameters
    ----------
    path
        Separated by commas, semicolons or tabs.
    target
        Column to predict, or several: of numbers, or of 0 and 1, each a label that a line has or
        has not. All others are inputs.
    drop
        Columns that are neither.
    kind
        ``"regression"``, ``"classification"`` or ``"multilabel"``; by default numbers with a
        fraction are to be predicted as numbers, whole ones and texts are classes, and several
        columns of whole ones labels.
    normalize
        As in `from_arrays`.
    test_fraction, seed
        Size and choice of the test split.

    Raises
    ------
    DataError
        If the file cannot be read, a column does not exist, an input is text, or a value is
        missing. The message names the column and the line.
    MissingDependencyError
        If pandas is not installed.
    ConfigError
        If an option has no meaning.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "flats.csv"
    ...     _ = file.write_text("area,floor,price\n" + "50,2,310.5\n70,1,402.5\n" * 5)
    ...     flats = from_csv(file, target="price")
    >>> flats.columns, flats.num_data, flats.train[0][1].shape
    (('area', 'floor'), 8, torch.Size([1]))
    """
    path = Path(path).expanduser()
    table = _read(path)
    targets, dropped = (
        [str(c) for c in ([given] if isinstance(given, str | int) else given)]
        for given in (target, drop)
    )
    for column in (*targets, *dropped):
        _check_column(path, column, list(table.columns))
    columns = [c for c in table.columns if c not in {*targets, *dropped}]
    class_names: Any = None
    y = table[targets]
    if len(targets) == 1 and kind != "regression" and y.dtypes.iloc[0].kind not in "biuf":
        _refuse(path, {targets[0]: _holes(table[targets[0]])}, inputs=False)
        class_names, y = np.unique(y.iloc[:, 0].astype(str), return_inverse=True)
    else:
        y = _numbers(path, table, targets, inputs=False)
        if len(targets) > 1 and (kind == LABELS or (kind is None and y.dtype.kind == "i")):
            class_names = targets
        y = y[:, 0] if len(targets) == 1 else y
    x = _numbers(path, table, columns, inputs=True)
    try:
        return from_arrays(
            path.stem,
            (x, y),
            kind=kind,
            class_names=class_names,
            columns=columns,
            normalize=normalize,
            test_fraction=test_fraction,
            seed=seed,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_columns(path: str | Path, columns: Sequence[str]) -> np.ndarray:
    """Read some columns of a `.csv` file, in the order asked for: numbers (N, F).

    Raises
    ------
    DataError, MissingDependencyError
        As of `from_csv`.
    """
    table = _read(Path(path))
    if absent := [column for column in columns if column not in table.columns]:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, absent))}; new tables need the inputs of the "
            f"fit, named and encoded as they were: {', '.join(columns)}"
        )
    return _numbers(path, table, list(columns), inputs=False)


def _read(path: Path) -> Any:
    """Return a data frame whose columns' names are texts."""
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingDependencyError(
            f"tables need pandas: pip install 'bayesprior[tables]' ({error})"
        ) from None
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline()
        separator = max(_SEPARATORS, key=head.count)
        table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", skipinitialspace=True)
    except Exception as error:  # parsers and decoders raise what they like
        raise DataError(f"{path}: it cannot be read as a table ({reason(error)})") from None
    table.columns = [str(name).strip() for name in table.columns]
    if not len(table):
        raise DataError(f"{path}: there is no line below the names of the columns")
    return table


def _check_column(path: str | Path, column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        near = nearest_name(column, columns) or f"; it has {', '.join(columns[:10])}"
        raise DataError(f"{path}: no column {column!r}{near}")


def _holes(values: Any) -> str:
    """Say how many values a column lacks and where; nothing if none."""
    lines = np.flatnonzero(values.isna()) + 2  # below the header, counted from 1
    number = "a missing value" if lines.size == 1 else f"{lines.size} missing values"
    return f"has {number} (line {lines[0]})" if lines.size else ""


def _text(values: Any) -> str:
    known = values.dropna()
    is_text = values.dtype.kind not in "biuf" and len(known)
    return f"holds text, such as {str(known.iloc[0])!r}" if is_text else ""


def _refuse(path: str | Path, wrong: dict[str, str], *, inputs: bool) -> None:
    """Raise one error for all columns: what is wrong with each, and what mends it."""
    wrong = {column: why for column, why in wrong.items() if why}
    if not wrong:
        return
    mends = []
    if any(why.startswith("holds") for why in wrong.values()):
        mends.append("write numbers (pandas.get_dummies)")
    if any(why.startswith("has") for why in wrong.values()):
        mends.append("fill in numbers or delete such lines")
    if inputs:
        names = list(wrong) if len(wrong) > 1 else next(iter(wrong))
        words = f'"[{", ".join(wrong)}]"' if len(wrong) > 1 else names
        mends.append(f"or leave it out by drop={names!r} (--data_options.drop {words})")
    told = ", ".join(f"{column!r} {why}" for column, why in wrong.items())
    raise DataError(f"{path}: the column {told}; {', '.join(mends)}")


def _numbers(path: str | Path, table: Any, columns: list[str], *, inputs: bool) -> np.ndarray:
    wrong = {column: _text(table[column]) or _holes(table[column]) for column in columns}
    _refuse(path, wrong, inputs=inputs)
    whole = all(table[column].dtype.kind in "biu" for column in columns)
    found: np.ndarray = table[columns].to_numpy(np.int64 if whole else np.float64)
    return found
