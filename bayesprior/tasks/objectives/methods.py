"""The self-supervised objectives of lightly's modules and losses: one row of a table each."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bayesprior.errors import ConfigError, MissingDependencyError, nearest_name
from bayesprior.inference.batch_norm import freeze_batch_norm
from bayesprior.inference.protocols import StepEvent
from bayesprior.inference.wrappers import layer_inputs, modes_kept, only_rows, plain_module
from bayesprior.tasks.objectives.two_view import Criterion, TwoView

__all__ = ["METHODS", "Method", "Momentum", "Projected", "head_features", "self_supervised"]


class Method(NamedTuple):
    """One objective.

    Attributes
    ----------
    projector, predictor
        Names in ``lightly.models.modules.heads``.
    hidden
        Width of the projector's hidden layers as a multiple of the features, as published for
        2048 of them.
    outputs
        Outputs of the projector; None is the hidden width.
    loss
        Name in ``lightly.loss``.
    temperature, ema, queue
        Default options; None where the objective has none.
    """

    projector: str
    hidden: int
    outputs: int | None
    loss: str
    temperature: float | None = None
    ema: float | None = None
    queue: int | None = None
    predictor: str | None = None


METHODS = {
    "simclr": Method("SimCLRProjectionHead", 1, 128, "NTXentLoss", 0.5),
    "moco": Method("MoCoProjectionHead", 1, 128, "NTXentLoss", 0.2, 0.99, 4096),
    "byol": Method(
        *("BYOLProjectionHead", 2, 256, "NegativeCosineSimilarity"),
        ema=0.996,
        predictor="BYOLPredictionHead",
    ),
    "vicreg": Method("VICRegProjectionHead", 4, None, "VICRegLoss"),
    "barlow_twins": Method("BarlowTwinsProjectionHead", 4, None, "BarlowTwinsLoss"),
}
"""By name."""


def head_features(module: nn.Module, head: str | None, images: Tensor) -> Tensor:
    """Return what a network's head is given, shape (B, P), averaged over positions.

    Parameters
    ----------
    module
        The network.
    head
        Name of the head's layer; None takes the network's outputs.
    images
        A batch.

    Raises
    ------
    ConfigError
        If the head is not given one row an example.

    Examples
    --------
    >>> net = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    >>> head_features(net, "1", torch.tensor([[-1.0, 0.0, 2.0]]))
    tensor([[0., 0., 2.]])
    """
    if head is None:
        return only_rows([module(images)], None)
    with layer_inputs(plain_module(module).get_submodule(head)) as given:
        module(images)
    return only_rows(given, head)


class Projected(TwoView):
    """Compares projections of what the head is given; the head itself has no part in it.

    Parameters
    ----------
    criterion
        As of `TwoView`.
    projector
        From features (B, P) to what is compared.
    head
        As of `head_features`.
    """

    def __init__(self, criterion: Criterion, projector: nn.Module, head: str | None) -> None:
        super().__init__(criterion)
        self.projector, self.head = projector, head

    def embed(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return projections (B, E)."""
        return self.projector(head_features(module, self.head, images))


