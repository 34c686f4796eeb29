import json
import os

import pytest
import yaml

from bayesprior.errors import ConfigError, DataError, StorageError
from bayesprior.recipes.runs import (
    CONFIG,
    RESULTS,
    add_results,
    open_run,
    read_config,
    read_results,
    versions,
    write_json,
)

OPTIONS = {"data": "digits", "seed": 0, "lr": 0.1, "device": "cpu", "widths": [1, 2]}


def test_a_new_folder_gets_its_configuration(tmp_path):
    folder = open_run(tmp_path / "a" / "b", "fit", OPTIONS, {"prior": "abc"})
    found = read_config(folder)
    assert (found.command, found.options, found.inputs) == ("fit", OPTIONS, {"prior": "abc"})
    assert found.versions == versions()
    assert yaml.safe_load((folder / CONFIG).read_text())["options"]["widths"] == [1, 2]


def test_the_same_configuration_is_the_same_run(tmp_path):
    folder = open_run(tmp_path, "fit", OPTIONS)
    add_results(folder, "fit", {"nll": 0.5})
    before = (folder / CONFIG).read_bytes()
    other = OPTIONS | {"device": "cuda", "progress": False, "out": "elsewhere"}
    assert open_run(tmp_path, "fit", other) == folder
    assert (folder / CONFIG).read_bytes() == before


@pytest.mark.parametrize(
    ("command", "options", "inputs", "said"),
    [
        ("fit", OPTIONS | {"lr": 0.2}, {}, r"its lr is 0\.1, this one's 0\.2"),
        ("fit", OPTIONS | {"rank": 3}, {}, "its rank is None, this one's 3"),
        ("predict", OPTIONS, {}, "its command is 'fit', this one's 'predict'"),
        ("fit", OPTIONS, {"prior": "new"}, "the file given as prior has changed"),
    ],
)
def test_another_configuration_is_refused_by_its_first_key(
    tmp_path, command, options, inputs, said
):
    folder = open_run(tmp_path, "fit", OPTIONS, {"prior": "old"} if inputs else {})
    add_results(folder, "fit", {"nll": 0.5})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=said) as caught:
        open_run(tmp_path, command, options, inputs)
    assert "nothing was overwritten" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_that_never_wrote_anything_may_be_corrected(tmp_path):
    open_run(tmp_path, "fit", OPTIONS)
    open_run(tmp_path, "fit", OPTIONS | {"lr": 0.2})
    assert read_config(tmp_path).options["lr"] == 0.2


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty and holds no config.yaml"):
        open_run(tmp_path, "fit", OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="is a file; --out needs a folder"):
        open_run(tmp_path / "thesis.tex", "fit", OPTIONS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_place_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="could not write"):
        open_run(tmp_path / "run", "fit", OPTIONS)


def test_reading_a_folder_that_is_no_run_names_the_nearest_one(tmp_path):
    open_run(tmp_path / "map-run", "fit", OPTIONS)
    with pytest.raises(ConfigError, match="is no run folder.*did you mean 'map-run'"):
        read_config(tmp_path / "map-rum")
    with pytest.raises(ConfigError, match="was made by 'bayesprior fit'"):
        read_config(tmp_path / "map-run", "make-prior")


@pytest.mark.parametrize("text", ["just text", "command: fit", "- a\n- b", "{:", ""])
def test_a_broken_configuration_is_one_line(tmp_path, text):
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ConfigError, match="is no configuration of a run") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_results_are_added_stage_by_stage(tmp_path):
    assert read_results(tmp_path) == {}
    add_results(tmp_path, "fit", {"seconds": 1.5})
    add_results(tmp_path, "predict-test", {"nll": float("nan"), "by_seed": (1.0, float("inf"))})
    found = json.loads((tmp_path / RESULTS).read_text())
    assert found == {
        "versions": versions(),
        "fit": {"seconds": 1.5},
        "predict-test": {"nll": None, "by_seed": [1.0, None]},
    }
    add_results(tmp_path, "fit", {"seconds": 2.5})
    assert read_results(tmp_path)["fit"] == {"seconds": 2.5}
    assert sorted(p.name for p in tmp_path.iterdir()) == [RESULTS]


@pytest.mark.parametrize(("text", "said"), [("{", "no readable JSON"), ("[1]", "holds list")])
def test_broken_results_are_told(tmp_path, text, said):
    (tmp_path / RESULTS).write_text(text)
    with pytest.raises(DataError, match=said):
        read_results(tmp_path)


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / RESULTS, {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / RESULTS, {"a": object()})
    assert read_results(tmp_path) == {"a": 1}
