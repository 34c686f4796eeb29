import pytest

from bayesprior.errors import ConfigError
from bayesprior.weights.selection import is_selected, select_names

NAMES = ("body.0.weight", "body.0.bias", "head.weight", "head.bias")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("head.*", NAMES[2:]),
        ("*.bias", (NAMES[1], NAMES[3])),
        (["head.bias", "body.0.*"], (*NAMES[:2], NAMES[3])),
        (lambda name: "0" in name, NAMES[:2]),
        ("*", NAMES),
    ],
)
def test_names_keep_their_order(selection, expected):
    assert select_names(NAMES, selection) == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("haed.weight", "'haed.weight' matches no parameter; did you mean 'head.weight'"),
        (["head.*", "tail.*"], "'tail.."),
        ("HEAD.*", "matches no parameter"),
        (lambda name: False, "selects none of the 4"),
        ([], "no pattern is given"),
    ],
)
def test_nothing_selected(selection, message):
    with pytest.raises(ConfigError, match=message):
        select_names(NAMES, selection)


def test_one_name_and_a_predicate():
    assert is_selected("head.bias", lambda name: name.endswith("bias"))
    assert not is_selected("head.weight", lambda name: name.endswith("bias"))


def test_selections_take_the_names_of_modules():
    names = ["body.weight", "head.weight", "header.weight", "out.bias"]
    assert select_names(names, "head") == ("head.weight",)
    assert select_names(names, ["head.", "*.bias"]) == ("head.weight", "out.bias")
    with pytest.raises(ConfigError, match="'hea' matches no parameter"):
        select_names(names, "hea")
