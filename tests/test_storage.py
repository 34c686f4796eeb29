"""Atomic writes and checked reads."""

import os
from pathlib import Path

import pytest
import torch
from forked import run_code
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesprior.errors import PriorFileError, StorageError
from bayesprior.storage import (
    atomic_path,
    chain_dir,
    check_size,
    draw_path,
    load_tensors,
    predictive_path,
    read_header,
    remove_leftovers,
    save_tensors,
    write_text,
)

FORMAT = "bayesprior.test/1"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]


def save(path, tensors, **header):
    save_tensors(path, tensors, {"format": FORMAT, **header})


@settings(max_examples=40)
@given(
    tensors=st.dictionaries(
        st.text("abc.", min_size=1),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
    ),
    note=st.text(),
)
def test_save_and_load_are_the_identity(tmp_path_factory, tensors, note):
    path = tmp_path_factory.mktemp("files") / "file.safetensors"
    made = {n: (7 * torch.randn(shape)).to(kind) for n, (kind, shape) in tensors.items()}
    save(path, made, note=note)
    loaded, header = load_tensors(path, format=FORMAT)
    assert header["note"] == note
    assert loaded.keys() == made.keys()
    for name, tensor in made.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_views_shared_and_strided_tensors(tmp_path):
    base = torch.arange(12.0)
    tensors = {
        "whole": base,
        "same": base,
        "view": base[3:7],
        "strided": base.reshape(3, 4).T,
        "learned": base.clone().requires_grad_(),
    }
    save(tmp_path / "file", tensors)
    loaded, _ = load_tensors(tmp_path / "file", format=FORMAT)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    save(tmp_path / "small", {"view": torch.zeros(100_000)[:3]})
    assert (tmp_path / "small").stat().st_size < 1000  # the view, not its storage


def test_header_is_read_without_the_tensors(tmp_path):
    save(tmp_path / "file", {"a": torch.ones(3)}, layout="[]")
    header = read_header(tmp_path / "file", format=FORMAT)
    assert (header["format"], header["layout"]) == (FORMAT, "[]")


def test_flipped_byte_passes_only_when_nobody_looks(tmp_path):
    path = tmp_path / "file"
    save(path, {"a": torch.ones(3)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(PriorFileError, match="do not match its checksum"):
        load_tensors(path, format=FORMAT)
    load_tensors(path, format=FORMAT, verify=False)


def test_checksum_covers_names_shapes_and_types(tmp_path):
    sums = set()
    for tensors in (
        {"a": torch.zeros(4)},
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
    ):
        save(tmp_path / "file", tensors)
        sums.add(read_header(tmp_path / "file", format=FORMAT)["checksum"])
    assert len(sums) == 4


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("bayesprior.test/2", r"format 'bayesprior\.test/1'.*reads '2' only"),
        ("bayesprior.other/1", r"not a 'bayesprior\.other' file"),
    ],
)
def test_another_format(tmp_path, format, message):
    save(tmp_path / "file", {"a": torch.ones(1)})
    for read in (load_tensors, read_header):
        with pytest.raises(PriorFileError, match=message):
            read(tmp_path / "file", format=format)


def test_missing_file_and_folder(tmp_path):
    save(tmp_path / "prior.safetensors", {"a": torch.ones(1)})
    for path, message in (("absent", "no such file"), ("", "is a folder; .*: prior.safetensors")):
        with pytest.raises(PriorFileError, match=message):
            load_tensors(tmp_path / path, format=FORMAT)


def test_failure_inside_leaves_everything_as_it_was(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_refused_write_is_one_line(tmp_path):
    path = tmp_path / "file"
    with (
        pytest.raises(StorageError, match=f"could not write {path}: ") as caught,
        atomic_path(path),
    ):
        raise OSError(28, "No space left on device")
    assert "No space left" in str(caught.value)
    assert "unchanged" not in str(caught.value)  # there was none
    assert isinstance(caught.value, OSError)
    path.write_text("old")
    with (
        pytest.raises(StorageError, match="the file that was there is unchanged"),
        atomic_path(path),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(StorageError, match="inner"), atomic_path(path):
        raise StorageError("inner")


KILL = """
import os, sys
from bayesprior.storage import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_a_kill_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    done = run_code(KILL, str(path))
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_files_are_as_readable_as_others(tmp_path):
    old = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_names_in_a_run_folder():
    assert draw_path(chain_dir("run", 3), 12) == Path("run/chain-03/draw-0012.safetensors")


def test_a_tilde_is_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save("~/a/file", {"a": torch.ones(2)})
    assert (tmp_path / "a" / "file").is_file()
    assert torch.equal(load_tensors("~/a/file", format=FORMAT)[0]["a"], torch.ones(2))
    assert draw_path(chain_dir("~/run", 1), 2).is_relative_to(tmp_path)
    assert predictive_path("~/run", "test") == tmp_path / "run" / "predictive-test.nc"


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path):
    names = [
        "config.yaml",
        "results.json",
        "checkpoint.pt",
        "trace.csv",
        "map.safetensors",
        "predictive-test.nc",
        "report.html",
        ".session",
    ]
    script = (
        "import os, sys; from bayesprior.storage import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for name in (names[0], "chain-00/draw-0000.safetensors"):
        done = run_code(script, str(tmp_path / name))
        assert done.returncode == -9
    assert len(list(tmp_path.rglob(".*"))) == 2
    for name in names:
        (tmp_path / f".{name}.abc_1234").write_text("half")
    kept = [*names, ".lock", ".gitignore", ".config.yaml.swp", ".notes.txt.abc_1234"]
    for name in kept:
        (tmp_path / name).write_text("whole")
    (tmp_path / "chain-00" / "draw-0000.safetensors").write_text("whole")
    remove_leftovers(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*kept, "chain-00/draw-0000.safetensors"}


def test_a_claimed_size_is_held_against_the_file_and_the_memory(tmp_path):
    (tmp_path / "small").write_bytes(bytes(1000))
    check_size(10**6, tmp_path / "small")
    with pytest.raises(ValueError, match=r"claims to hold 0\.01 GB"):
        check_size(10**7, tmp_path / "small")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(10**12)  # of holes
    with pytest.raises(ValueError, match=r"claims to hold 9e\+08 GB"):
        check_size(9 * 10**17, tmp_path / "large")


def test_complex_numbers_are_no_weights(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.zeros(2, dtype=torch.complex64)}, {"format": "test/1"})
    with pytest.raises(PriorFileError, match="complex numbers"):
        load_tensors(path, format="test/1")


def test_text_with_bytes_of_another_encoding_is_written(tmp_path):
    write_text(tmp_path / "page.html", "caf\udce9 \u00e9")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "caf\\udce9 \u00e9"
