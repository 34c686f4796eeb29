"""Networks by name."""

from typing import Any

from torch import nn

from bayesprior.errors import ConfigError, nearest_name
from bayesprior.registry import call

__all__ = ["MODELS", "get_model"]

MODELS = {
    "small_conv": "bayesprior.models.small:SmallConvNet",
    "small_resnet": "bayesprior.models.small:SmallResNet",
    "mlp": "bayesprior.models.small:MLP",
    "mobilenet_v1": "bayesprior.models.mobilenet:mobilenet_v1",
}
"""Short names of our own networks; torchvision's go by torchvision's names."""


def get_model(name: str, **options: Any) -> nn.Module:
    """Return a network by short name, torchvision's name, or import path.

    Parameters
    ----------
    name
        A key of `MODELS`, a torchvision classification network, or ``"pkg.module:callable"``.
    **options
        Passed on, such as ``num_classes=``, or ``weights=`` of `torchvision_model`.

    Raises
    ------
    ConfigError
        If the name or an option is unknown (the message has the nearest valid one), a required
        option is missing, or the callable returns something else than a module.
    CheckpointError
        If weights cannot be loaded.

    Examples
    --------
    >>> get_model("mlp", in_features=2, num_classes=3, widths=(8,)).head
    Linear(in_features=8, out_features=3, bias=True)
    """
    if name in MODELS or ":" in name:
        module = call("model", name, MODELS, options)
    else:
        from torchvision import models

        networks = models.list_models(module=models)
        if name not in networks:
            raise ConfigError(
                f"no model {name!r}; use one of {', '.join(MODELS)}, a torchvision classification "
                "network, or an import path 'pkg.module:callable'"
                + nearest_name(name, [*MODELS, *networks])
            )
        path = "bayesprior.models.torchvision_nets:torchvision_model"
        module = call("model", name, {name: path}, {"name": name, **options})
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model {name!r} gave {type(module).__name__}, not a torch module")
    return module
