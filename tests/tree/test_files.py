import os

import h5py
import pytest
import xarray as xr

from bayesprior.errors import ConfigError, DataError, StorageError
from bayesprior.tree.files import load_tree, save_tree


@pytest.fixture
def tree(run):
    return run.tree()


def test_written_and_read_back(tree, tmp_path):
    path = tmp_path / "report.nc"
    for _ in range(2):  # also over an older one
        save_tree(tree, path)
        xr.testing.assert_identical(load_tree(path), tree)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unreadable_and_unwritable_files(tree, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_tree(tmp_path / "none.nc")
    (tmp_path / "bad.nc").write_text("no tree")
    with pytest.raises(DataError, match="no readable DataTree"):
        load_tree(tmp_path / "bad.nc")
    with pytest.raises(ConfigError, match=r"ends in \.nc"):
        save_tree(tree, tmp_path / "tree.pkl")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        save_tree(tree, tmp_path / "file" / "a.nc")


def test_a_file_that_claims_more_than_it_can_hold_is_not_read(tmp_path, capsys):
    path = tmp_path / "claims.nc"
    with h5py.File(path, "w") as file:  # nothing of it is stored
        file.create_dataset("x", shape=(10**11,), chunks=(10**6,), dtype="f8")
    with pytest.raises(DataError, match="claims to hold 800 GB"):
        load_tree(path)
    os.mkfifo(tmp_path / "pipe.nc")
    with pytest.raises(DataError, match="does not exist"):
        load_tree(tmp_path / "pipe.nc")
    assert capsys.readouterr().err == ""
