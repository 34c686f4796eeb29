import sys

import numpy as np
import pytest
import torch

from bayesprior.data import few_shot, from_csv, split_validation
from bayesprior.data.tables import read_columns
from bayesprior.errors import ConfigError, DataError, MissingDependencyError


@pytest.fixture
def table(tmp_path, rng):
    """Write a table, by default with two columns of inputs and a price; return its file."""

    def write(**more):
        columns = {"area": rng.uniform(20, 90, 40), "floor": np.arange(40) % 5}
        columns |= {"price": 100 + 3 * columns["area"], **more}
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
        path = tmp_path / "flats.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def test_numbers_and_their_columns(table):
    path = table(note=["x"] * 40)
    bundle = from_csv(path, target="price", drop="note")
    assert (bundle.columns, bundle.num_numbers, bundle.num_classes) == (("area", "floor"), 1, 0)
    assert (bundle.num_data, len(bundle.test)) == (32, 8)
    torch.testing.assert_close(
        bundle.train.targets[:, 0], 100 + 3 * bundle.train.inputs[:, 0], rtol=1e-5, atol=1e-3
    )
    two = from_csv(path, target=["price", "area"], drop=["note"])
    assert (two.columns, two.num_numbers) == (("floor",), 2)


def test_the_statistics_are_those_of_what_is_left_for_training(table):
    bundle = from_csv(table(), target="price", seed=3)
    for smaller in (bundle, split_validation(bundle, num=6), few_shot(bundle, num_data=10)):
        inputs, _ = next(iter(smaller.loader("train", 100)))
        torch.testing.assert_close(inputs.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(inputs.std(0, correction=0), torch.ones(2))
        raw = smaller.train.inputs
        expected = (smaller.test.inputs - raw.mean(0)) / raw.std(0, correction=0)
        torch.testing.assert_close(next(iter(smaller.loader("test", 100)))[0], expected)
    fixed = few_shot(from_csv(table(), target="price", normalize=((1, 1), (2, 2))), num_data=10)
    assert fixed.train.transform.std == (2, 2)


def test_a_text_to_predict_is_a_class(table):
    path = table(kind=["old", "new"] * 20)
    bundle = from_csv(path, target="kind")
    assert bundle.class_names == ("new", "old")
    assert few_shot(bundle, per_class=3).class_counts.tolist() == [3, 3]
    with pytest.raises(
        DataError, match="no class for each example; this needs a classification task"
    ):
        few_shot(from_csv(path, target="price", drop="kind"), per_class=3)


def test_semicolons_and_a_mark_of_the_byte_order(tmp_path):
    path = tmp_path / "wine.csv"
    path.write_text("﻿acid; quality\n" + "7.5;5.5\n6.5;6.5\n" * 5, encoding="utf-8")
    assert from_csv(path, target="quality").columns == ("acid",)
    assert read_columns(path, ["quality", "acid"])[0].tolist() == [5.5, 7.5]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"target": "prise"}, "no column 'prise'; did you mean 'price'"),
        ({}, {"target": "zzz"}, "no column 'zzz'; it has area, floor, price"),
        ({"city": ["Bonn"] * 40}, {}, "'city' holds text, such as 'Bonn'; .* by drop='city'"),
        ({"age": ["", 3.5] * 20}, {}, r"'age' has 20 missing values \(line 2\); fill in"),
        ({"age": [1.5] * 39 + [""]}, {}, r"'age' has a missing value \(line 41\)"),
        ({"price": ["", 3.5] * 20}, {}, "'price' has 20 missing values .* delete such lines$"),
        (
            {"city": ["", "Bonn"] * 20, "age": ["", 3.5] * 20},
            {},
            r"'city' holds text, such as 'Bonn', 'age' has 20 missing values \(line 2\); write "
            r"numbers .*, fill in .* \(--data_options.drop \"\[city, age\]\"\)",
        ),
        ({"price": [10**6] * 40}, {}, "label 1000000 .* or say kind='regression'"),
    ],
)
def test_what_is_wrong_and_what_mends_it(table, columns, options, message):
    with pytest.raises(DataError, match=f"flats.csv: .*{message}") as caught:
        from_csv(table(**columns), **{"target": "price", **options})
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("flats.csv") == 1


def test_new_tables_are_told_what_the_fit_had(table):
    """Nothing can be left out there: a text column was encoded for the fit."""
    wanted = r"no column 'city_A', 'city_B'; .* named and encoded as they were: area, city_A"
    with pytest.raises(DataError, match=wanted):
        read_columns(table(city=["A"] * 40), ["area", "city_A", "city_B"])
    with pytest.raises(DataError, match=r"'city' holds text.*get_dummies\)$"):
        read_columns(table(city=["A"] * 40), ["area", "city"])


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        from_csv(tmp_path / "none.csv", target="y")
    (tmp_path / "empty.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="no line below the names"):
        from_csv(tmp_path / "empty.csv", target="b")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n1,2,3,4\n")
    with pytest.raises(DataError, match="cannot be read as a table") as caught:
        from_csv(tmp_path / "odd.csv", target="b")
    assert "\n" not in str(caught.value)


def test_without_pandas_the_extra_is_named(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'bayesprior\[tables\]'"):
        from_csv(table(), target="price")


def test_a_kind_has_a_name(table):
    with pytest.raises(ConfigError, match="kind must be"):
        from_csv(table(), target="price", kind="numbers")
