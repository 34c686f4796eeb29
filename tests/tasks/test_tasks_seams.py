"""A forward and an objective that are made at run time are found everywhere."""

import copy

import pytest
import torch
from torch import nn

from bayesprior.errors import DataError
from bayesprior.inference.collectors import SWAG, DrawsInMemory, DrawWriter, Watching
from bayesprior.inference.engine import train
from bayesprior.inference.posteriors import PointPosterior, StoredDraws
from bayesprior.inference.schedules import constant
from bayesprior.prediction.new_data import NewData
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import Objective, supervised
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.tasks.protocols import dictionary_forward, keyword_forward
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

N = 24


class Tower(nn.Module):
    """Two inputs by keyword, a dictionary of outputs, BatchNorm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, inputs, mask):
        return {"logits": self.head(self.body(inputs * mask)), "hidden": None}


def by_method(module, batch):
    """A forward of one's own: it unpacks another kind of batch and calls parts of the module."""
    return module.head(module.body(batch["x"] * batch["m"])), batch["y"]


def keyword_batches(size=10):
    x, y = 2 + 3 * torch.randn(N, 3), torch.randint(0, 2, (N,))
    rows = zip(x.split(size), y.split(size), strict=True)
    return [{"inputs": x, "mask": torch.ones(3), "labels": y} for x, y in rows]


def renamed(batches):
    return [{"x": b["inputs"], "m": b["mask"], "y": b["labels"]} for b in batches]


class Segmenter(nn.Module):
    """An auxiliary head beside the one that predicts, as torchvision's."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier, self.aux_classifier = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, inputs):
        hidden = self.body(inputs)
        return {"out": self.classifier(hidden), "aux": self.aux_classifier(hidden)}


def map_batches(size=10):
    x, y = 2 + 3 * torch.randn(N, 3, 4, 4), torch.randint(0, 2, (N, 4, 4))
    return list(zip(x.split(size), y.split(size), strict=True))


KEYWORDS = (Tower, keyword_batches, Categorical(), keyword_forward(), {})
OWN = (Tower, lambda: renamed(keyword_batches()), Categorical(), by_method, {})
MAPS = (
    Segmenter,
    map_batches,
    PixelCategorical(),
    dictionary_forward(),
    {"auxiliary": {"aux": 0.5}},
)


@pytest.mark.parametrize(("make", "load", "likelihood", "forward", "more"), [KEYWORDS, OWN, MAPS])
def test_a_forward_trains_re_estimates_predicts_saves_and_reloads(
    tmp_path, make, load, likelihood, forward, more
):
    network, loader = make(), load()
    layout = ParameterLayout.from_module(network)
    prior = GaussianWeights.point(layout, layout.flatten(network), 1.0)
    memory = DrawsInMemory()
    train(
        network,
        supervised(likelihood, forward=forward, **more),
        loader,
        torch.optim.SGD(network.parameters(), lr=0.01),
        constant(),
        6,
        prior=prior,
        num_data=N,
        collectors=[memory, DrawWriter(tmp_path)],
        batch_norm="train",
        progress=False,
    )
    assert len(memory) == 6
    options = {"forward": forward, "keep_maps": True}
    own = predict(network, memory, loader, likelihood, **options)
    disk = predict(make(), StoredDraws(tmp_path), loader, likelihood, **options)
    assert torch.equal(disk.mean_probs, own.mean_probs)  # also of a network that is new
    assert disk.metrics == own.metrics
    again = predict(
        make(), memory, loader, likelihood, batch_norm="reestimate", bn_loader=loader, **options
    )
    assert not torch.allclose(again.mean_probs, own.mean_probs, atol=1e-4)

    fit = PointPosterior.from_module(network)
    fit.save(tmp_path / "map.safetensors")
    loaded = PointPosterior.load(tmp_path / "map.safetensors")
    expected = predict(network, fit, loader, likelihood, **options).mean_probs
    assert torch.equal(predict(make(), loaded, loader, likelihood, **options).mean_probs, expected)
    loaded.bind(NewData(make(), likelihood, forward))
    assert torch.equal(loaded.predict_proba(loader), expected)


def test_the_default_names_the_forward_that_helps():
    network, loader = Tower(), keyword_batches()
    for call in (
        lambda: supervised(Categorical())(network, loader[0]),
        lambda: predict(network, PointPosterior.from_module(network), loader, Categorical()),
    ):
        with pytest.raises(DataError, match=r"dict with inputs, mask, labels; .*keyword_forward"):
            call()


class Follows(Objective):
    """A momentum copy to be near to, with a projector that is trained and a queue."""

    def __init__(self, network):
        super().__init__()
        self.projector = nn.Linear(2, 2)
        self.momentum = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(4))

    def forward(self, module, batch):
        online = self.projector(module(batch))
        self.queue.copy_(torch.cat([self.queue[1:], online.detach().mean()[None]]))
        return (online - self.momentum(batch)).square().mean() - 0.1 * online.std(), {}

    @torch.no_grad()
    def after_step(self, event):
        for mine, theirs in zip(self.momentum.parameters(), event.module.parameters(), strict=True):
            mine.lerp_(theirs, 0.1)


def follow(folder, num_steps, *, stop=None, resume=False, seed=0):
    torch.manual_seed(seed)
    network, loader = nn.Linear(3, 2), list(torch.randn(6, 8, 3))
    objective, swag, draws = Follows(network), SWAG(rank=2), DrawsInMemory()

    def hook(event):
        if event.step == stop:
            raise InterruptedError

    train(
        network,
        objective,
        loader,
        torch.optim.SGD([*network.parameters(), *objective.projector.parameters()], lr=0.05),
        constant(),
        num_steps,
        num_data=48,
        collectors=[Watching(c, module=objective.momentum) for c in (swag, draws)],
        hooks=[hook],
        run_dir=folder,
        resume=resume,
        checkpoint_every=3,
        progress=False,
    )
    return objective, swag.posterior(), draws


def test_an_objective_trains_is_collected_from_and_resumes(tmp_path):
    whole, law, draws = follow(None, 10)
    with pytest.raises(InterruptedError):
        follow(tmp_path, 10, stop=7)
    resumed, law_again, draws_again = follow(tmp_path, 10, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert torch.equal(law.loc, law_again.loc)
    for one, other in zip(draws.draws(), draws_again.draws(), strict=True):
        assert torch.equal(one.weights, other.weights)
    assert law.layout == draws.layout == ParameterLayout.from_module(nn.Linear(3, 2))
    law.save(tmp_path / "source.safetensors")  # a source whose names are the backbone's
    assert GaussianWeights.load(tmp_path / "source.safetensors").layout == law.layout
