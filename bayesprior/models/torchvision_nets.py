"""torchvision's networks for classes and for masks, with pretrained weights and a new head."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayesprior.errors import CheckpointError, ConfigError, nearest_name
from bayesprior.models.heads import head_prefix, replace_head
from bayesprior.weights.selection import is_selected
from bayesprior.weights.state_dicts import load_weights, read_state_dict

__all__ = ["torchvision_model", "torchvision_names"]

# Heads that only help training from scratch; those of the checkpoints are not even pretrained.
_AUXILIARY = ("aux1", "aux2", "AuxLogits", "aux_classifier")


def torchvision_model(
    name: str,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = "DEFAULT",
    rename: str | None = None,
) -> nn.Module:
    """Return a torchvision network, pretrained, with a head for the new classes.

    Parameters
    ----------
    name
        As in ``torchvision.models.list_models(module=torchvision.models)``, or of its segmentation
        networks: those return the map of logits (B, C, H, W) alone, not a dictionary.
    num_classes
        Classes of a freshly initialized head; `head_prefix` tells its name. None keeps the head
        that comes with the weights.
    weights
        ``"DEFAULT"`` or another name of torchvision's for this network (downloaded once by
        torchvision), a local file of any layout that `load_weights` reads, or None for a random
        initialization.
    rename
        As of `load_weights`, for a file.

    Returns
    -------
    nn.Module
        In training mode, without auxiliary heads.

    Raises
    ------
    ConfigError
        If the network or the weights' name is unknown.
    CheckpointError
        If the weights cannot be downloaded or read, or do not fit the network.

    Notes
    -----
    The head's entries in the weights are not needed when ``num_classes`` is given, whatever their
    shape. SqueezeNet ends in a ReLU behind its head, so that its logits are never negative; a new
    head is without.

    Examples
    --------
    >>> net = torchvision_model("squeezenet1_1", num_classes=12, weights=None)
    >>> head_prefix(net), net.classifier[1].out_channels
    ('classifier.1', 12)
    """
    from torchvision import models

    known = torchvision_names()
    if name not in known:
        raise ConfigError(f"torchvision has no such network {name!r}{nearest_name(name, known)}")
    of_maps = name in models.list_models(module=models.segmentation)
    local = weights is not None and (
        not re.fullmatch(r"\w+", str(weights)) or Path(weights).is_file()
    )
    if weights is None or local:
        # The pretrained Inceptions take torchvision's normalization and undo it themselves.
        inception = name in ("googlenet", "inception_v3")
        own: dict[str, Any] = {"init_weights": True, "transform_input": local} if inception else {}
        own |= {"weights_backbone": None} if of_maps else {}
        module = models.get_model(name, weights=None, **own)
    else:
        module = _pretrained(name, str(weights))
    for part in _AUXILIARY:
        if getattr(module, part, None) is not None:
            setattr(module, part, None)
    if getattr(module, "aux_logits", False):
        module.aux_logits = False
    if of_maps:
        module.register_forward_hook(_maps)
    if weights is not None and local:
        prefix, state = head_prefix(module), read_state_dict(weights, module)
        head = [t for n, t in state.items() if n.endswith(".weight") and is_selected(n, prefix)]
        if num_classes is None and head:
            replace_head(module, len(head[0]), keep_relu=True)
        ignore = () if num_classes is None else prefix
        load_weights(module, state, ignore=ignore, rename=rename)
    if num_classes is not None:
        replace_head(module, num_classes)
    return module


def torchvision_names() -> list[str]:
    """Return the names of torchvision's networks for classes and for masks."""
    from torchvision import models

    return models.list_models(module=models) + models.list_models(module=models.segmentation)


def _maps(network: nn.Module, inputs: Any, outputs: Any) -> Tensor:
    """Make a call return logits (B, C, H, W)."""
    logits: Tensor = outputs["out"]
    return logits


def _pretrained(name: str, weights: str) -> nn.Module:
    from torchvision import models

    choices = models.get_model_weights(name).__members__
    if weights not in choices:
        raise ConfigError(
            f"{name} has no weights {weights!r}; use one of {', '.join(choices)}, the path of a "
            f"file, or None{nearest_name(weights, choices)}"
        )
    try:
        module: nn.Module = models.get_model(name, weights=choices[weights])
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot fetch the weights {weights} of {name} ({str(error).splitlines()[0]}); "
            f"pass a local file, weights='{name}.pth', or weights=None"
        ) from error
    return module
