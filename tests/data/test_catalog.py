import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import bayesprior.data
from bayesprior.data.catalog import DATA, get_data
from bayesprior.demo.glyphs import glyphs
from bayesprior.errors import ConfigError, DataError
from bayesprior.registry import resolve


@pytest.mark.parametrize("name", DATA)
def test_short_names_lead_somewhere(name):
    assert callable(resolve("data set", name, DATA))


def test_get_data_by_name_and_by_path():
    assert get_data("digits").num_data == 600
    assert get_data("bayesprior.data.arrays:digits", num_test=297).num_data == 1100


def test_wrong_names_options_and_results():
    with pytest.raises(ConfigError, match="no data set or folder 'cifar'.*did you mean 'cifar10'"):
        get_data("cifar")
    with pytest.raises(ConfigError, match="no option 'num_tests'; did you mean 'num_test'"):
        get_data("digits", num_tests=1)
    with pytest.raises(ConfigError, match="needs the option root"):
        get_data("mnist")
    with pytest.raises(ConfigError, match="gave CropFlip, not a DataBundle"):
        get_data("bayesprior.data.transforms:CropFlip", padding=1)


def test_paths_of_folders_and_files(tmp_path):
    x = np.linspace(0, 1, 160).reshape(10, 4, 4)
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(10) % 2)
    assert get_data(tmp_path / "set.npz").num_data == 8
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "pictures" / name / f"{i}.png")
    assert get_data(str(tmp_path / "pictures"), size=8).class_names == ("a", "b")
    (tmp_path / "flats.csv").write_text("area,price\n" + "50,310.5\n70,402.5\n" * 5)
    assert get_data(tmp_path / "flats.csv", target="price").columns == ("area",)
    with pytest.raises(ConfigError, match="needs the option target.* --data_options.target COLUMN"):
        get_data("flats.csv")
    with pytest.raises(DataError, match=r"labels.parquet: such files .* bp.from_arrays"):
        get_data("labels.parquet")
    with pytest.raises(DataError, match="no folder or file 'photos/'"):
        get_data("photos/")
    with pytest.raises(DataError, match="no folder or file 'some/folder'"):
        get_data("some/folder")


def test_a_folder_that_is_not_there_is_told_with_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers" / "roses").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no data set or folder 'flower'.*'flowers'"):
        get_data("flower")
    with pytest.raises(DataError, match="no folder or file 'flowers/rosse'; did you mean 'roses'"):
        get_data("flowers/rosse")


def test_glyphs_live_with_the_demonstration():
    assert get_data("glyphs", num_data=62, num_test=62).num_classes == 62
    assert bayesprior.data.glyphs is glyphs
    with pytest.raises(AttributeError, match="no attribute 'glyfs'"):
        bayesprior.data.glyfs  # noqa: B018


def test_names_out_of_a_file_are_not_run():
    with pytest.raises(ConfigError, match="import path out of a file"):
        get_data("os:system", trusted=False, command="true")


def test_importing_data_and_models_is_light():
    code = "import bayesprior.data, bayesprior.models, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torchvision", "sklearn", "matplotlib", "PIL", "scipy", "pyro"}
