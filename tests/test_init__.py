import ast
import inspect
import sys
from pathlib import Path

import pytest

import bayesprior


def typed_imports() -> dict[str, str]:
    """Public name -> module, as type checkers read them."""
    tree = ast.parse(Path(bayesprior.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_type_checkers_and_the_interpreter_find_the_same_names():
    rooms = {name: home.rpartition(".")[0] for name, home in bayesprior._ROOMS.items()}
    assert typed_imports() == bayesprior._HOME | rooms
    assert set(bayesprior.__all__) == {*bayesprior._HOME, *rooms, "__version__"}


def test_names_are_the_homes_own_and_show_in_dir():
    for name, home in bayesprior._HOME.items():
        __import__(home)
        assert getattr(bayesprior, name) is getattr(sys.modules[home], name)
    assert set(bayesprior.__all__) <= set(dir(bayesprior))


def test_an_unknown_name_is_an_attribute_error_with_the_nearest_one():
    with pytest.raises(AttributeError, match=r"'fit_mapp'; did you mean 'fit_map'"):
        _ = bayesprior.fit_mapp
    assert not hasattr(bayesprior, "Zebra")


def test_a_folder_does_not_hide_the_recipe_of_its_name():
    from bayesprior.report.document import Report

    assert Report.__module__ == "bayesprior.report.document"
    assert bayesprior.report is sys.modules["bayesprior.recipes"].report


def test_rooms_are_reached_by_their_short_names():
    import importlib

    for name, home in bayesprior._ROOMS.items():
        assert getattr(bayesprior, name) is importlib.import_module(home)
        assert name in dir(bayesprior)


def test_version_is_a_string():
    assert bayesprior.__version__.count(".") == 2
    assert inspect.getdoc(bayesprior)
