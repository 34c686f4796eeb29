import inspect
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.options import MapOptions, plain_values


@dataclass(frozen=True, eq=False)
class Call(MapOptions):
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


def test_values_are_brought_to_their_types():
    found = fit([], num_steps=np.int64(3), lr=np.float32(0.5), out="~/x", device=0)
    assert type(found["num_steps"]) is int
    assert type(found["lr"]) is float
    assert not str(found["out"]).startswith("~")
    assert found["device"] == "cuda:0"
    assert "module" not in found
    assert "name" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1e3}, "num_steps must be a whole number, got 1000.0"),
        ({"num_steps": True}, "num_steps must be a whole number, got True"),
        ({"seed": 10**21}, "seed must be at most 2.14748e"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": 0}, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        ({"batch_norm": "frosen"}, "got 'frosen'; did you mean 'frozen'?"),
        ({"progress": "yes"}, "progress must be True or False"),
        ({"out": 3}, "out must be a path, got int"),
    ],
)
def test_a_wrong_value_is_one_line(options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace("?", r"\?")):
        fit([], **options)


def test_an_unknown_argument_names_the_near_one():
    with pytest.raises(TypeError, match=r"fit\(\): got an unexpected .*'num_step'; did you mean"):
        fit([], num_step=3)
    with pytest.raises(TypeError, match=r"fit\(\): missing a required argument: 'module'"):
        fit()
