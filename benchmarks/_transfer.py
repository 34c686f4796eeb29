"""What `real_transfer.py` compares: three real tasks, seven methods, one way to fit and score."""

import contextlib
import dataclasses
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprior.data import DataBundle, few_shot, from_npz, split_validation
from bayesprior.errors import DataError, DivergenceError
from bayesprior.inference.protocols import Posterior
from bayesprior.models import SmallConvNet, SmallResNet, torchvision_model
from bayesprior.prediction.predict import predict
from bayesprior.recipes import fit_map, fit_source, fit_swag, make_prior, sample
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

HEAD_STD = 1.0  # prior of every head weight, for every method
MOMENTUM = 0.9

METHODS = {
    "scratch": "random start, weight decay",
    "fine-tuning": "source start, weight decay",
    "L2-SP": "MAP, isotropic around the source",
    "MAP diagonal": "MAP, SWAG diagonal around the source",
    "MAP low-rank": "MAP, SWAG low-rank around the source",
    "SWAG low-rank": "SWAG around that MAP",
    "SGLD low-rank": "sampled with the low-rank prior",
}

Config = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much of everything; one for each task, one for a quick look."""

    size: int
    per_class: int
    num_validation: int
    num_test: int
    source_steps: int
    collect_every: int
    num_steps: int
    batch_size: int
    lrs: tuple[float, ...] = (0.01, 0.03)
    rms_stds: tuple[float, ...] = (0.03, 0.3, 3.0)
    temperatures: tuple[float, ...] = (0.01, 1.0)
    head_temperature: float = 0.01
    num_snapshots: int = 20
    num_draws: int = 15
    selection_seeds: int = 1
    test_seeds: int = 3

    def quick(self) -> "Setting":
        """Return the same in miniature."""
        return dataclasses.replace(
            self,
            num_validation=60,
            num_test=60,
            source_steps=4,
            collect_every=1,
            num_steps=3,
            lrs=self.lrs[:1],
            rms_stds=self.rms_stds[:2],
            num_snapshots=4,
            num_draws=2,
            selection_seeds=1,
            test_seeds=2,
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """A source posterior and a few-shot target."""

    name: str
    text: str
    head: str
    network: Callable[[], nn.Module]  # at random weights
    make_source: Callable[[], GaussianWeights]
    target: DataBundle
    setting: Setting

    def grid(self, method: str) -> list[Config]:
        """Return what to select from: as many and as wide priors for every method."""
        s = self.setting
        if method == "SGLD low-rank":
            pairs = itertools.product(s.temperatures[: len(s.lrs)], s.rms_stds)
            return [{"temperature": t, "rms_std": std} for t, std in pairs]
        return [{"lr": lr, "rms_std": std} for lr, std in itertools.product(s.lrs, s.rms_stds)]

    def draw(self, seed: int) -> DataBundle:
        """Draw the labeled training examples of a seed."""
        return few_shot(self.target, per_class=self.setting.per_class, seed=seed)

    def fit(
        self, method: str, config: Config, source: GaussianWeights, seed: int, folder: Path
    ) -> tuple[nn.Module, Posterior]:
        """Fit a method to the seed's examples."""
        s, data = self.setting, self.draw(seed)
        with _seeded(seed):
            module = self.network()
        options = {"seed": seed, "progress": False, "device": "cpu"}
        common = options | {"batch_size": s.batch_size}
        std = config["rms_std"]
        if method in ("scratch", "fine-tuning"):
            if method == "fine-tuning":
                source.layout.load_(module, source.loc)
            prior = weight_decay(module, self.head, std)
            return module, fit_map(
                module, prior, data, num_steps=s.num_steps, lr=config["lr"], **common
            )
        shape = {"L2-SP": "isotropic", "MAP diagonal": "diagonal"}.get(method, "low-rank")
        prior = make_prior(
            source, module, head=self.head, rms_std=std, head_std=HEAD_STD, shape=shape
        )
        if method == "SWAG low-rank":
            fit: Posterior = fit_swag(
                module,
                prior,
                data,
                num_steps=s.num_steps,
                rank=s.num_snapshots - 1,
                num_snapshots=s.num_snapshots,
                collect_every=max(s.collect_every // 2, 1),
                lr=config["lr"],
                **common,
            )
        elif method == "SGLD low-rank":
            # as fast along flat directions as momentum SGD, and half of what the prior allows
            lr = min(s.lrs) / (1 - MOMENTUM)
            limit = 2 * data.num_data / float(prior.max_precision()[: prior.shared_dim].max())
            fit = sample(
                module,
                prior,
                data,
                out=folder,
                num_draws=s.num_draws,
                chains=1,
                burn_in=s.num_steps,
                thin=max(s.num_steps // s.num_draws, 1),
                lr=min(lr, limit / 2),
                temperature=config["temperature"],
                head_temperature=s.head_temperature,
                **common,
            )
        else:
            fit = fit_map(module, prior, data, num_steps=s.num_steps, lr=config["lr"], **common)
        return module, fit

    def score(
        self, method: str, config: Config, source: GaussianWeights, seed: int, split: str
    ) -> dict[str, float]:
        """Fit and return accuracy, NLL, ECE and Brier score on a split.

        A configuration that diverges on the validation split scores inf, so is not selected.
        """
        loader = self.target.loader(split, 500)
        try:
            with tempfile.TemporaryDirectory() as folder:
                module, fit = self.fit(method, config, source, seed, Path(folder) / "run")
                draws = self.setting.num_draws if isinstance(fit, GaussianWeights) else None
                found = predict(module, fit, loader, Categorical(), num_draws=draws, seed=seed)
        except (DivergenceError, DataError):
            if split == "test":
                raise
            return {"nll": math.inf}
        return {name: float(value) for name, value in found.metrics.items()}


def weight_decay(module: nn.Module, head: str, std: float) -> GaussianWeights:
    """N(0, std^2) on the backbone and N(0, HEAD_STD^2) on the head: no weight has a source.

    With no weight shared with a source, the recipes leave the network where it starts.
    """
    layout = ParameterLayout.from_module(module)
    diag = torch.full((layout.dim,), std**2)
    for name in layout.names:
        if name.startswith(head + "."):
            diag[layout.slice(name)] = HEAD_STD**2
    return GaussianWeights(layout, torch.zeros(layout.dim), diag, torch.zeros(0, 0))


def recentered(law: GaussianWeights, loc: torch.Tensor) -> GaussianWeights:
    """Return the same covariance around other weights."""
    return GaussianWeights(law.layout, loc, law.cov_diag, law.cov_factor, provenance=law.provenance)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _target(bundle: DataBundle, setting: Setting) -> DataBundle:
    bundle = split_validation(bundle, num=setting.num_validation, seed=1)
    if len(bundle.test) > setting.num_test:
        kept = torch.arange(setting.num_test)
        bundle = dataclasses.replace(bundle, test=bundle.test.subset(kept))
    return bundle


def fashion(data_dir: Path, *, quick: bool = False, **changes: Any) -> Task:
    """Fashion-MNIST: tops, trousers, dresses, coats -> shoes, shirts, bags."""
    setting = Setting(
        size=16,
        per_class=10,
        num_validation=400,
        num_test=1000,
        source_steps=400,
        collect_every=10,
        num_steps=100,
        batch_size=50,
        rms_stds=(0.1, 1.0, 10.0),
        selection_seeds=2,
        test_seeds=6,
    )
    setting = dataclasses.replace(setting.quick() if quick else setting, **changes)
    path = data_dir / "fashion_mnist.npz"
    target = from_npz(path, classes=range(5, 10), size=setting.size)

    def source() -> GaussianWeights:
        data = from_npz(path, classes=range(5), size=setting.size, augment="crop")
        with _seeded(0):
            module = SmallConvNet(1, 5)
        return fit_source(module, data, head="head", lr=0.05, **_source_options(setting))

    return Task(
        "fashion",
        "Fashion-MNIST 0-4 -> 5-9 at 16 x 16, 10 images per class (n = 50); SmallConvNet "
        "(GroupNorm). Source: SWAG of the network trained on the 10,000 images of classes 0-4.",
        "head",
        lambda: SmallConvNet(1, 5),
        source,
        _target(target, setting),
        setting,
    )


def flowers(data_dir: Path, *, quick: bool = False, **changes: Any) -> Task:
    """ImageNet -> 12 species of flowers."""
    setting = Setting(
        size=64,
        per_class=5,
        num_validation=180,
        num_test=240,
        source_steps=60,
        collect_every=4,
        num_steps=50,
        batch_size=20,
        lrs=(0.001, 0.003),
        num_draws=10,
    )
    setting = dataclasses.replace(setting.quick() if quick else setting, **changes)
    checkpoint = data_dir / "squeezenet1_1_imagenet.safetensors"
    flower_file = data_dir / "flowers12.npz"
    target = from_npz(flower_file, size=setting.size, normalize="imagenet")

    def network() -> nn.Module:
        return torchvision_model("squeezenet1_1", num_classes=12, weights=None)

    def source() -> GaussianWeights:
        data = from_npz(data_dir / "cifar100.npz", size=setting.size, normalize="imagenet")
        with _seeded(0):
            module = torchvision_model("squeezenet1_1", num_classes=100, weights=checkpoint)
        start = ParameterLayout.from_module(module)
        loc = start.flatten(module)
        options = _source_options(setting) | {"batch_size": 4 if quick else 64}
        law = fit_source(module, data, head="classifier.1", lr=0.005, **options)
        views = start.unflatten(loc)
        return recentered(law, torch.cat([views[n].flatten() for n in law.layout.names]))

    return Task(
        "flowers",
        f"SqueezeNet 1.1, ImageNet checkpoint -> flowers12 at {setting.size} x {setting.size}, 5 "
        "images per class (n = 60). Source mean: the ImageNet checkpoint itself. Source "
        "covariance: SWAG snapshots while that network goes on learning CIFAR-100 (8,000 images, "
        "upsampled, new head), moved to the checkpoint: a proxy, ImageNet is not here.",
        "classifier.1",
        network,
        source,
        _target(target, setting),
        setting,
    )


def cifar(data_dir: Path, *, quick: bool = False, **changes: Any) -> Task:
    """CIFAR-100 -> CIFAR-10."""
    setting = Setting(
        size=32,
        per_class=20,
        num_validation=400,
        num_test=1000,
        source_steps=1500,
        collect_every=10,
        num_steps=50,
        batch_size=50,
        rms_stds=(0.1, 1.0),
        test_seeds=4,
        num_draws=10,
    )
    setting = dataclasses.replace(setting.quick() if quick else setting, **changes)
    target = from_npz(data_dir / "cifar10.npz")

    def source() -> GaussianWeights:
        data = from_npz(data_dir / "cifar100.npz", augment="crop-flip")
        with _seeded(0):
            module = SmallResNet(3, 100)
        return fit_source(module, data, head="head", lr=0.1, **_source_options(setting))

    return Task(
        "cifar",
        "CIFAR-100 -> CIFAR-10, 20 images per class (n = 200); ResNet-8 (GroupNorm). Source: SWAG "
        "of the network trained on 8,000 images of CIFAR-100.",
        "head",
        lambda: SmallResNet(3, 10),
        source,
        _target(target, setting),
        setting,
    )


def _source_options(setting: Setting) -> dict[str, object]:
    return {
        "num_steps": setting.source_steps,
        "num_snapshots": setting.num_snapshots,
        "rank": setting.num_snapshots - 1,
        "collect_every": setting.collect_every,
        "progress": False,
        "device": "cpu",
        "seed": 0,
    }


TASKS = {"fashion": fashion, "flowers": flowers, "cifar": cifar}
FILES = {
    "fashion": ("fashion_mnist.npz",),
    "flowers": ("flowers12.npz", "cifar100.npz", "squeezenet1_1_imagenet.safetensors"),
    "cifar": ("cifar10.npz", "cifar100.npz"),
}
