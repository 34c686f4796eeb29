import collections
import sys
import types
from collections.abc import Sequence
from functools import partial

import pytest

from bayesprior.errors import ConfigError, MissingDependencyError
from bayesprior.models.zoo import MODELS
from bayesprior.registry import call, lazy, resolve

TABLE = {"counter": "collections:Counter", "broken": "bayesprior.no_such:thing"}


def test_short_names_and_import_paths_resolve():
    assert resolve("bag", "counter", TABLE) is collections.Counter
    assert resolve("bag", "collections:OrderedDict", TABLE) is collections.OrderedDict
    assert resolve("bag", "collections:Counter.most_common", {}) is collections.Counter.most_common
    assert resolve("bag", "counter", TABLE, trusted=False) is collections.Counter


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("countr", "no bag 'countr'; use one of counter, broken.*did you mean 'counter'"),
        ("broken", "cannot import 'bayesprior.no_such'"),
        ("collections:Countr", "has no 'Countr'; did you mean 'Counter'"),
        ("math:pi", "'math:pi' cannot be called"),
        (":pi", "cannot import ''"),
        ("collections:Counter.most_comon", "'Counter' has no 'most_comon'; did you mean 'most_"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("bag", name, TABLE)
    assert "\n" not in str(caught.value)


def test_options_are_checked_before_the_call():
    table = {"f": "fractions:Fraction", "p": "builtins:dict"}
    assert call("number", "f", table, {"numerator": 3}) == 3
    with pytest.raises(ConfigError, match="no option 'numerater'; did you mean 'numerator'"):
        call("number", "f", table, {"numerater": 3})
    with pytest.raises(ConfigError, match="needs the option path"):
        call("folder", "os:fspath", table, {})


def test_callables_without_a_signature_are_called():
    assert call("map", "m", {"m": "collections:OrderedDict"}, {"a": 1}) == {"a": 1}


def test_import_paths_out_of_a_file_need_consent():
    for run in (resolve, partial(call, options={"command": "true"})):
        with pytest.raises(ConfigError, match="'os:system' is an import path out of a file.*trust"):
            run("data set", "os:system", table=TABLE, trusted=False)


def test_lazy_names_are_imported_when_they_are_first_used(tmp_path, monkeypatch):
    text = "if TYPE_CHECKING:\n    from fractions import Fraction\n    from email import charset\n"
    (tmp_path / "toy.py").write_text(text)
    toy = types.ModuleType("toy")
    monkeypatch.setitem(sys.modules, "toy", toy)
    toy.__getattr__ = lazy("toy", str(tmp_path / "toy.py"))
    assert "Fraction" not in vars(toy)
    assert toy.Fraction(1, 2) == 0.5
    assert "Fraction" in vars(toy)
    assert toy.charset is sys.modules["email.charset"]
    with pytest.raises(AttributeError, match="'toy' has no attribute 'Fracton'; did you mean 'F"):
        _ = toy.Fracton


@pytest.mark.parametrize("options", [{"numerator": "x"}, {"numerator": 1, "denominator": 0.5}])
def test_what_a_callable_cannot_take_is_one_line(options):
    with pytest.raises(ConfigError, match=r"number 'half' fails with .*Error: "):
        call("number", "half", {"half": "fractions:Fraction"}, options)


@pytest.mark.parametrize("model", ["mlp", "small_conv"])
@pytest.mark.parametrize(("value", "instead"), [(50, "[50]"), ("50,60", "[50,60]")])
def test_one_value_where_a_list_is_due_is_told_with_the_list(model, value, instead):
    given = {"in_features": 4} if model == "mlp" else {"in_channels": 1}
    with pytest.raises(ConfigError) as caught:
        call("model", model, MODELS, {"num_classes": 2, "widths": value, **given})
    told = f"its option 'widths' takes a list, such as {instead}, not {value!r}"
    assert str(caught.value) == f"model {model!r}: {told}"


def of_several(names: Sequence[str] | None = None, either: int | list[int] = 0):
    return names, either


def test_a_list_or_nothing_or_either_is_taken_as_it_is():
    table = {"f": f"{__name__}:of_several"}
    assert call("value", "f", table, {"names": None, "either": 3}) == (None, 3)
    assert call("value", "f", table, {"names": ["ab"]}) == (["ab"], 0)
    with pytest.raises(ConfigError, match=r"'names' takes a list, such as \[ab\], not 'ab'"):
        call("value", "f", table, {"names": "ab"})


@pytest.mark.parametrize(
    ("library", "hint"), [("peft", r": pip install 'bayesprior\[models\]'"), ("no_such", r"$")]
)
def test_what_a_callable_misses_is_one_line(library, hint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "inside", raising=False)  # the other case's
    (tmp_path / "inside.py").write_text(f"def make():\n    import {library}\n")
    (tmp_path / "outside.py").write_text(f"import {library}\n")
    with pytest.raises(MissingDependencyError, match=rf"'inside:make' needs .*\){hint}"):
        call("network", "inside:make", {}, {})
    with pytest.raises(ConfigError, match=rf"cannot import 'outside' .*\){hint}"):
        call("network", "outside:make", {}, {})
