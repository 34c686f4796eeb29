import pytest
from matplotlib.figure import Figure

from bayesprior.errors import DataError
from bayesprior.report.context import Context


def failing():
    raise DataError("no draws were given")


@pytest.fixture
def context(run):
    return Context(run.tree(attrs={"title": "x", "configuration": {"lr": 0.1}}))


def test_what_works_is_returned_and_what_fails_is_named(context):
    assert context.attempt("a", lambda: 3) == 3
    assert context.attempt("b", failing) is None
    assert context.notes == {"b": "no draws were given"}
    [picture] = context.picture("t", "c", Figure)
    assert (picture.title, picture.caption) == ("t", "c")
    assert context.picture("t", "c", failing) == []
    assert context.notes["figure: t"] == "no draws were given"


def test_bugs_are_not_swallowed(context):
    with pytest.raises(ZeroDivisionError):
        context.attempt("a", lambda: 1 / 0)


def test_what_was_found_is_found_once(context):
    assert context.test is context.test
    assert context.scores is context.scores
    assert context.attrs["configuration"] == {"lr": 0.1}
    assert context.kind == "classes"
