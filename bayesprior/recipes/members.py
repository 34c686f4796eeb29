"""The members of a transfer committee: short fits by one trainer, each kept in a file."""

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from bayesprior.data import DataBundle
from bayesprior.errors import DivergenceError
from bayesprior.inference.engine import train
from bayesprior.inference.generators import fold_seed, seeded
from bayesprior.inference.optimizers.whitened_adam import WhitenedAdam
from bayesprior.inference.posteriors import PointPosterior
from bayesprior.inference.schedules import cosine
from bayesprior.inference.strength.features import head_inputs
from bayesprior.inference.strength.head import HeadPrior, map_head
from bayesprior.inference.wrappers import modes_kept
from bayesprior.storage import CHECKPOINT
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised
from bayesprior.tasks.protocols import Forward, pair_forward, to_device
from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.lowrank import LowRankCovariance

__all__ = ["Member", "MemberTask", "Recipe"]

BATCH_SIZE = 16


@dataclass(frozen=True)
class Recipe:
    """How one member is fitted.

    Attributes
    ----------
    lr, head_lr
        Peak rates in the member's units; see `WhitenedAdam`.
    num_steps, warm_up
        Of a cosine to zero.
    head_start
        Factor on the exact MAP head that the fit starts from; 0 starts from zero. A shrunk head
        leaves the features a gradient.
    """

    lr: float
    head_lr: float
    num_steps: int
    warm_up: int = 0
    head_start: float = 0.0


@dataclass(frozen=True, eq=False)
class Member:
    """A fitted member.

    Attributes
    ----------
    name
        Such as ``"map"`` or ``"fold-0"``.
    point
        Its weights.
    loss
        Mean negative log likelihood of its own training examples, as they are.
    """

    name: str
    point: PointPosterior
    loss: float

    def has_learned(self, num_classes: int) -> bool:
        """Whether the fit is better than half of what guessing costs."""
        return math.isfinite(self.loss) and self.loss <= math.log(num_classes) / 2


