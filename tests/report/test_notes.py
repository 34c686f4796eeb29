import pytest
from bayesprior.report.notes import Notes
from matplotlib.figure import Figure

from bayesprior.errors import DataError


def failing():
    raise DataError("no draws were given")


def test_what_works_is_returned_and_what_fails_is_named():
    notes = Notes()
    assert notes.attempt("a", lambda: 3) == 3
    assert notes.attempt("b", failing) is None
    assert notes == {"b": "no draws were given"}
    [picture] = notes.picture("t", "c", Figure)
    assert (picture.title, picture.caption) == ("t", "c")
    assert notes.picture("t", "c", failing) == []
    assert notes["figure: t"] == "no draws were given"


def test_bugs_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        Notes().attempt("a", lambda: 1 / 0)
