import math
import shutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bayesprior import storage
from bayesprior.errors import ConfigError, LayoutMismatchError, PriorFileError
from bayesprior.inference.posteriors import PointPosterior, StoredDraws, save_draw, thinned
from bayesprior.inference.protocols import Draw, Posterior
from bayesprior.storage import save_tensors
from bayesprior.weights.layout import ParameterLayout

LAYOUT = ParameterLayout(("a", "b"), ((2,), (1, 2)))


def store(run_dir, num_chains=2, num_draws=5, layout=LAYOUT):
    for chain in range(num_chains):
        for index in range(num_draws):
            weights = torch.full((layout.dim,), 100.0 * chain + index)
            save_draw(run_dir / f"chain-{chain:02d}", layout, Draw(chain, index, weights))
    return run_dir


def positions(posterior, num_draws=None):
    return [(d.chain, d.index, d.weights[0].item()) for d in posterior.draws(num_draws)]


# --- a point -------------------------------------------------------------------------------


def point():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    net(torch.randn(4, 3))
    return net, PointPosterior.from_module(net, provenance={"method": "map", "seeds": [1, 2]})


def test_point_copies_the_module():
    net, posterior = point()
    assert isinstance(posterior, Posterior)
    (draw,) = posterior.draws()
    before = draw.weights.clone(), draw.buffers["1.running_mean"].clone()
    net(torch.randn(4, 3))
    nn.init.zeros_(net[0].weight)
    assert torch.equal(draw.weights, before[0])
    assert torch.equal(draw.buffers["1.running_mean"], before[1])


def test_point_of_a_sub_layout():
    net, _ = point()
    layout = ParameterLayout.from_module(net).select(["0.bias"])
    assert torch.equal(PointPosterior.from_module(net, layout).weights, net[0].bias.detach())


def test_point_saved_and_loaded_is_the_same(tmp_path):
    _, posterior = point()
    posterior.save(tmp_path / "map.safetensors")
    loaded = PointPosterior.load(tmp_path / "map.safetensors")
    assert loaded.layout == posterior.layout
    assert torch.equal(loaded.weights, posterior.weights)
    assert loaded.provenance == posterior.provenance
    assert loaded.buffers.keys() == posterior.buffers.keys()
    for name, buffer in posterior.buffers.items():
        assert torch.equal(loaded.buffers[name], buffer)


@pytest.mark.parametrize("num_draws", [None, 1, 60])
def test_point_has_one_draw_however_many_are_asked_for(num_draws):
    _, posterior = point()
    (draw,) = posterior.draws(num_draws)
    assert draw.layout == posterior.layout
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        list(posterior.draws(0))


def test_point_refuses_wrong_length_and_nan():
    with pytest.raises(LayoutMismatchError, match="D = 4"):
        PointPosterior(LAYOUT, torch.zeros(3))
    with pytest.raises(ConfigError, match="NaN"):
        PointPosterior(LAYOUT, torch.tensor([0.0, 1.0, float("nan"), 0.0]))


# --- stored draws --------------------------------------------------------------------------


def test_all_draws_by_chain(tmp_path):
    stored = StoredDraws(store(tmp_path))
    assert isinstance(stored, Posterior)
    assert (stored.num_chains, stored.num_draws, stored.layout) == (2, 5, LAYOUT)
    assert positions(stored) == [(c, i, 100.0 * c + i) for c in range(2) for i in range(5)]
    assert repr(stored) == "StoredDraws(num_chains=2, num_draws=5, dim=4)"


def test_chains_of_several_runs(tmp_path):
    first, second = store(tmp_path / "x", 1), store(tmp_path / "y", 2)
    stored = StoredDraws([second / "chain-01", first / "chain-00"])
    assert [p[::2] for p in positions(stored, 2)] == [(0, 104.0), (1, 4.0)]


