"""Each seam through the recipes: fit a source, make a prior, fit, predict, read the folder back."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprior as bp
from bayesprior.data import as_bundle
from bayesprior.inference.collectors import SWAG, DrawsInMemory, Watching
from bayesprior.inference.protocols import Draw
from bayesprior.inference.schedules import constant
from bayesprior.tasks.objectives import Objective
from bayesprior.tasks.protocols import dictionary_forward, keyword_forward
from bayesprior.weights.blocks import Block
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance

N, QUICK = 24, {"device": "cpu", "progress": False}
SOURCE = {"rank": 2, "num_steps": 4, "num_snapshots": 4, "collect_every": 1, "batch_size": 8}
MAP = {"num_steps": 4, "batch_size": 8}
SWAG_FIT = {"rank": 2, "num_snapshots": 3, "collect_every": 1, "num_steps": 3, "batch_size": 8}
CHAINS = {"chains": 2, "num_draws": 2, "burn_in": 1, "thin": 1, "batch_size": 8, "lr": 1e-4}


class Tower(nn.Module):
    """Keywords in, a dictionary out, two heads."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head, self.extra = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return {"logits": self.head(hidden) + self.extra(hidden), "hidden": hidden}


class Maps(nn.Module):
    """A class map under "out"."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, inputs):
        return {"out": self.head(self.body(inputs))}


class Plain(nn.Module):
    """A tensor in, a tensor out."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs))


def rows():
    return [{"inputs": 2 + torch.randn(3), "labels": i % 2} for i in range(N)]


def pairs(*shape):
    return 2 + torch.randn(N, 3, *shape), torch.arange(N) % 2


def maps():
    return list(zip(pairs(4, 4)[0], torch.randint(0, 2, (N, 4, 4)), strict=True))


def loader():
    return DataLoader(TensorDataset(*pairs()), batch_size=5, shuffle=True)


CASES = {
    "dictionaries and two heads": (Tower, rows, None, keyword_forward(), ("head", "extra")),
    "out": (Maps, maps, bp.PixelCategorical(), dictionary_forward(), "head"),
    "loader": (Plain, loader, None, None, "head*"),
}


@pytest.mark.parametrize("name", CASES)
def test_from_source_to_a_folder_that_is_read_back(name, tmp_path):
    make, data, likelihood, forward, head = CASES[name]
    task = data()
    asked = {"likelihood": likelihood} | ({} if forward is None else {"forward": forward})
    asked |= QUICK
    source = bp.fit_source(make(), task, head=head, out=tmp_path / "source", **SOURCE, **asked)
    assert not any(n.startswith(("head", "extra")) for n in source.layout.names)
    source = bp.GaussianWeights.load(tmp_path / "source" / "source.safetensors")
    network = make()
    prior = bp.make_prior(source, network, head=head, rms_std=0.1)
    assert all(n.startswith(("head", "extra")) for n in prior.new_names)
    fits = {
        "map": lambda net, out: bp.fit_map(net, prior, task, out=out, **MAP, **asked),
        "swag": lambda net, out: bp.fit_swag(
            net, prior, task, out=out, batch_norm="train", **SWAG_FIT, **asked
        ),
        "sgld": lambda net, out: bp.sample(net, prior, task, out=out, **CHAINS, **asked),
    }
    batches = as_bundle(task).loader("train", 8)
    scored = likelihood or bp.Categorical()
    given = {} if forward is None else {"forward": forward}
    for method, fit in fits.items():
        network = make()
        found = fit(network, tmp_path / method)
        own = bp.predict(network, found, batches, scored, keep_maps=True, **given)
        assert torch.isfinite(own.log_likelihood).all()
        again = bp.predict(
            network,
            found,
            batches,
            scored,
            batch_norm="reestimate",
            bn_loader=batches,
            keep_maps=True,
            **given,
        )
        assert torch.isfinite(again.log_likelihood).all()
        run = bp.load_run(tmp_path / method, network=make(), data=task, **asked_of(given, scored))
        read = bp.predict(run.module, run.posterior, batches, scored, keep_maps=True, **given)
        torch.testing.assert_close(read.mean_probs, own.mean_probs, rtol=0, atol=0)
        assert run.prior.layout == prior.layout


def asked_of(given, likelihood):
    return given | ({} if isinstance(likelihood, bp.Categorical) else {"likelihood": likelihood})


