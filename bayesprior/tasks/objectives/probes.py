"""What features are worth: simple classifiers on top of them, and how they vary."""

from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

__all__ = ["knn_accuracy", "linear_accuracy"]

_TEMPERATURE = 0.1  # of the neighbors' votes, as usual


def knn_accuracy(
    features: Float[Tensor, "N P"],
    labels: Integer[Tensor, " N"],
    test_features: Float[Tensor, "M P"],
    test_labels: Integer[Tensor, " M"],
    *,
    neighbors: int = 20,
) -> float:
    """Return the accuracy of the nearest neighbors' votes, weighted by cosine similarity.

    References
    ----------
    Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
    arXiv:1805.01978, section 3.4.

    Examples
    --------
    >>> import torch
    >>> corners, kinds = torch.eye(2), torch.tensor([0, 1])
    >>> knn_accuracy(corners, kinds, torch.tensor([[2.0, 1.0], [0.0, 3.0]]), kinds)
    1.0
    """
    bank, right = F.normalize(features, dim=1), 0
    for part, truth in zip(test_features.split(1024), test_labels.split(1024), strict=True):
        closest = (F.normalize(part, dim=1) @ bank.T).topk(min(neighbors, len(bank)))
        votes = part.new_zeros(len(part), int(labels.max()) + 1)
        votes.scatter_add_(1, labels[closest.indices], (closest.values / _TEMPERATURE).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(test_labels)


def linear_accuracy(
    features: Float[Tensor, "N P"],
    labels: Integer[Tensor, " N"],
    test_features: Float[Tensor, "M P"],
    test_labels: Integer[Tensor, " M"],
) -> float:
    """Return the accuracy of a logistic regression on standardized features: a linear probe."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(features.numpy(), labels.numpy())
    return float(probe.score(test_features.numpy(), test_labels.numpy()))
