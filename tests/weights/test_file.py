"""Prior files: identity bit for bit, and one clear line for every bad file."""

import json
import os
from pathlib import Path

import pytest
import torch
from dense import LAYOUT, SHAPES, make_case
from forked import run_code
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bayesprior.errors import ConfigError, LayoutMismatchError, PriorFileError, StorageError
from bayesprior.storage import save_tensors
from bayesprior.weights.file import FORMATS, TENSORS
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

D = LAYOUT.dim
BUFFERS = {"bn.mean": torch.tensor([1.5, torch.pi]), "bn.steps": torch.tensor(7)}
PROVENANCE = {"source": "tests", "seeds": [1, 2], "nested": {"lr": 0.1, "swag": None}}


@pytest.fixture
def law():
    return make_case("narrow", torch.float32, buffers=BUFFERS, provenance=PROVENANCE).law


@pytest.fixture
def path(tmp_path, law):
    law.save(tmp_path / "prior.safetensors")
    return tmp_path / "prior.safetensors"


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def identical(first: GaussianWeights, second: GaussianWeights) -> None:
    assert first.layout == second.layout
    for one, other in (
        (first.loc, second.loc),
        (first.cov_diag, second.cov_diag),
        (first.cov_factor, second.cov_factor),
        (torch.tensor(first.cov_scale), torch.tensor(second.cov_scale)),
    ):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert first.provenance == second.provenance
    assert list(first.buffers) == list(second.buffers)
    assert all(torch.equal(b, second.buffers[n]) for n, b in first.buffers.items())


@settings(max_examples=40)
@given(
    kind=st.sampled_from(sorted(SHAPES)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    cov_scale=st.floats(1e-6, 1e6),
)
def test_save_and_load_are_the_identity(tmp_path_factory, kind, dtype, cov_scale):
    path = tmp_path_factory.mktemp("files") / "prior.safetensors"
    case = make_case(kind, dtype, buffers=BUFFERS, provenance=PROVENANCE)
    law = case.law.rescale(cov_scale=cov_scale)
    law.save(path)
    loaded = GaussianWeights.load(path)
    identical(loaded, law)
    if dtype != torch.bfloat16:
        value = torch.randn(2, D, dtype=dtype)
        assert torch.equal(loaded.log_prob(value), law.log_prob(value))
    law.to(dtype=torch.float32).save(path)  # over the open file of `loaded`
    identical(loaded, law)


def test_file_is_open_to_other_readers(path, law):
    tensors, header = parts(path)
    assert sorted(tensors) == sorted([*TENSORS, *(f"buffer.{n}" for n in BUFFERS)])
    assert tensors["cov_rows"].shape == (2, 5)
    assert header["format"] == FORMATS[0]
    assert json.loads(header["provenance"]) == PROVENANCE
    assert ParameterLayout.from_json(header["layout"]) == law.layout
    assert header["digest"] == law.layout.digest()


def test_load_at_a_lower_rank(path, law):
    identical(GaussianWeights.load(path, rank=1), law.truncate(1))
    with pytest.raises(ConfigError, match="rank must be between 0 and 2, got 3"):
        GaussianWeights.load(path, rank=3)


def test_shared_memory_is_written_once_each(tmp_path):
    both = torch.rand(2 * D) + 1
    law = GaussianWeights(LAYOUT, both[:D], both[:D], torch.ones(D, 1))
    law.save(tmp_path / "same.safetensors")
    identical(GaussianWeights.load(tmp_path / "same.safetensors"), law)
    law = GaussianWeights(LAYOUT, both[:D], both[2 : 2 + D], both[:D, None])
    law.save(tmp_path / "overlapping.safetensors")
    identical(GaussianWeights.load(tmp_path / "overlapping.safetensors"), law)


def test_learned_mean_is_saved(tmp_path):
    law = GaussianWeights(LAYOUT, torch.zeros(D, requires_grad=True), torch.ones(D))
    law.save(tmp_path / "prior.safetensors")
    assert not GaussianWeights.load(tmp_path / "prior.safetensors").loc.requires_grad


def test_a_device_that_is_not_there_is_one_line(path, law):
    absent = "cuda:99"
    for call in (lambda: GaussianWeights.load(path, device=absent), lambda: law.to(absent)):
        with pytest.raises(ConfigError, match=f"device '{absent}' was asked for") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(PriorFileError, match=r"no such file: .*absent\.safetensors"):
        GaussianWeights.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("size", [0, 4, 100, 600])
def test_truncated_file(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(PriorFileError, match="no readable safetensors file"):
        GaussianWeights.load(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 a zip", b"\x80\x02}q\x00.", b"{" * 99])
def test_foreign_file(path, content):
    path.write_bytes(content)
    with pytest.raises(PriorFileError, match="no readable safetensors file") as caught:
        GaussianWeights.load(path)
    assert ("with --weights" in str(caught.value)) == (content[0] != ord("{"))


def test_foreign_safetensors_file(path):
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(PriorFileError, match=r"not a 'bayesprior\.gaussian' file.*--weights"):
        GaussianWeights.load(path)
    save_tensors(path, {"weights": torch.ones(2)}, {"format": "bayesprior.draw/1"})
    with pytest.raises(PriorFileError, match=r"its format is 'bayesprior\.draw/1'"):
        GaussianWeights.load(path)


def test_file_of_a_later_version(path):
    tensors, header = parts(path)
    save_file(tensors, path, metadata=header | {"format": "bayesprior.gaussian/3"})
    with pytest.raises(PriorFileError, match=r"gaussian/3'.*reads '2' only: upgrade bayesprior"):
        GaussianWeights.load(path)


def test_every_flipped_byte_of_the_tensors_is_noticed(path):
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content)):
        content[position] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(PriorFileError, match="do not match its checksum"):
            GaussianWeights.load(path)
        content[position] ^= 0x10
    path.write_bytes(content)
    GaussianWeights.load(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"digest": "0" * 64}, "its layout does not match its digest"),
        ({"layout": LAYOUT.select(LAYOUT.names[:2]).to_json()}, "does not match its digest"),
        ({"layout": "[[1]]"}, "is no valid prior file"),
        ({"layout": "no json"}, "is no valid prior file"),
        ({"provenance": "{"}, "is no valid prior file"),
    ],
)
def test_inconsistent_header(path, header, message):
    tensors, old = parts(path)
    save_file(tensors, path, metadata=old | header)
    with pytest.raises(PriorFileError, match=message):
        GaussianWeights.load(path)