def of_blocks(network):
    """Body and norm in a block each, the head's rows with a covariance that they share."""
    layout = bp.ParameterLayout.from_module(network)
    size = {n: layout.slice(n).stop - layout.slice(n).start for n in layout.names}

    def low_rank(names, std, rank):
        dim = sum(size[n] for n in names)
        return Block(
            names, LowRankCovariance(torch.full((dim,), std**2), 0.01 * torch.randn(rank, dim))
        )

    root = torch.linalg.cholesky(torch.eye(6) + 0.5)
    blocks = [
        low_rank(("body.0.bias", "body.0.weight"), 0.1, 2),
        low_rank(("body.1.weight", "body.1.bias"), 0.2, 1),
        Block(("head.weight",), RowCovariance(root, count=2), new=True),
        Block(("head.bias",), LowRankCovariance(torch.ones(2), torch.zeros(0, 2)), new=True),
    ]
    return bp.GaussianWeights.from_blocks(layout, layout.flatten(network), blocks)


def test_blocks_and_a_row_covariance(tmp_path):
    network, task = Plain(), as_bundle(TensorDataset(*pairs()))
    prior = of_blocks(network)
    prior.save(tmp_path / "prior.safetensors")
    law = bp.GaussianWeights.load(tmp_path / "prior.safetensors")
    assert [block.names for block in law.blocks] == [block.names for block in prior.blocks]
    wide = law.rescale(rms_std=0.3, select="body.0.*")
    for method, options in (("map", MAP), ("swag", SWAG_FIT), ("sgld", CHAINS)):
        recipe = {"map": bp.fit_map, "swag": bp.fit_swag, "sgld": bp.sample}[method]
        net = Plain()
        fit = recipe(net, wide, task, out=tmp_path / method, **options, **QUICK)
        own = bp.predict(net, fit, task.loader("train", 8), bp.Categorical())
        run = bp.load_run(tmp_path / method, network=Plain(), data=task)
        read = bp.predict(run.module, run.posterior, task.loader("train", 8), bp.Categorical())
        assert torch.equal(read.mean_probs, own.mean_probs)
        assert [block.names for block in run.prior.blocks] == [b.names for b in prior.blocks]


class Momentum(Objective):
    """A loss that owns a slow copy of the network and a trained projector."""

    def __init__(self, network):
        super().__init__()
        self.projector = nn.Linear(2, 2)
        self.slow = copy.deepcopy(network).requires_grad_(False)

    def forward(self, module, batch):
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        gap = self.projector(module(inputs)) - self.slow(inputs)
        return gap.square().mean(), {}

    @torch.no_grad()
    def after_step(self, event):
        for mine, theirs in zip(self.slow.parameters(), event.module.parameters(), strict=True):
            mine.lerp_(theirs, 0.2)


def test_the_law_of_a_momentum_network_becomes_a_prior(tmp_path):
    network, task = Plain(), as_bundle(TensorDataset(*pairs()))
    objective, swag = Momentum(network), SWAG(rank=2)
    bp.train(
        network,
        objective,
        task.loader("train", 8),
        torch.optim.SGD([*network.parameters(), *objective.projector.parameters()], lr=0.05),
        constant(),
        8,
        num_data=N,
        collectors=[Watching(swag, module=objective.slow)],
        progress=False,
    )
    source = swag.posterior()
    source.save(tmp_path / "source.safetensors")
    source = bp.GaussianWeights.load(tmp_path / "source.safetensors")
    prior = bp.make_prior(source, Plain(), head="head", rms_std=0.1)
    slow = bp.ParameterLayout.from_module(network).flatten(objective.slow)
    assert not torch.equal(slow, bp.ParameterLayout.from_module(network).flatten(network))
    fit = bp.fit_map(Plain(), prior, task, **MAP, **QUICK)
    assert torch.isfinite(fit.weights).all()


def test_weighted_and_sharpened_draws_are_honored_in_memory_and_on_disk(tmp_path):
    network, task = Plain(), as_bundle(TensorDataset(*pairs()))
    layout = bp.ParameterLayout.from_module(network)
    draws = [
        Draw(0, 0, layout.flatten(Plain()), layout=layout, weight=3.0, confidence=2.0),
        Draw(0, 1, layout.flatten(Plain()), layout=layout, weight=1.0, confidence=0.5),
    ]
    batches = task.loader("train", 8)
    mixed = bp.predict(network, DrawsInMemory(draws), batches, bp.Categorical())
    inputs = torch.cat([batch[0] for batch in batches])
    expected = 0
    for draw, share in zip(draws, (0.75, 0.25), strict=True):
        layout.load_(network, draw.weights)
        logits = network.eval()(inputs).detach().double()
        expected = expected + share * (draw.confidence * logits).softmax(1)
    torch.testing.assert_close(mixed.mean_probs, expected, rtol=1e-5, atol=1e-6)
    from bayesprior.inference.posteriors import save_draw

    for draw in draws:
        save_draw(tmp_path / "chain-00", layout, draw)
    stored = bp.predict(network, bp.StoredDraws(tmp_path), batches, bp.Categorical())
    assert torch.equal(stored.mean_probs, mixed.mean_probs)