@pytest.mark.parametrize(("stored", "kept"), [(10, 4), (10, 10), (10, 1), (7, 3), (9, 8)])
def test_fewer_draws_are_spread_evenly_to_the_last(tmp_path, stored, kept):
    draws = StoredDraws(store(tmp_path, num_draws=stored)).draws(2 * kept)
    indices = [[], []]
    for draw in draws:
        indices[draw.chain].append(draw.index)
    assert indices[0] == indices[1]
    assert indices[0][-1] == stored - 1
    gaps = {b - a for a, b in pairwise([-1, *indices[0]])}
    assert len(indices[0]) == kept
    assert gaps <= {stored // kept, -(-stored // kept)}


@pytest.mark.parametrize(("num_draws", "chosen"), [(3, "04 11 14"), (1, "14"), (99, None)])
def test_any_number_is_spread_over_the_chains(tmp_path, num_draws, chosen):
    stored = StoredDraws(store(tmp_path))
    found = [f"{d.chain}{d.index}" for d in stored.draws(num_draws)]
    every = [f"{chain}{index}" for chain in range(2) for index in range(5)]
    assert sorted(found) == (every if chosen is None else sorted(chosen.split()))


@pytest.mark.parametrize("num_draws", [0, -2])
def test_a_number_of_draws_is_positive(tmp_path, num_draws):
    with pytest.raises(ConfigError, match=f"at least 1, got {num_draws}"):
        list(StoredDraws(store(tmp_path)).draws(num_draws))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 50))
def test_thinning_takes_what_is_there_and_keeps_last_draws(lengths, num_draws):
    chosen = thinned(lengths, num_draws)
    assert sum(map(len, chosen)) == min(num_draws, sum(lengths))
    for indices, length in zip(chosen, lengths, strict=True):
        assert indices == sorted(set(indices))
        assert not indices or (indices[-1] == length - 1 and indices[0] >= 0)


def test_weight_and_confidence_survive_on_disk(tmp_path):
    buffers = {"n.running_mean": torch.ones(2)}
    draw = Draw(0, 0, torch.arange(4.0), buffers, LAYOUT, weight=0.1, confidence=2.5)
    save_draw(tmp_path / "chain-00", LAYOUT, draw)
    (found,) = StoredDraws(tmp_path).draws()
    assert (found.weight, found.confidence, found.layout) == (0.1, 2.5, LAYOUT)
    assert torch.equal(found.weights, draw.weights)
    assert torch.equal(found.buffers["n.running_mean"], torch.ones(2))
    PointPosterior(LAYOUT, torch.zeros(4), confidence=1 / 3).save(tmp_path / "map.safetensors")
    loaded = PointPosterior.load(tmp_path / "map.safetensors")
    assert [d.confidence for d in loaded.draws()] == [1 / 3]


def test_files_of_the_first_edition_count_alike(tmp_path):
    header = {"layout": LAYOUT.to_json(), "digest": LAYOUT.digest(), "chain": "0", "index": "0"}
    path = tmp_path / "chain-00" / "draw-0000.safetensors"
    save_tensors(path, {"weights": torch.zeros(4)}, {"format": "bayesprior.draw/1", **header})
    (draw,) = StoredDraws(tmp_path).draws()
    assert (draw.weight, draw.confidence) == (1.0, 1.0)