@pytest.mark.parametrize("name", ["layout", "digest", "provenance", "checksum"])
def test_header_that_lacks_a_part(path, name):
    tensors, header = parts(path)
    del header[name]
    save_file(tensors, path, metadata=header)
    with pytest.raises(PriorFileError, match="checksum" if name == "checksum" else name):
        GaussianWeights.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loc": None}, "it lacks 'loc'"),
        ({"cov_rows": torch.ones(2, 9)}, r"cov_factor must have shape \(F, K\).*got \(9, 2\)"),
        ({"loc": torch.ones(3)}, r"loc must have shape \(8,\)"),
        ({"cov_diag": torch.ones(3)}, r"cov_diag must have shape \(8,\)"),
        ({"cov_diag": torch.zeros(D)}, "cov_diag must be positive"),
        ({"loc": torch.full((D,), torch.nan)}, "loc holds NaN"),
        ({"cov_scale": torch.tensor(-1.0)}, "cov_scale must be a positive number, got -1"),
        ({"cov_scale": torch.ones(2)}, "is no valid prior file"),
        ({"cov_rows": torch.ones(3)}, "is no valid prior file"),
    ],
)
def test_inconsistent_tensors(path, changes, message):
    tensors, header = parts(path)
    tensors = {n: t for n, t in (tensors | changes).items() if t is not None}
    save_tensors(path, tensors, header)
    with pytest.raises(PriorFileError, match=message) as caught:
        GaussianWeights.load(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_provenance_that_is_no_text_can_be_read_again(path, law):
    """The name of a file may hold any bytes; what is written must load."""
    law.provenance["data"] = "caf\udce9 \u00e9"
    law.save(path)
    assert GaussianWeights.load(path).provenance["data"] == "caf? \u00e9"


def test_provenance_must_be_json(path, law):
    before = path.read_bytes()
    law.provenance["tensor"] = torch.ones(1)
    with pytest.raises(ConfigError, match="provenance must hold JSON primitives only"):
        law.save(path)
    assert path.read_bytes() == before


FULL_DISK = """
import resource, sys, torch
from bayesprior.errors import StorageError
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

layout = ParameterLayout(("w",), ((50_000,),))
law = GaussianWeights(layout, torch.zeros(50_000), torch.ones(50_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    law.save(sys.argv[1])
except StorageError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_file(path, law):
    """A limit on the size of a file stands for the disk: the kernel refuses the write half-way."""
    before = path.read_bytes()
    done = run_code(FULL_DISK, str(path))
    assert done.returncode == 0, done.stderr
    assert f"could not write {path}" in done.stdout
    assert "the file that was there is unchanged" in done.stdout
    assert done.stdout.count("\n") == 1
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    identical(GaussianWeights.load(path), law)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(law, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="could not write"):
        law.save(tmp_path / "prior.safetensors")


def test_a_file_where_a_folder_should_be(law, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not write"):
        law.save(tmp_path / "file" / "prior.safetensors")


def test_missing_folders_are_made_and_files_are_readable_by_others(law, tmp_path):
    path = tmp_path / "a" / "b" / "prior.safetensors"
    law.save(path)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_mean_of_another_layout_is_refused():
    with pytest.raises(LayoutMismatchError, match="loc must have shape"):
        GaussianWeights(LAYOUT, torch.zeros(3), torch.ones(3))
