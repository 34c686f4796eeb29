"""Networks of timm, transformers and segmentation-models-pytorch, and the images they expect."""

import importlib
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from bayesprior.errors import CheckpointError, ConfigError, nearest_name
from bayesprior.weights.state_dicts import FoundState

__all__ = [
    "ExpectedImages",
    "expected_images",
    "hf_model",
    "own_names",
    "smp_model",
    "timm_model",
]


class ExpectedImages(NamedTuple):
    """What images a pretrained network was trained on.

    Attributes
    ----------
    size
        Side of the squares in pixels.
    mean, std
        Of each channel of pixels in [0, 1], by which they were normalized.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"networks of {name} need that package ({error}): pip install 'bayesprior[models]'"
        ) from None


def _known(name: str) -> None:
    """Refuse what timm has no network of."""
    timm = _library("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"timm has no network {name!r}{nearest_name(name, timm.list_models())}")


def timm_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Return a network of timm's.

    Parameters
    ----------
    name
        As in ``timm.list_models()``, perhaps with the tag of its weights.
    num_classes
        Outputs; the number that comes with the network by default.
    in_channels
        Channels of the images; timm adapts the first layer's weights.
    weights
        ``"DEFAULT"`` for those that timm's own loader fetches, or None for a random
        initialization.
    **options
        Of ``timm.create_model``.

    Raises
    ------
    ConfigError
        If timm is not installed, or has no such network or weights.
    CheckpointError
        If the weights cannot be fetched.
    """
    _known(name)
    _default_only(f"timm/{name}", weights)
    options |= {"pretrained": weights is not None, "in_chans": in_channels}
    try:
        made: nn.Module = _library("timm").create_model(name, num_classes=num_classes, **options)
    except (OSError, RuntimeError) as error:
        if weights is None:
            raise
        raise _unfetched(f"timm/{name}", error) from error
    return made