@pytest.mark.parametrize("name", ["weight", "confidence"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_weight_and_confidence_are_positive(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"the {name} of a draw must be positive"):
        Draw(0, 0, torch.zeros(4), **{name: value})
    path = store(tmp_path, 1, 1) / "chain-00" / "draw-0000.safetensors"
    rewrite(path, **{name: repr(value)})
    with pytest.raises(PriorFileError, match=f"corrupt: the {name}"):
        list(StoredDraws(tmp_path).draws())


def test_a_file_is_verified_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    hashed = []

    def checksum(tensors):
        hashed.append(1)
        return whole(tensors)

    stored = StoredDraws(store(tmp_path, 1, 3))
    whole = storage._checksum
    monkeypatch.setattr(storage, "_checksum", checksum)
    for _ in range(3):
        list(stored.draws())
    assert len(hashed) == 3
    flip(tmp_path / "chain-00" / "draw-0001.safetensors")
    with pytest.raises(PriorFileError, match="draw-0001.* does not match|do not match"):
        list(stored.draws())


def one_line(error):
    assert "\n" not in str(error.value)


def test_nothing_stored(tmp_path):
    for folders, message in [
        (tmp_path / "absent", "no such run folder"),
        (tmp_path, "no chain-00"),
        ([], "no chain folders"),
        ([tmp_path / "chain-00"], "no stored draws in"),
    ]:
        with pytest.raises(PriorFileError, match=message) as error:
            StoredDraws(folders)
        one_line(error)


def test_a_missing_draw_or_chain_is_named(tmp_path):
    store(tmp_path, num_chains=3)
    (tmp_path / "chain-01" / "draw-0002.safetensors").unlink()
    with pytest.raises(PriorFileError, match=r"chain-01/draw-0002\.safetensors is missing"):
        StoredDraws(tmp_path)
    shutil.rmtree(tmp_path / "chain-01")
    with pytest.raises(PriorFileError, match=r"chain-01 is missing"):
        StoredDraws(tmp_path)


def test_chains_of_unequal_length(tmp_path):
    store(tmp_path, 2)
    (tmp_path / "chain-01" / "draw-0004.safetensors").unlink()
    with pytest.raises(PriorFileError, match=r"5 in .*chain-00, 4 in .*chain-01\); resume"):
        StoredDraws(tmp_path)


def test_a_draw_of_another_network(tmp_path):
    store(tmp_path, 1)
    other = ParameterLayout(("a", "c"), ((2,), (1, 2)))
    save_draw(tmp_path / "chain-00", other, Draw(0, 3, torch.zeros(4)))
    stored = StoredDraws(tmp_path)
    with pytest.raises(PriorFileError, match=r"draw-0003.* belongs to another network: .*only"):
        list(stored.draws())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-4])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rewrite(path, **header):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = {**file.metadata(), **header}
    save_file(tensors, path, metadata=header)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip,
        lambda path: path.write_text("hello"),
        lambda path: path.write_bytes(b""),
        lambda path: rewrite(path, format="bayesprior.draw/9"),
        lambda path: rewrite(path, format="bayesprior.point/1"),
        lambda path: rewrite(path, layout="[["),
        lambda path: rewrite(path, layout='[["a", [7]]]'),
        lambda path: rewrite(path, digest="0"),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage, index):
    path = store(tmp_path, 1, 2) / "chain-00" / f"draw-{index:04d}.safetensors"
    damage(path)
    with pytest.raises(PriorFileError, match=f"draw-{index:04d}") as error:
        list(StoredDraws(tmp_path).draws())
    one_line(error)


@pytest.mark.parametrize("damage", [truncate, flip, lambda p: rewrite(p, provenance="{")])
def test_a_damaged_point_is_one_clear_line(tmp_path, damage):
    path = tmp_path / "map.safetensors"
    PointPosterior(LAYOUT, torch.zeros(4)).save(path)
    damage(path)
    with pytest.raises(PriorFileError, match=r"map\.safetensors") as error:
        PointPosterior.load(path)
    one_line(error)


def test_a_point_without_weights(tmp_path):
    path = tmp_path / "map.safetensors"
    header = {"format": "bayesprior.point/1", "layout": LAYOUT.to_json()}
    save_tensors(path, {"w": torch.zeros(4)}, {**header, "digest": LAYOUT.digest()})
    with pytest.raises(PriorFileError, match="no weights"):
        PointPosterior.load(path)
    save_tensors(path, {"weights": torch.zeros(3)}, {**header, "digest": LAYOUT.digest()})
    with pytest.raises(PriorFileError, match="corrupt: expected weights"):
        PointPosterior.load(path)