class MemberTask:
    """A network at its source's weights, the data, and what all members share.

    Parameters
    ----------
    module
        Where members are trained, one after the other.
    data
        The target task.
    prior
        Of all trainable weights; its mean is where members start, its buffers are kept.
    head
        Name of the head's layer.
    head_prior
        The prior's part for the head.
    step_std
        Standard deviation of the backbone's weights in the units of the fold members: that of
        `feature_noise`.
    tensor_std
        The same by tensor, as a share of its rms weight: the unit of the MAP's prior.
    folder
        Where members are kept, and resumed; None keeps them in memory.
    checkpoint_every
        Steps between the checkpoints of a member in the folder.

    Attributes
    ----------
    num_fits, seconds
        Fits that were done or read, and how long each took, by name.
    num_expected
        Fits that are known of, for what the progress says.
    """

    def __init__(
        self,
        module: nn.Module,
        data: DataBundle,
        prior: GaussianWeights,
        *,
        head: str,
        head_prior: HeadPrior,
        step_std: float,
        tensor_std: float,
        forward: Forward = pair_forward,
        folder: Path | None = None,
        seed: int = 0,
        progress: bool = False,
        checkpoint_every: int = 1000,
    ) -> None:
        self.module, self.data, self.prior, self.head = module, data, prior, head
        self.head_prior, self.forward, self.folder = head_prior, forward, folder
        self.step_std, self.tensor_std = step_std, tensor_std
        self.seed, self.progress, self.checkpoint_every = seed, progress, checkpoint_every
        self.num_fits, self.num_expected = 0, 0
        self.seconds: dict[str, float] = {}
        new = set(prior.new_names)
        body = [name for name in prior.layout.names if name not in new]
        variance = torch.full((prior.shared_dim,), step_std**2, dtype=prior.loc.dtype)
        blocks = [b for b in prior.blocks if b.new]
        calibrated = [Block(tuple(body), LowRankCovariance(variance)), *blocks]
        self.units = GaussianWeights.from_blocks(prior.layout, prior.loc, calibrated)
        self.place(PointPosterior(prior.layout, prior.loc, prior.buffers))
        clean = dataclasses.replace(data, train=data.train.without_augmentation())
        self.clean = clean.split("train")
        self.features, labels = head_inputs(
            module, head, self._loader(None, clean=True), forward=forward
        )
        self.labels: Tensor = labels.long()
        self.num_classes = data.num_classes

    @torch.no_grad()
    def place(self, point: PointPosterior) -> None:
        """Put the network at a member's weights and statistics."""
        device = next(self.module.parameters()).device
        point.layout.load_(self.module, point.weights.to(device))
        buffers = dict(self.module.named_buffers())
        for name in buffers.keys() & point.buffers.keys():
            buffers[name].copy_(point.buffers[name])

    def _loader(
        self, rows: Integer[Tensor, " n"] | None, *, clean: bool = False, seed: int = 0
    ) -> Iterable[Any]:
        """Return batches of some training examples: as they are, or shuffled and augmented."""
        train_split = self.clean if clean else self.data.train
        if rows is not None:
            train_split = train_split.subset(rows)
        part = dataclasses.replace(
            self.data, train=train_split, test=None, validation=None, class_names=()
        )
        return part.loader("train", 256 if clean else BATCH_SIZE, shuffle=not clean, seed=seed)

    @torch.no_grad()
    def logits(
        self,
        point: PointPosterior,
        batches: Iterable[Any] | None = None,
        *,
        rows: Tensor | None = None,
    ) -> Float[Tensor, "n C"]:
        """Return a member's logits of training examples (all, or some), or of other batches."""
        self.place(point)
        device = next(self.module.parameters()).device
        loader = self._loader(rows, clean=True) if batches is None else batches
        found = []
        with modes_kept(self.module):
            self.module.eval()
            for batch in loader:
                found.append(self.forward(self.module, to_device(batch, device))[0].cpu())
        return torch.cat(found).double()

    def with_head(
        self, weight: Float[Tensor, "C P"], bias: Float[Tensor, " C"] | None
    ) -> Float[Tensor, " D"]:
        """Return the prior's mean with these weights of the head in it."""
        weights = self.prior.loc.clone()
        for part, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None and f"{self.head}.{part}" in self.prior.layout.slices:
                at = self.prior.layout.slice(f"{self.head}.{part}")
                weights[at] = tensor.reshape(-1).to(weights)
        return weights

    def start(self, rows: Tensor | None, factor: float) -> Float[Tensor, " D"]:
        """Return the prior's mean with a shrunk MAP head of these examples' frozen features."""
        if not factor:
            return self.prior.loc.clone()
        features, labels = self.features, self.labels
        if rows is not None:
            features, labels = features[rows], labels[rows]
        weight, bias = map_head(features, labels, self.num_classes, self.head_prior)
        return self.with_head(factor * weight, None if bias is None else factor * bias)

    def _told(self, name: str) -> str:
        """Say which fit comes, and how long those that are known of take after it."""
        number = self.num_fits + 1
        others = self.num_expected - number
        if others < 0:
            return name
        seconds = self.seconds.values()
        left = f", then {fmean(seconds) * others:.0f} s" if seconds else ""
        return f"{name} ({number} of {self.num_expected}{left})"

    def fit(
        self,
        name: str,
        recipe: Recipe,
        *,
        rows: Integer[Tensor, " n"] | None = None,
        prior: GaussianWeights | None = None,
        confidence: float = 1.0,
        start: Float[Tensor, " D"] | None = None,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
    ) -> Member | None:
        """Fit one member, or read it where it is fitted.

        Parameters
        ----------
        name
            Of its file, and part of its seed.
        recipe
            How.
        rows
            The training examples it sees; all by default.
        prior
            Its prior, whose coordinates are its units; None fits without one, in units of
            calibrated noise.
        confidence
            Factor on the logits that the loss is told at.
        start
            Weights in place of the recipe's start.
        optimizer
            In place of `WhitenedAdam`.

        Returns
        -------
        Member or None
            None if the fit diverged.
        """
        file = None if self.folder is None else self.folder / f"{name}.safetensors"
        run_dir = None if self.folder is None else self.folder / name
        if file is not None and file.is_file():
            point = PointPosterior.load(file)
            self.num_fits += 1
            self.seconds[name] = float(point.provenance.get("seconds", 0.0))
            return Member(name, point, float(point.provenance["loss"]))
        units = self.units if prior is None else prior
        start = self.start(rows, recipe.head_start) if start is None else start

        def whitened(module: nn.Module) -> Optimizer:
            return WhitenedAdam(module, units, lr=recipe.lr, head_lr=recipe.head_lr)

        self.place(PointPosterior(self.prior.layout, start, self.prior.buffers))
        told, began = self._told(name), time.perf_counter()
        self.num_fits += 1  # one that diverges, too
        seed = fold_seed(self.seed, name) >> 1
        device = next(self.module.parameters()).device
        try:
            with seeded(seed, [device]):
                train(
                    self.module,
                    supervised(Categorical(), forward=self.forward),
                    self._loader(rows, seed=seed),
                    (optimizer or whitened)(self.module),
                    cosine(num_steps=recipe.num_steps, warm_up=recipe.warm_up),
                    recipe.num_steps,
                    num_data=self.data.num_data if rows is None else len(rows),
                    prior=prior,
                    run_dir=run_dir,
                    resume=run_dir is not None and (run_dir / CHECKPOINT).exists(),
                    checkpoint_every=self.checkpoint_every,
                    progress=self.progress,
                    description=told,
                )
        except DivergenceError:
            return None
        self.seconds[name] = time.perf_counter() - began
        point = PointPosterior.from_module(self.module, self.prior.layout)
        targets = self.labels if rows is None else self.labels[rows]
        loss = float(F.cross_entropy(confidence * self.logits(point, rows=rows), targets))
        cpu = {n: buffer.cpu() for n, buffer in point.buffers.items()}
        about = {"name": name, "loss": loss, "seconds": self.seconds[name]}
        about |= dataclasses.asdict(recipe)
        point = PointPosterior(point.layout, point.weights.cpu(), cpu, about)
        if file is not None:
            point.save(file)
            shutil.rmtree(run_dir, ignore_errors=True)  # type: ignore[arg-type]
        return Member(name, point, loss)
