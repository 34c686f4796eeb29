"""Names for tensors that another code named: by their order and shapes."""

from collections.abc import Mapping
from itertools import takewhile

from torch import Tensor

__all__ = ["names_by_order"]


def names_by_order(
    found: Mapping[str, Tensor], network: Mapping[str, Tensor]
) -> dict[str, str] | None:
    """Propose the network's names for a file's tensors.

    Both lists are gone through side by side, as long as the shapes agree; counters do not count.
    What is left over must be one layer on each side: the old head, and the new one.

    Parameters
    ----------
    found
        The file's tensors by their names, in its order.
    network
        The network's parameters and buffers, in its order.

    Returns
    -------
    dict or None
        The file's names -> the network's; None if the shapes differ.

    Examples
    --------
    >>> import torch
    >>> names_by_order({"a": torch.ones(2), "z.w": torch.ones(3)}, {"b": torch.zeros(2)})
    {'a': 'b'}
    """
    theirs = [name for name, tensor in found.items() if tensor.is_floating_point()]
    ours = [name for name, tensor in network.items() if tensor.is_floating_point()]
    pairs = list(
        takewhile(
            lambda p: found[p[0]].shape == network[p[1]].shape, zip(theirs, ours, strict=False)
        )
    )
    layers = [{n.rpartition(".")[0] for n in names[len(pairs) :]} for names in (theirs, ours)]
    return None if not pairs or max(map(len, layers)) > 1 else dict(pairs)
