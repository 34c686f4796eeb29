import inspect
from dataclasses import KW_ONLY

import pytest

from bayesprior.recipes.calls import recipe
from bayesprior.recipes.options import MapOptions, plain_values


class Call(MapOptions, kw_only=False):
    """Arguments of a recipe."""

    module: list[int]
    """The network."""
    _: KW_ONLY
    name: str = "a"
    """Its name."""


@recipe(Call)
def fit(call: Call) -> dict[str, object]:
    """Fit it.

    Returns
    -------
    dict
    """
    return plain_values(call)


def test_the_signature_is_the_dataclass():
    parameters = inspect.signature(fit).parameters
    assert list(parameters)[0] == "module"
    assert parameters["num_steps"].default == 500
    assert parameters["num_steps"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["name"].annotation is str


def test_the_docstring_has_every_field():
    doc = inspect.getdoc(fit) or ""
    assert doc.index("module\n    The network.") < doc.index("num_steps\n    Steps")
    assert doc.endswith("Returns\n-------\ndict")


def test_an_unknown_argument_names_the_near_one():
    with pytest.raises(TypeError, match=r"fit\(\): got an unexpected .*'num_step'; did you mean"):
        fit([], num_step=3)
    with pytest.raises(TypeError, match=r"fit\(\): missing a required argument: 'module'"):
        fit()
