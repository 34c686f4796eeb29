"""Names by order and shape."""

import pytest
import torch
from torch import nn

from bayesprior.errors import CheckpointError, ConfigError
from bayesprior.models import SmallConvNet
from bayesprior.weights import importers
from bayesprior.weights.renaming import names_by_order
from bayesprior.weights.state_dicts import load_weights


def net(num_classes=3):
    return SmallConvNet(num_classes=num_classes, in_channels=1, widths=(4, 6))


def foreign(source):
    """The same tensors in the same order under another code's names, as conv nets are ported."""
    state = {n: t for n, t in source.state_dict().items() if "num_batches" not in n}
    return {f"block{i:02d}/{n.rpartition('.')[2]}": t for i, (n, t) in enumerate(state.items())}


@pytest.mark.parametrize("num_classes", [3, 7])
def test_a_renaming_is_proposed_and_used(num_classes):
    source, target = net(num_classes), net()
    state = foreign(source)
    with pytest.raises(CheckpointError, match=r"rename='auto' takes block00/wei"):
        load_weights(target, state)
    ignore = () if num_classes == 3 else "head"
    report = load_weights(target, state, ignore=ignore, rename="auto")
    assert report.renamed
    assert "named by order and shape" in report.summary
    for (name, mine), theirs in zip(target.named_parameters(), source.parameters(), strict=True):
        assert torch.equal(mine, theirs) == (not name.startswith("head") or num_classes == 3)
    law = importers.from_state_dict(state, net(), std=0.1, head="head", rename="auto")
    assert torch.equal(
        law.loc, importers.from_state_dict(source.state_dict(), net(), std=0.1, head="head").loc
    )


def test_names_that_fit_are_kept():
    source, target = net(), net()
    assert not load_weights(target, source.state_dict(), rename="auto").renamed
    assert torch.equal(target.head.weight, source.head.weight)


def test_another_network_is_not_renamed():
    state = foreign(net())
    with pytest.raises(CheckpointError, match="shapes in the same order, so rename='auto' cannot"):
        load_weights(
            nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5), nn.Linear(5, 1)), state, rename="auto"
        )
    with pytest.raises(ConfigError, match="rename must be 'auto'"):
        load_weights(net(), state, rename="yes")


def test_two_layers_left_over_are_no_old_head():
    found = {"a.w": torch.ones(2), "b.w": torch.ones(3), "c.w": torch.ones(4)}
    assert names_by_order(found, {"x.w": torch.ones(2), "h.w": torch.ones(5)}) is None
    assert names_by_order(found, {"x.w": torch.ones(2), "y.w": torch.ones(3)}) == {
        "a.w": "x.w",
        "b.w": "y.w",
    }
