"""Files of every format, and laws of several blocks on disk."""

import json
from pathlib import Path

import pytest
import torch
from dense import BLOCK_LAYOUT, BLOCKS, LAYOUT, covariance_of, make_block_case, make_case
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bayesprior.errors import ConfigError, PriorFileError
from bayesprior.storage import save_tensors
from bayesprior.weights.blocks import Block
from bayesprior.weights.file import FORMATS, header_of
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance

WITH_X = ParameterLayout((*LAYOUT.names, "x"), (*LAYOUT.shapes, (1,)))
FILES = Path(__file__).parent / "files"
close = torch.testing.assert_close


def parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return load_file(path), file.metadata()


def test_format_1_is_read_for_ever():
    law = GaussianWeights.load(FILES / "format-1.safetensors")
    assert law.layout.names == ("conv.weight", "conv.bias", "head.weight")
    close(law.loc, torch.arange(8.0) / 8)
    factor = torch.tensor([[1.0, -0.5], [0.25, 0.0], [0.0, 2.0], [0.5, 0.5], [-1.0, 1.0]])
    expected = torch.diag(torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 4.0, 4.0, 9.0]))
    expected[:5, :5] = 0.25 * (expected[:5, :5] + factor @ factor.T)
    close(covariance_of(law), expected.double())
    assert (law.new_names, law.shared_dim, law.cov_scale) == (("head.weight",), 5, 0.25)
    assert law.provenance == {
        "objective": "tests",
        "seeds": [1, 2],
        "nested": {"lr": 0.1, "swag": None},
    }
    assert torch.equal(law.buffers["bn.running_mean"], torch.tensor([0.5, -1.5]))
    assert law.buffers["bn.steps"] == 7
    assert law.statistics == {}


def test_format_1_is_still_what_holds_such_a_law(tmp_path):
    source, again = FILES / "format-1.safetensors", tmp_path / "again.safetensors"
    GaussianWeights.load(source).save(again)
    (old, header), (new, rewritten) = parts(source), parts(again)
    assert rewritten == header
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


def test_format_2_is_read_for_ever():
    law = GaussianWeights.load(FILES / "format-2.safetensors")
    assert law.layout.names == ("conv.weight", "conv.bias", "head.weight")
    close(law.loc, torch.arange(9.0) / 8)
    rows = torch.tensor([[-1.0, 1.0, 0.25, 0.0, 0.5], [1.0, -0.5, 0.0, 2.0, 0.5]])
    body = torch.diag(torch.tensor([2.5, 0.5, 1.0, 1.5, 2.0])) + rows.T @ rows
    width = torch.tensor([0.5, 2.0, 2.0, 2.0, 2.0])
    at = torch.tensor([1, 2, 3, 4, 0])  # bias first in the file, last in the layout
    body = (width[:, None] * body * width)[at][:, at]
    head = torch.tensor([[1.0, 0.5], [0.5, 4.25]])
    close(covariance_of(law), torch.block_diag(body, head, head).double())
    assert law.new_names == ("head.weight",)
    assert torch.equal(law.statistics["feature_mean"], torch.tensor([0.5, -0.5]))
    assert law.buffers["bn.steps"] == 7
    assert law.provenance == {"objective": "tests"}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load_are_the_identity(kind, dtype, tmp_path):
    path = tmp_path / "prior.safetensors"
    statistics = {"feature_mean": torch.randn(3), "feature.covariance": torch.eye(3)}
    law = make_block_case(kind, dtype, statistics=statistics).law
    for given in (law, law.marginal(BLOCK_LAYOUT.names[1:]), law.rename(lambda n: f"net.{n}")):
        given.save(path)
        loaded = GaussianWeights.load(path)
        assert header_of(path)["format"] == FORMATS[1]
        assert loaded.layout == given.layout
        assert loaded.new_names == given.new_names
        assert torch.equal(loaded.cov_diag, given.cov_diag)
        assert torch.equal(loaded.cov_factor, given.cov_factor)
        assert loaded.cov_diag.dtype == dtype
        assert loaded.statistics.keys() == statistics.keys()
        assert all(torch.equal(loaded.statistics[n], t) for n, t in statistics.items())


class Constant(LowRankCovariance):
    """A kind of block from outside: one variance for all."""

    kind = "tests.constant"

    def tensors(self):
        return {"variance": self.diag[:1].clone()}

    @classmethod
    def from_tensors(cls, tensors, dim):
        return cls(tensors["variance"].expand(dim).clone())

    def to(self, device, dtype):
        return Constant(self.diag.to(device=device, dtype=dtype))