class Momentum(Projected):
    """Compares with projections of a copy of the network that follows it slowly.

    With a predictor the copy's answer to the other view is predicted, both ways (BYOL); without,
    the copy's answers to the second views are the criterion's keys, such as those of a queue that
    ``lightly.loss.NTXentLoss`` keeps (MoCo).

    Parameters
    ----------
    criterion, projector, head
        As of `Projected`.
    network
        Copied as it is; the copy is the attribute ``network``.
    ema
        Share of itself that the copy keeps at a step.
    predictor
        From projections to the copy's.
    frozen
        Whether the copy's BatchNorm statistics stay as they are.

    References
    ----------
    He et al., Momentum Contrast, arXiv:1911.05722; Grill et al., Bootstrap Your Own Latent,
    arXiv:2006.07733.
    """

    def __init__(
        self,
        criterion: Criterion,
        projector: nn.Module,
        head: str | None,
        network: nn.Module,
        ema: float,
        predictor: nn.Module | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__(criterion, projector, head)
        self.predictor, self.ema, self.frozen = predictor, ema, frozen
        self.network, self.keys = copy.deepcopy((network, projector))
        self.network.requires_grad_(False)
        self.keys.requires_grad_(False)

    def train(self, mode: bool = True) -> "Momentum":
        """Set the mode; frozen statistics of the copy stay frozen."""
        super().train(mode)
        if self.frozen:
            freeze_batch_norm(self.network)
        return self

    def compare(self, module: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of two views, and the trained network's projections."""
        if self.predictor is None:
            queries = self.embed(module, first)
            return self.criterion(queries, self._answers(second)), queries
        views = torch.cat((first, second))
        projections = self.embed(module, views)
        one, other = self.predictor(projections).chunk(2)
        of_one, of_other = self._answers(views).chunk(2)
        loss = (self.criterion(one, of_other) + self.criterion(other, of_one)) / 2
        return loss, projections

    @torch.no_grad()
    def _answers(self, views: Tensor) -> Tensor:
        return self.keys(head_features(self.network, self.head, views))

    def after_step(self, event: StepEvent) -> None:
        """Move the copy towards the trained network."""
        from lightly.models.utils import update_momentum

        update_momentum(event.module, self.network, self.ema)
        update_momentum(self.projector, self.keys, self.ema)


def self_supervised(
    name: str,
    module: nn.Module,
    images: Tensor,
    *,
    head: str | None = None,
    temperature: float | None = None,
    projection: int | None = None,
    ema: float | None = None,
    queue: int | None = None,
    frozen: bool = False,
) -> Projected:
    """Return a self-supervised objective for a network, with a projector of its own.

    As in `two_view`, exp(-N loss) is a pseudo-likelihood only.

    Parameters
    ----------
    name
        A key of `METHODS`.
    module
        The network.
    images
        Some images as it takes them; they give the number of features.
    head
        The layer whose inputs are the features; None takes the network's outputs for them.
    temperature, projection, ema, queue
        Of the softmax, outputs of the projector, of the momentum copy, and how many earlier images
        are contrasted with; by default as `METHODS` has them.
    frozen
        Whether BatchNorm statistics stay as they are.

    Raises
    ------
    ConfigError
        If there is no such objective, or the head is not given one row an example.
    MissingDependencyError
        If lightly is not installed.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(f"no objective {name!r}; use {known}{nearest_name(name, METHODS)}")
    try:
        from lightly import loss as losses
        from lightly.models.modules import heads
    except ImportError as error:
        raise MissingDependencyError(
            f"objective {name!r} needs lightly: pip install 'bayesprior[ssl]' ({error})"
        ) from None
    method = METHODS[name]
    with modes_kept(module), torch.no_grad():
        module.eval()
        features = head_features(module, head, images).shape[1]
    hidden = method.hidden * features
    outputs = projection or method.outputs or hidden
    projector = getattr(heads, method.projector)(features, hidden, outputs)
    settings: dict[str, Any] = {}
    if method.temperature is not None:
        settings["temperature"] = temperature or method.temperature
    if method.queue is not None:
        settings["memory_bank_size"] = (queue or method.queue, outputs)
    criterion = getattr(losses, method.loss)(**settings)
    if method.queue is not None:  # lightly leaves its queue out of checkpoints
        for buffer, value in dict(criterion.memory_bank.named_buffers()).items():
            criterion.memory_bank.register_buffer(buffer, value)
    if method.ema is None:
        return Projected(criterion, projector, head)
    predictor = None
    if method.predictor is not None:
        predictor = getattr(heads, method.predictor)(outputs, hidden, outputs)
    share = method.ema if ema is None else ema
    return Momentum(criterion, projector, head, module, share, predictor, frozen)
