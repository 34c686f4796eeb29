"""Self-supervised losses of two views of each example."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesprior.errors import ConfigError, DataError, checked
from bayesprior.tasks.objectives.objective import Objective
from bayesprior.tasks.protocols import Batch

__all__ = ["TwoView", "two_view"]

Criterion = Callable[[Tensor, Tensor], Tensor]


class TwoView(Objective):
    """A self-supervised loss of two views of each example; see `two_view`.

    Parameters
    ----------
    criterion
        ``criterion(z1, z2)``, the scalar mean loss. If it is a module, what it owns is trained
        and kept with the network.
    """

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch of two views, and ``embedding_std``."""
        loss, embeddings = self.compare(module, *_views(batch))
        if loss.dim() != 0:
            raise ConfigError(
                "the self-supervised loss must return a scalar (the mean over the batch), "
                f"got shape {tuple(loss.shape)}; use reduction='mean'"
            )
        with torch.no_grad():
            unit = F.normalize(embeddings.flatten(1), dim=1)
            spread = unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5
        return loss, {"embedding_std": spread}

    def embed(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return what is compared of a batch of images: the network's outputs."""
        return module(images)

    def compare(self, module: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of two views, and the embeddings that it was computed from."""
        embeddings = self.embed(module, torch.cat((first, second)))
        return self.criterion(*embeddings.chunk(2)), embeddings


@checked(ssl_loss="function")
def two_view(ssl_loss: Criterion) -> TwoView:
    """Return a self-supervised loss of two views of each example.

    Both views go through the module in one forward pass (as in SimCLR), so BatchNorm sees them
    together and data-parallel training synchronizes once.

    The loss is no log likelihood: exp(-N loss) is a pseudo-likelihood and the law fitted with it
    a pseudo-posterior, good as a source of priors but without a Bayesian meaning of its own.

    Parameters
    ----------
    ssl_loss
        ``ssl_loss(z1, z2)``, both of shape (B, P), to the scalar mean loss: a function or a
        module such as those of ``lightly.loss``, whose memory is kept with the run.

    Returns
    -------
    TwoView
        A loss function for batches ``(view1, view2)`` or ``((view1, view2), anything)``. Its extra
        scalar ``embedding_std`` is the mean standard deviation of the normalized embeddings times
        sqrt(P): near 1 when they fill the sphere, near 0 when they collapsed.

    References
    ----------
    Chen et al., A Simple Framework for Contrastive Learning, arXiv:2002.05709.
    Chen and He, Exploring Simple Siamese Representation Learning, arXiv:2011.10566, figure 2
    (the collapse measure).

    Examples
    --------
    >>> loss_fn = two_view(torch.nn.functional.mse_loss)
    >>> loss, extras = loss_fn(nn.Identity(), (torch.ones(4, 2), torch.zeros(4, 2)))
    >>> loss.item()
    1.0
    """
    return TwoView(ssl_loss)


def _views(batch: Batch) -> tuple[Tensor, Tensor]:
    views = batch
    if len(batch) and isinstance(batch[0], tuple | list):
        views = batch[0]
    if len(views) != 2 or not all(isinstance(view, Tensor) for view in views):
        raise DataError(
            "a two-view batch must be (view1, view2) or ((view1, view2), label); "
            "wrap the data set so that each example is augmented twice"
        )
    if views[0].shape != views[1].shape:
        raise DataError(
            f"the two views must have one shape, got {tuple(views[0].shape)} and "
            f"{tuple(views[1].shape)}; is this a labeled batch?"
        )
    return views[0], views[1]
