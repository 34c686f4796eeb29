"""Weight files as training scripts write them: one row a layout, one network for all."""

import argparse
import json
import pathlib
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from bayesprior.errors import BayesPriorError, CheckpointError, PriorFileError
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.importers import from_state_dict
from bayesprior.weights.state_dicts import load_weights


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.deep = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.ReLU())
        self.fc = nn.Linear(4, num_classes)


def random_state(net=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    state = (net or Net()).state_dict()
    return {
        n: torch.randn(t.shape, generator=g) if t.is_floating_point() else t.clone()
        for n, t in state.items()
    }


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


STATE, OTHER = random_state(), random_state(seed=1)
BODY = {n: t for n, t in STATE.items() if not n.startswith("fc.")}
MOMENTS = {"state": {0: {"step": torch.ones(1), "exp_avg": torch.ones(2, 1, 3, 3)}}}
ARGS = argparse.Namespace(lr=np.float64(0.1), out=pathlib.Path("out"), arch="net")
EXTRA = {"projector.0.weight": torch.ones(7, 4), "queue": torch.ones(5)}


def half(kind):
    return {n: t.to(kind) if t.is_floating_point() else t for n, t in STATE.items()}


def back(state):
    return {n: t.float() if t.is_floating_point() else t for n, t in state.items()}


def write_shards(path):
    names = list(STATE)
    shards = {n: f"part-{1 + (i > 3)}.safetensors" for i, n in enumerate(names)}
    for shard in set(shards.values()):
        save_file({n: STATE[n] for n in names if shards[n] == shard}, path.parent / shard)
    path.write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def old_norm():
    return nn.Sequential(weight_norm(nn.Linear(3, 2)), nn.Linear(2, 2))


def new_norm():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.Linear(2, 2))


NORMED = random_state(new_norm())
OLD_NORMED = {
    n.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    ): t
    for n, t in NORMED.items()
}


class Layout(NamedTuple):
    """A file as a project writes it, and what comes out."""

    file: str
    content: Any
    """Saved by torch, or a function that writes the file."""
    stripped: str = ""
    where: str = ""
    state: Any = STATE
    """What the network then holds, and the law around it."""
    missing: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    network: Any = Net


LAYOUTS = {
    "plain": ("a.pth", STATE, "", ""),
    "imagenet example": (
        "checkpoint.pth.tar",
        {"epoch": 9, "state_dict": under("module.", STATE), "optimizer": MOMENTS},
        "module.",
        "state_dict",
    ),
    "best_acc as a NumPy scalar": (
        "b.pth",
        {"state_dict": STATE, "best_acc1": np.float64(71.3), "n": np.int64(3)},
        "",
        "state_dict",
    ),
    "arguments as a Namespace": ("c.pth", {"model": STATE, "args": ARGS}, "", "model"),
    "lightning": (
        "last.ckpt",
        {"state_dict": under("model.", STATE), "epoch": 1, "optimizer_states": [MOMENTS]},
        "model.",
        "state_dict",
    ),
    "compiled": ("d.pt", under("_orig_mod.", STATE), "_orig_mod.", ""),
    "compiled and parallel": (
        "e.pt",
        under("module._orig_mod.", STATE),
        "module._orig_mod.",
        "",
    ),
    "moco": (
        "moco.pth.tar",
        {
            "state_dict": under("module.encoder_q.", STATE)
            | under("module.encoder_k.", OTHER)
            | {"module.queue": torch.ones(4, 4)}
        },
        "module.encoder_q.",
        "state_dict",
    ),
    "dino": (
        "dino.pth",
        {
            "student": under("module.backbone.", OTHER),
            "teacher": under("backbone.", STATE),
            "dino_loss": {"center": torch.ones(1, 5)},
        },
        "backbone.",
        "teacher",
    ),
    "averaged first or last": (
        "timm.pth",
        {"state_dict": OTHER, "state_dict_ema": STATE, "arch": "net"},
        "",
        "state_dict_ema",
    ),
    "only ema": ("f.pth", {"ema": STATE, "step": 3}, "", "ema"),
    "net": ("g.pth", {"net": STATE, "acc": 93.1}, "", "net"),
    "weights": ("h.bin", {"weights": STATE}, "", "weights"),
    "model_state": ("i.pyth", {"model_state": STATE}, "", "model_state"),
    "vissl": (
        "j.torch",
        {"classy_state_dict": {"base_model": {"model": {"trunk": under("_feature.", STATE)}}}},
        "_feature.",
        "classy_state_dict.base_model.model.trunk",
    ),
    "averaged model": (
        "k.pt",
        {"n_averaged": torch.tensor(5)} | under("module.", STATE),
        "module.",
        "",
    ),
    "extras": ("l.pth", STATE | EXTRA, "", ""),
    "a decoder larger than the network": (
        "mae.pth",
        {"model": STATE | {f"decoder.{i}.weight": torch.ones(4, 4) for i in range(40)}},
        "",
        "model",
    ),
    "teacher and student side by side": (
        "n.pth",
        under("student.backbone.", OTHER) | under("teacher.backbone.", STATE),
        "teacher.backbone.",
        "",
    ),
    "swag's own class": (
        "swag.pt",
        {"mean": torch.ones(36), "sq_mean": torch.ones(36), "subspace.rank": torch.ones(1)}
        | {"subspace.cov_mat_sqrt": torch.ones(2, 36)}
        | under("base_model.", STATE),
        "base_model.",
        "",
    ),
    "without batch counts": (
        "m.pth",
        {n: t for n, t in STATE.items() if "num_batches" not in n},
        "",
        "",
    ),
    "only timm's average": ("o.pth", {"state_dict_ema": STATE, "epoch": 3}, "", "state_dict_ema"),
    "without its head": ("vicreg.pth", BODY, "", "", BODY, ("fc.weight", "fc.bias")),
    "safetensors of another suffix": ("weights.bin", partial(save_file, STATE)),
    "shards": ("model.safetensors.index.json", write_shards),
    "float16": (
        *("p.pth", half(torch.float16), "", ""),
        *(back(half(torch.float16)), (), ("float16",)),
    ),
    "bfloat16": (
        *("q.pth", half(torch.bfloat16), "", ""),
        *(back(half(torch.bfloat16)), (), ("bfloat16",)),
    ),
    "weight norm, old": ("r.pth", OLD_NORMED, "", "", NORMED, (), (), new_norm),
    "weight norm, new": ("s.pth", NORMED, "", "", NORMED, (), (), new_norm),
}


