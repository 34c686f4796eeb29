from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bayesprior.errors import DataError
from bayesprior.tasks.protocols import (
    batch_size,
    check_finite,
    dictionary_forward,
    inputs_forward,
    keyword_forward,
    pair_forward,
    tensors_of,
    to_device,
)

X, Y = torch.arange(6.0).view(2, 3), torch.tensor([0, 1])
Pair = namedtuple("Pair", ["x", "y"])


class Returns(nn.Module):
    """A network that wraps its outputs."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, inputs, mask=None):
        return self.wrap(inputs if mask is None else inputs * mask)


class Logits(OrderedDict):
    """As a ``ModelOutput``: a mapping whose keys are attributes too."""

    def __getattr__(self, name):
        return self[name]


@pytest.mark.parametrize(
    ("forward", "module", "batch", "targets"),
    [
        (pair_forward, nn.Identity(), (X, Y), Y),
        (pair_forward, nn.Identity(), [X, Y], Y),
        (pair_forward, nn.Identity(), Pair(X, Y), Y),
        (inputs_forward, nn.Identity(), X, None),
        (inputs_forward, nn.Identity(), [X], None),
        (dictionary_forward(), Returns(lambda x: {"out": x, "aux": 0}), (X, Y), Y),
        (dictionary_forward("logits"), Returns(lambda x: Logits(logits=x)), (X, Y), Y),
        (dictionary_forward("logits"), Returns(lambda x: SimpleNamespace(logits=x)), (X, Y), Y),
        (keyword_forward(), Returns(lambda x: Logits(logits=x)), {"inputs": X, "labels": Y}, Y),
        (keyword_forward("y"), nn.Identity(), {"input": X, "y": Y}, Y),
        (keyword_forward(), nn.Identity(), {"input": X}, None),
    ],
)
def test_ready_made_forwards(forward, module, batch, targets):
    outputs, found = forward(module, batch)
    assert torch.equal(outputs, X)
    assert found is targets


def test_keywords_reach_the_module():
    module = Returns(lambda x: SimpleNamespace(logits=x))
    outputs, _ = keyword_forward()(module, {"inputs": X, "mask": 2 * torch.ones(3), "labels": Y})
    assert torch.equal(outputs, 2 * X)


@pytest.mark.parametrize(
    ("forward", "wrap", "batch", "message"),
    [
        (pair_forward, None, {"x": X, "labels": Y}, r"dict with x, labels; .*keyword_forward\(\)"),
        (pair_forward, None, X, "got Tensor; pass forward=inputs_forward"),
        (pair_forward, None, [X], "got list of 1; pass forward=inputs_forward"),
        (pair_forward, None, (X, Y, Y), r"tuple of 3; pass forward=, a function \(module, batch\)"),
        (pair_forward, lambda x: {"out": x}, (X, Y), r"dictionary_forward\('out'\)"),
        (pair_forward, lambda x: Logits(logits=x), (X, Y), r"dictionary_forward\('logits'\)"),
        (pair_forward, lambda x: SimpleNamespace(logits=x), (X, Y), r"_forward\('logits'\)"),
        (pair_forward, lambda x: (x, x), (X, Y), "returned tuple of 2, not a tensor; pass forward"),
        (dictionary_forward(), None, (X, Y), "returned Tensor, without 'out'"),
        (dictionary_forward(), lambda x: {"o": x}, (X, Y), "returned dict with o, without 'out'"),
        (dictionary_forward(), None, {"x": X}, r"keyword_forward\(\)"),
        (keyword_forward(), None, (X, Y), r"needs a dictionary, .*dictionary_forward\('logits'\)"),
        (keyword_forward(), lambda x: (x,), {"inputs": X}, "returned tuple of 1, without 'logits'"),
    ],
)
def test_what_a_forward_met_and_which_one_helps(forward, wrap, batch, message):
    module = nn.Identity() if wrap is None else Returns(wrap)
    with pytest.raises(DataError, match=message) as error:
        forward(module, batch)
    assert "\n" not in str(error.value)


NESTED = {"x": (X, [Y, "text"]), "y": Pair(X, Y)}


def test_batches_of_any_make_up():
    assert [t.shape for t in tensors_of(NESTED)] == [X.shape, Y.shape, X.shape, Y.shape]
    moved = to_device(NESTED, "meta")
    assert {t.device.type for t in tensors_of(moved)} == {"meta"}
    assert isinstance(moved["y"], Pair)
    assert moved["x"][1][1] == "text"
    assert batch_size(NESTED) == batch_size((torch.tensor(1.0), X)) == 2
    for empty in ("text", (), {"n": torch.tensor(1)}):
        with pytest.raises(DataError, match="must hold a tensor"):
            batch_size(empty)


def test_nan_in_the_inputs():
    targets = torch.tensor([torch.nan])
    check_finite(NESTED, 0)
    check_finite((X, targets), 0, besides=targets)
    for batch in ([{"a": (Y, X / 0 * 0)}], (X, targets), {"a": X / 0}):
        with pytest.raises(DataError, match="batch 3 of the inputs holds NaN or infinite values"):
            check_finite(batch, 3)
