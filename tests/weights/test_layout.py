"""Names <-> positions: round trips, order, tied weights, and errors that name the culprit."""

import json
import math
import random

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bayesprior.errors import LayoutMismatchError
from bayesprior.weights.layout import ParameterLayout

names = st.text("abc.xyz01", min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tables = st.dictionaries(names, shapes, max_size=6)


def layout_of(table):
    return ParameterLayout(tuple(table), tuple(table.values()))


class Net(nn.Module):
    """Every kind of parameter: a matrix, a scalar, a frozen one, a tied one, buffers."""

    def __init__(self, order=("body", "scale", "norm", "tail")):
        super().__init__()
        parts = {
            "body": nn.Linear(3, 4),
            "scale": nn.Parameter(torch.tensor(2.0)),
            "norm": nn.BatchNorm1d(4),
            "tail": nn.Linear(4, 3, bias=False),
        }
        for name in order:
            setattr(self, name, parts[name])
        self.body.bias.requires_grad_(False)


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def layout(net):
    return ParameterLayout.from_module(net)


def test_trainable_parameters_in_the_module_s_order(layout):
    assert layout.names == ("scale", "body.weight", "norm.weight", "norm.bias", "tail.weight")
    assert layout.shapes == ((), (4, 3), (4,), (4,), (3, 4))
    assert (layout.dim, len(layout)) == (1 + 12 + 4 + 4 + 12, 5)
    assert layout.slice("norm.weight") == slice(13, 17)


def test_include(net):
    backbone = ParameterLayout.from_module(net, lambda name: not name.startswith("tail"))
    assert "tail.weight" not in backbone.names
    assert backbone.dim == 21


def test_tied_weights_appear_once(net):
    net.tail.weight = nn.Parameter(torch.randn(4, 3))
    net.body.weight = net.tail.weight
    layout = ParameterLayout.from_module(net)
    assert [n for n in layout.names if n in ("body.weight", "tail.weight")] == ["body.weight"]
    layout.load_(net, torch.arange(float(layout.dim)))
    assert net.body.weight is net.tail.weight
    # a layout of the other name finds the same tensor
    other = ParameterLayout(("tail.weight",), ((4, 3),))
    assert torch.equal(other.flatten(net), net.body.weight.reshape(-1))


def test_flatten_and_load_are_inverse(net, layout):
    weights = torch.randn(layout.dim)
    frozen = net.body.bias.clone()
    layout.load_(net, weights)
    assert torch.equal(layout.flatten(net), weights)
    assert torch.equal(net.scale, weights[0])
    assert torch.equal(net.body.bias, frozen)
    out = torch.empty(layout.dim)
    assert layout.flatten(net, out=out) is out
    assert torch.equal(out, weights)
    assert not layout.flatten(net).requires_grad


@given(order=st.permutations(["body", "scale", "norm", "tail"]), seed=st.integers(0, 99))
def test_the_layout_decides_positions_not_the_module(order, seed):
    layout = ParameterLayout.from_module(Net())
    weights = torch.randn(layout.dim, generator=torch.Generator().manual_seed(seed))
    shuffled = Net(tuple(order))
    layout.load_(shuffled, weights)
    assert torch.equal(layout.flatten(shuffled), weights)
    for name, param in shuffled.named_parameters():
        if name in layout.slices:
            assert torch.equal(param.reshape(-1), weights[layout.slice(name)])
    back = ParameterLayout.from_module(shuffled)
    assert back.compare(layout).is_equal


@given(tables, st.sampled_from([(), (3,), (2, 1)]))
def test_unflatten_gives_views_and_flatten_joins_them(table, lead):
    layout = layout_of(table)
    weights = torch.randn(*lead, layout.dim)
    views = layout.unflatten(weights)
    assert [v.shape for v in views.values()] == [(*lead, *s) for s in layout.shapes]
    assert all(
        v.untyped_storage().data_ptr() == weights.untyped_storage().data_ptr()
        for v in views.values()
        if v.numel() and not lead
    )
    if not lead:
        assert torch.equal(layout.flatten_tensors(views.values()), weights)


@given(tables)
def test_json_round_trip_keeps_the_digest(table):
    layout = layout_of(table)
    again = ParameterLayout.from_json(layout.to_json())
    assert again == layout
    assert again.digest() == layout.digest()
    assert hash(again) == hash(layout)


@given(tables, tables)
def test_digests_differ_when_layouts_do(first, second):
    first, second = layout_of(first), layout_of(second)
    assert (first == second) == (first.digest() == second.digest())
    swapped = ParameterLayout(first.names[::-1], first.shapes[::-1])
    assert (swapped == first) == (swapped.digest() == first.digest())


@given(tables, tables)
def test_compare_is_a_partition_and_symmetric(first, second):
    first, second = layout_of(first), layout_of(second)
    here, there = first.compare(second), second.compare(first)
    assert set(here.shared) | set(here.only_here) | set(here.shape_conflicts) == set(first.names)
    assert (here.only_here, here.only_there) == (there.only_there, there.only_here)
    assert set(here.shared) == set(there.shared)
    assert here.is_equal == (
        set(zip(first.names, first.shapes, strict=True))
        == set(zip(second.names, second.shapes, strict=True))
    )


@given(tables, st.randoms(use_true_random=False))
def test_select_and_extend(table, generator: random.Random):
    layout = layout_of(table)
    kept = [n for n in layout.names if generator.random() < 0.5]
    generator.shuffle(kept)
    part = layout.select(kept)
    assert part.names == tuple(n for n in layout.names if n in kept)
    whole = part.extend(layout)
    assert whole.names[: len(part)] == part.names
    assert whole.compare(layout).is_equal
    assert layout.extend(layout) == layout


@given(tables)
def test_slices_tile_the_vector(table):
    layout = layout_of(table)
    stops = [0, *(s.stop for s in layout.slices.values())]
    assert [s.start for s in layout.slices.values()] == stops[:-1]
    assert layout.dim == stops[-1] == sum(math.prod(s) for s in layout.shapes)


def test_rename(layout):
    renamed = layout.rename({"tail.weight": "head.weight"})
    assert renamed.names[-1] == "head.weight"
    assert renamed.shapes == layout.shapes
    assert layout.rename(str.upper).names[0] == "SCALE"
    with pytest.raises(LayoutMismatchError, match="did you mean 'tail.weight'"):
        layout.rename({"tail.weigth": "head.weight"})


def test_names_must_be_unique_and_have_shapes():
    with pytest.raises(LayoutMismatchError, match="'a' occurs twice"):
        ParameterLayout(("a", "a"), ((1,), (2,)))
    with pytest.raises(LayoutMismatchError, match="2 names but 1 shapes"):
        ParameterLayout(("a", "b"), ((1,),))


def test_a_module_that_does_not_fit(net, layout):
    net.tail = nn.Linear(4, 5, bias=False)
    with pytest.raises(
        LayoutMismatchError, match=r"Net does not.*tail\.weight \(3, 4\) against \(5"
    ):
        layout.flatten(net)
    del net.tail
    net.tails = nn.Linear(4, 3, bias=False)
    message = r"missing in the module: tail\.weight; did you mean 'tails\.weight'\?"
    with pytest.raises(LayoutMismatchError, match=message):
        layout.load_(net, torch.zeros(layout.dim))


def test_all_or_nothing(net, layout):
    before = [p.clone() for p in net.parameters()]
    net.tail = nn.Linear(4, 5, bias=False)
    with pytest.raises(LayoutMismatchError):
        layout.load_(net, torch.ones(layout.dim))
    assert all(
        torch.equal(a, b) for a, b in zip(before[:-1], list(net.parameters())[:-1], strict=True)
    )


def test_vectors_of_another_length(net, layout):
    for call in (layout.unflatten, lambda weights: layout.load_(net, weights)):
        with pytest.raises(LayoutMismatchError, match=r"last axis is D = 33, got shape \(32,\)"):
            call(torch.zeros(32))


def test_unknown_name(layout):
    with pytest.raises(LayoutMismatchError, match="no parameter 'norm.weigh'.*'norm.weight'"):
        layout.slice("norm.weigh")
    with pytest.raises(LayoutMismatchError, match="no parameter 'zzz' in this layout$"):
        layout.select(["zzz"])


def test_describe_names_a_few_of_many():
    many = ParameterLayout(tuple(f"layer{i}.weight" for i in range(9)), ((2,),) * 9)
    renamed = many.rename(lambda name: f"backbone.{name}")
    text = many.compare(renamed).describe()
    assert "layer0.weight; did you mean 'backbone.layer0.weight'?" in text
    assert "and 6 more" in text
    assert many.compare(many).describe() == "equal"
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("w", (-1,), r"the shape of 'w' must hold integers of 0 or more, got \(-1,\)"),
        ("w", (2.0,), "must hold integers"),
        ("w", (True,), "must hold integers"),
        (3, (1,), "name must be text, got 3"),
        ("\ud800", (1,), "name must be text, got '.ud800'"),
    ],
)
def test_sizes_are_counts_and_names_are_text(name, shape, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(LayoutMismatchError, match=message):
        ParameterLayout((name,), (shape,))
    text = json.dumps([[name, shape]])
    with pytest.raises(LayoutMismatchError, match=message):
        ParameterLayout.from_json(text)
