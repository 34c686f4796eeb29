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


def test_a_file_of_ours_is_read_only_as_it_was_written(tree, tmp_path):
    """HDF5 never comes back from some damages, so that it is not asked."""
    path = tmp_path / "report.nc"
    save_tree(tree, path)
    whole = bytearray(path.read_bytes())
    for at in (0, 100, len(whole) // 2, len(whole) - 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match="it is damaged: its checksum is another"):
            load_tree(path)
    path.write_bytes(whole)
    with xr.open_datatree(path, engine="h5netcdf"):
        pass  # somebody else's readers see no difference
    tree.to_netcdf(path, engine="h5netcdf")  # by somebody else, without a checksum
    xr.testing.assert_identical(load_tree(path), tree)
