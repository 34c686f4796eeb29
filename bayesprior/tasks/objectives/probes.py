"""What features are worth: simple classifiers on top of them, and how they vary."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

__all__ = ["knn_accuracy", "linear_accuracy", "view_statistics"]

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


def view_statistics(first: Float[Tensor, "N P"], second: Float[Tensor, "N P"]) -> dict[str, Tensor]:
    """Return what two views of each image tell of a head's inputs, as ``statistics`` of a law.

    Returns
    -------
    dict
        ``head_inputs.within``, the covariance within images sum_n d_n d_n^T / 2N of differences
        d_n, and ``head_inputs.between``, that of the images' means, both (P, P);
        ``head_inputs.mean`` (P,), and ``head_inputs.rms_norm``, sqrt(mean |phi|^2).

    Examples
    --------
    >>> found = view_statistics(torch.tensor([[0.0], [4.0]]), torch.tensor([[2.0], [4.0]]))
    >>> [round(found[f"head_inputs.{name}"].item(), 3) for name in ("within", "between", "mean")]
    [1.0, 2.25, 2.5]
    """
    first, second = first.double(), second.double()
    apart, means = first - second, (first + second) / 2
    mean = means.mean(0)
    return {
        "head_inputs.within": apart.T @ apart / (2 * len(apart)),
        "head_inputs.between": (means - mean).T @ (means - mean) / len(means),
        "head_inputs.mean": mean,
        "head_inputs.rms_norm": torch.cat((first, second)).square().sum(1).mean().sqrt(),
    }