def equal(a, b, names=None):
    return all(torch.equal(a[n], b[n]) for n in names or b if not n.endswith("num_batches_tracked"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(tmp_path, layout):
    row = Layout(*LAYOUTS[layout])
    path, stripped = tmp_path / row.file, row.stripped
    row.content(path) if callable(row.content) else torch.save(row.content, path)
    net, said = row.network(), pytest.warns(UserWarning, match="not in the file: fc")
    with said if row.missing else nullcontext():
        report = load_weights(net, path)
    assert equal(net.state_dict(), row.state)
    assert (report.stripped, report.where) == (stripped, row.where)
    assert (report.missing, report.converted) == (row.missing, row.converted)
    assert str(path) in report.summary
    assert (
        f"'{stripped}' cut off" in report.summary if stripped else "cut off" not in report.summary
    )
    with said if row.missing else nullcontext():
        law = from_state_dict(path, row.network(), std=0.1)
    params = dict(net.named_parameters())
    assert params.keys() == {*law.layout.names, *row.missing}
    assert torch.equal(law.mean, law.layout.flatten_tensors(params[n] for n in law.layout.names))
    buffers = dict(net.named_buffers())
    assert buffers.keys() - {"norm.num_batches_tracked"} <= law.buffers.keys()
    assert all(torch.equal(law.buffers[n], buffers[n]) for n in law.buffers)
    assert json.loads(json.dumps(law.provenance))["imported"]["where"] == row.where


def write_old(path):
    torch.save(STATE, path, _use_new_zipfile_serialization=False)


NO_LAW = "is no readable safetensors file .*with --weights"
REFUSED = {
    "a callback's pickled module": ("swag.ckpt", Net(), load_weights, "holds a .*Net .*need code"),
    "torch's archive for a prior": ("a.pth", STATE, None, NO_LAW),
    "an old pickle for a prior": ("b.pth", write_old, None, NO_LAW),
    "safetensors for a prior": (
        *("timm.safetensors", partial(save_file, STATE), None),
        "not a 'bayesprior.gaussian' file .*with --weights",
    ),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_layout_that_is_refused(tmp_path, layout):
    """Code is not run, and weights alone are no law: the line says what to do with them."""
    name, content, read, message = REFUSED[layout]
    is_written = callable(content) and not isinstance(content, nn.Module)
    content(tmp_path / name) if is_written else torch.save(content, tmp_path / name)
    with pytest.raises((CheckpointError, PriorFileError), match=message) as caught:
        GaussianWeights.load(tmp_path / name) if read is None else read(Net(), tmp_path / name)
    assert "\n" not in str(caught.value)


MLP = {
    f"fc.{i}.{n}": torch.ones(*s) for i in (0, 2) for n, s in (("weight", (4, 4)), ("bias", [4]))
}
HEADS = {
    "none": BODY,
    "old": BODY | {"fc.weight": torch.ones(9, 4), "fc.bias": torch.ones(9)},
    "of another name": BODY | {"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)},
    "a projection": {"state_dict": under("module.encoder_q.", BODY | MLP)},
}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_is_left_out_where_it_is_old_or_missing(head):
    net, left = Net(), HEADS[head]
    before = net.fc.weight.clone()
    with pytest.warns(UserWarning, match=r"not in the file: fc \(2\)"):
        report = load_weights(net, left, "vicreg.pth")
    assert equal(net.state_dict(), BODY)
    assert torch.equal(net.fc.weight, before)
    assert report.missing == ("fc.weight", "fc.bias")
    law = from_state_dict(left, net, std=0.1, head="fc")
    assert law.layout.names == tuple(n for n, _ in Net().named_parameters() if "fc" not in n)


def test_two_heads_at_once():
    """A distilled transformer's: the file's 1,000 classes fit neither."""
    net = nn.ModuleDict({"body": nn.Linear(3, 3), "head": nn.Linear(3, 2), "dist": nn.Linear(3, 2)})
    state = random_state(net) | {"head.weight": torch.ones(9, 3), "dist.weight": torch.ones(9, 3)}
    state |= {"head.bias": torch.ones(9), "dist.bias": torch.ones(9)}
    report = load_weights(net, state, ignore=["head", "dist"])
    assert report.taken == ("body.weight", "body.bias")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_gives_a_law_in_single_precision(kind):
    state = {n: t.to(kind) if t.is_floating_point() else t for n, t in STATE.items()}
    law = from_state_dict(state, Net(), std=1e-4)
    assert law.mean.dtype == law.cov_diag.dtype == torch.float32
    assert law.buffers["norm.running_mean"].dtype == torch.float32
    assert law.provenance["imported"]["converted"] == [str(kind).removeprefix("torch.")]
    assert from_state_dict(STATE, Net().to(kind), std=1e-4).mean.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("make", [old_norm, new_norm])
@pytest.mark.parametrize("into", [old_norm, new_norm])
def test_weight_norm_of_either_kind(make, into):
    torch.manual_seed(0)
    source, target, x = make(), into(), torch.randn(4, 3)
    load_weights(target, source.state_dict())
    assert torch.equal(source(x), target(x))


def test_old_names_of_densenet():
    from torchvision.models import densenet121

    with torch.device("meta"):
        shapes = densenet121().state_dict()
    state = {n: torch.ones(t.shape) for n, t in shapes.items() if not n.endswith("tracked")}
    old = {n.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): t for n, t in state.items()}
    assert old.keys() != state.keys()
    net = densenet121()
    assert not load_weights(net, old).missing
    assert net.features.denseblock1.denselayer1.norm1.weight.eq(1).all()


def test_tied_weights_come_under_one_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.embed.weight

    net, weight = Tied(), torch.randn(5, 3)
    assert not load_weights(net, {"embed.weight": weight}).missing
    assert torch.equal(net.out.weight, weight)


def test_a_real_attribute_called_module_survives():
    net = nn.ModuleDict({"module": Net()})
    report = load_weights(net, under("module.", STATE))
    assert report.stripped == ""
    assert equal(net["module"].state_dict(), STATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv.weight": torch.ones(2, 3, 3, 3)}, r"conv.weight is \(2, 1, 3, 3\) here and \(2, 3"),
        (
            {"conv.weight": None, "conv.wieght": torch.ones(2, 1, 3, 3)},
            r"only here: conv.weight; did",
        ),
        ({"norm.running_mean": None}, "only here: norm.running_mean"),
        ({n: None for n in list(STATE)[3:]}, "has 3 of 8 parameters"),
        ({"conv.weight": torch.ones(2, 1, 3, 3, device="meta")}, "no values"),
        ({"conv.weight": torch.ones(2, 2).to_sparse()}, "sparse or quantized"),
        ({"norm.weight": None, "norm.weight_sq_mean": torch.ones(2)}, "from_swa_gaussian"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(changes, message):
    net = Net()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    state = {n: t for n, t in (STATE | changes).items() if t is not None}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(net, state, "file.pth")
    assert "\n" not in str(caught.value)
    assert equal(net.state_dict(), before)


def test_a_hook_of_the_network_that_fails_is_one_line_and_nothing_changes():
    def refuse(*_):
        raise ValueError("old\nlayout")

    net = nn.Sequential(nn.Linear(2, 2))
    state = {name: tensor + 1 for name, tensor in net.state_dict().items()}
    before = net[0].weight.clone()
    handle = net.register_load_state_dict_pre_hook(refuse)
    for read in (load_weights, lambda net, state: from_state_dict(state, net, std=0.1)):
        with pytest.raises(BayesPriorError, match="does not fit Sequential: old layout") as caught:
            read(net, state)
        assert "\n" not in str(caught.value)
        assert torch.equal(net[0].weight, before)
    handle.remove()