def hf_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Return an image classifier of Hugging Face transformers.

    Parameters
    ----------
    name
        ``organization/name`` on the hub, or a local folder with its ``config.json``.
        Its first argument is taken for the pixels; a call returns the logits alone.
    num_classes
        Outputs; the number in the configuration by default.
    in_channels
        Channels of the images; those of the configuration by default.
    weights
        ``"DEFAULT"`` for those of the name, through transformers' own loader, or None for a
        random initialization.
    **options
        Replace entries of the configuration.

    Raises
    ------
    ConfigError
        If transformers is not installed.
    CheckpointError
        If configuration or weights cannot be had.
    """
    transformers = _library("transformers")
    _default_only(f"hf/{name}", weights)
    wanted = {"num_labels": num_classes, "num_channels": in_channels if weights is None else None}
    options |= {key: value for key, value in wanted.items() if value is not None}
    auto = transformers.AutoModelForImageClassification
    try:
        config = transformers.AutoConfig.from_pretrained(name, **options)
        known: dict[str, Any] = {"config": config, "ignore_mismatched_sizes": True}
        network = auto.from_pretrained(name, **known) if weights else auto.from_config(config)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unfetched(f"hf/{name}", error) from error
    network.register_forward_hook(_logits)
    made: nn.Module = network
    return made


def smp_model(
    name: str,
    *,
    num_classes: int = 1,
    in_channels: int = 3,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Return a network for masks of segmentation-models-pytorch's.

    Parameters
    ----------
    name
        Of the architecture, such as ``"unet"`` or ``"deeplabv3plus"``.
    num_classes
        Channels of the map of logits; one gives log odds.
    in_channels
        Channels of the images.
    weights
        ``"DEFAULT"`` for an encoder trained on ImageNet, which the library fetches, or None for a
        random initialization.
    **options
        Of ``segmentation_models_pytorch.create_model``, such as ``encoder_name``.

    Raises
    ------
    ConfigError
        If the library is not installed, or has no such network.
    CheckpointError
        If the weights cannot be fetched.
    """
    _default_only(f"smp/{name}", weights)
    options |= {"in_channels": in_channels, "classes": num_classes}
    options["encoder_weights"] = None if weights is None else "imagenet"
    try:
        made: nn.Module = _library("segmentation_models_pytorch").create_model(name, **options)
    except KeyError as error:
        raise ConfigError(f"smp/{name}: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        raise _unfetched(f"smp/{name}", error) from error
    return made


def own_names(module: nn.Module, state: FoundState) -> FoundState:
    """Rename the entries of a file of transformers' own layout as its networks name them now.

    Parameters
    ----------
    module
        The network; any but transformers' leave the state as it is.
    state
        What a file holds.

    Returns
    -------
    FoundState
        Entries that the network lacks, or has in another shape, are left out.
    """
    ours = module.state_dict()
    if not hasattr(module, "save_pretrained") or 2 * len(ours.keys() & state) > len(ours):
        return state
    told = {"ignore_mismatched_sizes": True, "output_loading_info": True}
    made, info = type(module).from_pretrained(  # type: ignore[attr-defined]
        None, config=module.config, state_dict=dict(state), **told
    )
    absent = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    renamed = FoundState((n, t) for n, t in made.state_dict().items() if n not in absent)
    renamed.source, renamed.where, renamed.stripped = state.source, state.where, state.stripped
    return renamed


def _logits(network: nn.Module, inputs: Any, output: Any) -> Tensor:
    """Make a call with pixels alone return logits (B, C)."""
    logits: Tensor = output.logits
    return logits


def _default_only(name: str, weights: str | None) -> None:
    if weights not in (None, "DEFAULT"):
        raise ConfigError(
            f"no file {str(weights)!r}; for {name} weights are a file, DEFAULT (those that its "
            "library fetches) or nothing"
        )


def _unfetched(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"cannot fetch {name} ({' '.join(str(error).split())[:160]}); give a local file or folder"
    )


def expected_images(name: str) -> ExpectedImages | None:
    """Return what images a network by name expects, from its library's own configuration.

    Parameters
    ----------
    name
        As of `get_model`.

    Returns
    -------
    ExpectedImages or None
        None where nothing is on record, such as for networks of your own.

    Examples
    --------
    >>> expected_images("torchvision/resnet18")
    ExpectedImages(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    """
    if name == "mobilenet_v1":
        return ExpectedImages(224, (0.5,) * 3, (0.5,) * 3)
    library, _, own = name.partition("/")
    if library == "timm":
        _known(own)
        config = _library("timm").get_pretrained_cfg(own)
        return config and ExpectedImages(config.input_size[-1], *_tuples(config.mean, config.std))
    if library == "hf":
        return _of_processor(own)
    return None if ":" in name else _of_torchvision(own or library)


def _of_torchvision(name: str) -> ExpectedImages | None:
    from torchvision import models

    try:
        weights: Any = models.get_model_weights(name)
    except ValueError:
        return None
    default = getattr(weights, "DEFAULT", None)
    preset: Any = default and default.transforms()
    if not hasattr(preset, "mean"):
        return None
    size = getattr(preset, "crop_size", None) or preset.resize_size  # of masks: nothing is cut off
    return ExpectedImages(size[0], *_tuples(preset.mean, preset.std))


def _of_processor(name: str) -> ExpectedImages | None:
    """Read ``preprocessor_config.json``; without one nothing is known."""
    processors = _library("transformers.image_processing_base")
    try:
        config, _ = processors.ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return None
    size = config.get("crop_size") or config.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    if not side or "image_mean" not in config:
        return None
    return ExpectedImages(int(side), *_tuples(config["image_mean"], config["image_std"]))


def _tuples(*values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(number) for number in value) for value in values)


LIBRARIES = {
    "torchvision": "bayesprior.models.torchvision_nets:torchvision_model",
    "timm": f"{__name__}:timm_model",
    "hf": f"{__name__}:hf_model",
    "smp": f"{__name__}:smp_model",
}
"""What stands before the slash in the name of a network of a library's."""