def test_a_kind_of_block_from_outside_is_found(tmp_path):
    layout = ParameterLayout(("a", "b"), ((2,), (3,)))
    blocks = [
        Block(("b",), Constant(torch.full((3,), 0.25))),
        Block(("a",), LowRankCovariance(torch.ones(2))),
    ]
    law = GaussianWeights.from_blocks(layout, torch.zeros(5), blocks)
    law.rescale(cov_scale=4.0).save(tmp_path / "prior.safetensors")
    loaded = GaussianWeights.load(tmp_path / "prior.safetensors")
    assert isinstance(loaded.blocks[0].covariance, Constant)
    close(loaded.variance, torch.tensor([4.0, 4, 1, 1, 1]))


@pytest.mark.parametrize("wrong", ["kind", "names", "tensor", "scale", "width"])
def test_damaged_blocks(wrong, tmp_path):
    path = tmp_path / "prior.safetensors"
    tensors, header = parts(FILES / "format-2.safetensors")
    blocks = json.loads(header["blocks"])
    if wrong == "kind":
        blocks[1]["kind"] = "unheard"
    elif wrong == "names":
        blocks[1]["names"] = ["conv.bias"]
    elif wrong == "tensor":
        del tensors["block.0.diag"]
    elif wrong == "scale":
        tensors["block.0.scale"] = torch.ones(3)
    else:
        tensors["block.0.scale"] = torch.tensor([1.0, torch.inf])
    save_tensors(path, tensors, header | {"blocks": json.dumps(blocks)})
    with pytest.raises(PriorFileError, match="is no valid prior file") as caught:
        GaussianWeights.load(path)
    assert "\n" not in str(caught.value)


def test_a_factor_of_format_1_that_ends_inside_a_parameter(tmp_path):
    """The first F weights alone have the width, as they had."""
    path = tmp_path / "prior.safetensors"
    tensors, header = parts(FILES / "format-1.safetensors")
    tensors["cov_rows"] = tensors["cov_rows"][:, :3].clone()
    save_tensors(path, tensors, header)
    law, rows = GaussianWeights.load(path), tensors["cov_rows"]
    expected = torch.diag(tensors["cov_diag"])
    expected[:3, :3] = 0.25 * (expected[:3, :3] + rows.T @ rows)
    close(covariance_of(law), expected.double())
    assert law.shared_dim == 4


@pytest.mark.parametrize("provenance", ["[1]", "null", '"text"', r'{"a": "\ud800"}'])
def test_provenance_that_is_no_object(provenance, tmp_path):
    tensors, header = parts(FILES / "format-1.safetensors")
    path = tmp_path / "prior.safetensors"
    save_file(tensors, path, metadata=header | {"provenance": provenance})
    with pytest.raises(PriorFileError, match="is no valid prior file"):
        GaussianWeights.load(path)


def test_a_file_of_16_bits_makes_a_law_of_32(tmp_path):
    tensors, header = parts(FILES / "format-1.safetensors")
    path = tmp_path / "prior.safetensors"
    save_tensors(path, {n: t.bfloat16() for n, t in tensors.items()}, header)
    law = GaussianWeights.load(path)
    assert law.loc.dtype == law.cov_diag.dtype == torch.float32
    assert torch.isfinite(law.score(torch.zeros(8))).all()


def test_load_at_a_lower_rank_keeps_no_hold_of_the_file(tmp_path):
    """Only what is kept has memory of its own; the whole factor is never copied."""
    law, path = make_case("head", torch.float32).law, tmp_path / "prior.safetensors"
    law.save(path)
    loaded = GaussianWeights.load(path, rank=1)
    close(covariance_of(loaded), covariance_of(law.truncate(1)))
    (body, head) = (block.covariance for block in loaded.blocks)
    mapped = path.stat().st_size
    for tensor in (loaded.loc, body.diag, body.rows, head.diag):
        assert tensor.untyped_storage().nbytes() < mapped


@pytest.mark.parametrize(
    "make",
    [
        lambda law: law.rescale(rms_std=1e300),
        lambda law: law.rescale(rms_std=1e-300),
        lambda law: law.rescale(cov_scale=1e-300),
        lambda law: law.rescale(rms_std=1e21),
        lambda law: law.jitter(1e300),
        lambda law: GaussianWeights.point(law.layout, law.loc, 1e20),
        lambda law: GaussianWeights.point(law.layout, law.loc, 1e-30),
        lambda law: law.extend(
            ParameterLayout((*law.layout.names, "x"), (*law.layout.shapes, (1,))), std=1e-300
        ),
    ],
)
def test_widths_that_no_file_could_hold_are_refused_before_there_is_a_law(make):
    law = make_case("head", torch.float32).law
    with pytest.raises(ConfigError, match=r"torch\.float32 cannot hold|is so extreme"):
        make(law)
