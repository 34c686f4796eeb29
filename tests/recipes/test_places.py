import shutil

import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.options import DataOptions, MadeFrom, ModelOptions
from bayesprior.recipes.places import recorded, restored


def test_names_come_back(tmp_path):
    made_from = MadeFrom(
        data=DataOptions(data="digits", num_data=20),
        model=ModelOptions(model="mlp", model_options={"widths": [5]}),
        weights="DEFAULT",
    )
    found = recorded(made_from, tmp_path)
    assert found["weights"] == "DEFAULT"
    again = restored(found, tmp_path)
    assert again.data.num_data == 20
    assert again.model.model_options == {"widths": [5]}
    assert recorded(again, tmp_path) == found
    nothing = restored(recorded(None, tmp_path), tmp_path)
    assert (nothing.data, nothing.model, nothing.prior) == (None, None, None)


def test_a_name_is_a_name_whatever_lies_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    for name in ("digits", "pkg.module:function"):
        made_from = MadeFrom(data=DataOptions(data=name))
        assert recorded(made_from, tmp_path)["data"]["data"] == name


def test_files_are_found_in_place_and_after_a_move(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    old = tmp_path / "old"
    for name in ("data.npz", "prior.safetensors", "net.pth", "pictures/a.png"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).touch()
    made_from = MadeFrom(
        data=DataOptions(data="image_folder", data_options={"root": "~/old/pictures"}),
        prior="~/old/prior.safetensors",
        weights=str(old / "net.pth"),
    )
    arrays = MadeFrom(data=DataOptions(data="~/old/data.npz"))
    monkeypatch.chdir(old)
    folder = MadeFrom(data=DataOptions(data="pictures"))
    found, of_arrays = recorded(made_from, old / "run"), recorded(arrays, old / "run")
    of_folder = recorded(folder, old / "run")
    monkeypatch.chdir(tmp_path)
    assert restored(found, old / "run").prior == str(old / "prior.safetensors")
    new = tmp_path / "new"
    shutil.move(old, new)
    (new / "run").mkdir()
    again = restored(found, new / "run")
    for path, name in (
        (again.prior, "prior.safetensors"),
        (again.weights, "net.pth"),
        (again.data.data_options["root"], "pictures"),
        (restored(of_arrays, new / "run").data.data, "data.npz"),
        (restored(of_folder, new / "run").data.data, "pictures"),
    ):
        assert (new / name).samefile(path)


@pytest.mark.parametrize(
    "found",
    [{"data": {"name": "x"}}, {"model": [1]}, {"surprise": 1}, {"prior": "/a", "relative": "x"}],
)
def test_another_record_is_one_line(tmp_path, found):
    with pytest.raises(ConfigError):
        restored(found, tmp_path)
