"""Each error is also the builtin that a caller would catch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesprior import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", ValueError),
        ("DataError", ValueError),
        ("LayoutMismatchError", ValueError),
        ("PriorFileError", ValueError),
        ("StorageError", OSError),
        ("CheckpointError", RuntimeError),
        ("DivergenceError", ArithmeticError),
        ("MissingDependencyError", ImportError),
    ],
)
def test_errors_are_caught_by_either_name(name, builtin):
    kind = getattr(errors, name)
    for caught in (errors.BayesPriorError, builtin):
        with pytest.raises(caught, match="what, where, fix"):
            raise kind("what, where, fix")


def test_every_error_is_exported_and_documented():
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.BayesPriorError)
    }
    assert kinds | {"check", "checked", "kind_of", "nearest_name"} == set(errors.__all__)
    assert all(getattr(errors, name).__doc__ for name in kinds)


@given(st.lists(st.text("abcdef", min_size=4), min_size=1, unique=True))
def test_nearest_name_finds_the_name_itself(names):
    assert errors.nearest_name(names[0], names) == f"; did you mean {names[0]!r}?"


def test_nearest_name_is_silent_when_nothing_is_near():
    assert errors.nearest_name("weight", []) == ""
    assert errors.nearest_name("weight", ["zzzzz"]) == ""
    assert errors.nearest_name("wieght", iter(["bias", "weight"])) == "; did you mean 'weight'?"
