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
    folder = open_run(tmp_path / "a" / "b", "fit_map", OPTIONS, {"prior": "abc"}, {"prior": "p"})
    found = read_config(folder)
    assert (found.recipe, found.options, found.digests) == ("fit_map", OPTIONS, {"prior": "abc"})
    assert found.made_from == {"prior": "p"}
    assert found.versions == versions()
    assert yaml.safe_load((folder / CONFIG).read_text())["options"]["widths"] == [1, 2]


def test_the_same_configuration_is_the_same_run(tmp_path):
    folder = open_run(tmp_path, "fit_map", OPTIONS)
    add_results(folder, "fit", {"nll": 0.5})
    before = (folder / CONFIG).read_bytes()
    other = OPTIONS | {"device": "cuda", "progress": False, "out": "elsewhere"}
    assert open_run(tmp_path, "fit_map", other) == folder
    assert (folder / CONFIG).read_bytes() == before


@pytest.mark.parametrize(
    ("recipe", "options", "digests", "said"),
    [
        ("fit_map", OPTIONS | {"lr": 0.2}, {}, r"its lr is 0\.1, this one's 0\.2"),
        ("fit_map", OPTIONS | {"rank": 3}, {}, "its rank is None, this one's 3"),
        ("sample", OPTIONS, {}, "it was made by fit_map, not sample"),
        ("fit_map", OPTIONS, {"prior": "new"}, "its prior is another law"),
        ("fit_map", OPTIONS, {"prior": "old", "network": "b"}, "its network is None, this one's"),
    ],
)
def test_another_configuration_is_refused_by_its_first_key(
    tmp_path, recipe, options, digests, said
):
    folder = open_run(tmp_path, "fit_map", OPTIONS, {"prior": "old"} if digests else {})
    add_results(folder, "fit", {"nll": 0.5})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=said) as caught:
        open_run(tmp_path, recipe, options, digests)
    assert "nothing was overwritten" in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_names_of_inputs_tell_what_a_changed_digest_means(tmp_path):
    """A file that moved is the same; another few-shot seed is named rather than its digest."""
    names = {"data": {"data": "digits", "data_seed": 0}, "relative": {"x": "a"}}
    folder = open_run(tmp_path, "fit_map", OPTIONS, {"data.train": "20 a"}, names)
    add_results(folder, "fit", {})
    moved = {"data": {"data": "elsewhere", "data_seed": 0}, "relative": {"x": "b"}}
    open_run(tmp_path, "fit_map", OPTIONS, {"data.train": "20 a"}, moved)
    other = {"data": {"data": "digits", "data_seed": 1}}
    with pytest.raises(ConfigError, match="its data_seed is 0, this one's 1"):
        open_run(tmp_path, "fit_map", OPTIONS, {"data.train": "20 b"}, other)
    with pytest.raises(ConfigError, match="its training data were others"):
        open_run(tmp_path, "fit_map", OPTIONS, {"data.train": "20 b"}, names)


def test_a_run_that_never_wrote_anything_may_be_corrected(tmp_path):
    open_run(tmp_path, "fit_map", OPTIONS)
    open_run(tmp_path, "fit_map", OPTIONS | {"lr": 0.2})
    assert read_config(tmp_path).options["lr"] == 0.2


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty and holds no config.yaml"):
        open_run(tmp_path, "fit_map", OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="is a file; out needs a folder"):
        open_run(tmp_path / "thesis.tex", "fit_map", OPTIONS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_place_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="could not write"):
        open_run(tmp_path / "run", "fit_map", OPTIONS)


def test_reading_a_folder_that_is_no_run_names_the_nearest_one(tmp_path):
    open_run(tmp_path / "map-run", "fit_map", OPTIONS)
    with pytest.raises(ConfigError, match="is no run folder.*did you mean 'map-run'"):
        read_config(tmp_path / "map-rum")
    with pytest.raises(ConfigError, match="is no run folder.*its folders map-run are"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="was made by fit_map; this needs .* of make_prior or x"):
        read_config(tmp_path / "map-run", "make_prior", "x")


def test_a_folder_of_the_first_edition_is_refused_in_one_line(tmp_path):
    """What bayesprior 0.1 wrote: a command and one flat list of options."""
    config = {"command": "fit", "options": {"data": "digits", "method": "map"}, "versions": {}}
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config))
    for use in (read_config, lambda folder: open_run(folder, "fit_map", OPTIONS)):
        with pytest.raises(ConfigError, match="it is of the first edition; fit again") as caught:
            use(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "just text",
        "command: fit",
        "recipe: fit_map",
        "format: bayesprior.run/3",
        "- a\n- b",
        "{:",
        "",
    ],
)
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


@pytest.mark.parametrize(
    ("text", "said"), [("{", "no readable JSON"), ("[1]", "holds no named results")]
)
def test_broken_results_are_told(tmp_path, text, said):
    (tmp_path / RESULTS).write_text(text)
    with pytest.raises(DataError, match=said):
        read_results(tmp_path)


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / RESULTS, {"a": {"b": 1}})
    with pytest.raises(TypeError):
        write_json(tmp_path / RESULTS, {"a": object()})
    assert read_results(tmp_path) == {"a": {"b": 1}}


def test_a_folder_whose_name_is_no_text_is_refused_before_anything_is_done(tmp_path):
    """Safetensors files can be written there, but not read again."""
    folder = tmp_path / "caf\udce9"
    with pytest.raises(ConfigError, match="no UTF-8; choose another name"):
        open_run(folder, "fit_map", OPTIONS)
    assert not folder.exists()
