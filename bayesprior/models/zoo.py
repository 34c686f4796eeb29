"""Networks by name."""

import contextlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from bayesprior.errors import ConfigError, checked, nearest_name
from bayesprior.inference.generators import seeded
from bayesprior.models.heads import head_prefix, num_outputs, replace_head
from bayesprior.models.libraries import LIBRARIES, own_names
from bayesprior.models.torchvision_nets import torchvision_names
from bayesprior.registry import call, resolve
from bayesprior.weights.selection import is_selected
from bayesprior.weights.state_dicts import LoadReport, load_weights, read_state_dict

__all__ = ["MODELS", "TaskModel", "get_model", "model_for"]

MODELS = {
    "small_conv": "bayesprior.models.small:SmallConvNet",
    "small_resnet": "bayesprior.models.small:SmallResNet",
    "mlp": "bayesprior.models.small:MLP",
    "mobilenet_v1": "bayesprior.models.mobilenet:MobileNetV1",
}
"""Short names of our own networks; torchvision's go by torchvision's names."""


@checked(name="text")
def get_model(name: str, *, trusted: bool = True, **options: Any) -> nn.Module:
    """Return a network by short name, a library's name, or import path.

    Parameters
    ----------
    name
        A key of `MODELS`; ``"torchvision/NAME"`` (or the bare name), ``"timm/NAME"`` or
        ``"hf/NAME"`` of an image classifier of these libraries; or ``"pkg.module:callable"``, such
        as ``"pkg.module:Class.method"``.
    trusted
        Whether the user wrote the name; an import path out of a file is refused otherwise.
    **options
        Passed on, such as ``num_classes=``, or ``weights=`` of `torchvision_model`. Weights that
        are a file of yours are loaded into whatever network the callable makes, without their head
        where ``num_classes=`` asks for another.

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
    table, of_library = _table(name)
    file = None
    if of_library:
        options = {"name": name.removeprefix(f"{of_library}/"), **options}
    if of_library != "torchvision" and _is_file(options.get("weights")):
        file = options.pop("weights")
    try:
        module = call("model", name, table, options, trusted=trusted)
    except ConfigError as error:
        if options.get("weights") is None or not isinstance(error.__cause__, KeyError):
            raise
        raise ConfigError(
            f"model {name!r} has no weights {options['weights']!r}, and there is no such file"
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model {name!r} gave {type(module).__name__}, not a torch module")
    if file is not None:
        head = None
        if "num_classes" in options:
            with contextlib.suppress(ConfigError):  # not every network has a head that we find
                head = head_prefix(module)
        _load(module, file, head)
    return module


def _table(name: str) -> tuple[Mapping[str, str], str]:
    """Return the table in which a name is looked up, and the library that it belongs to."""
    library = name.partition("/")[0]
    if "/" in name and library in LIBRARIES:
        return {name: LIBRARIES[library]}, library
    if name in MODELS or ":" in name:
        return MODELS, ""
    networks = torchvision_names()
    if name not in networks:
        raise ConfigError(
            f"no model {name!r}; use one of {', '.join(MODELS)}, a network of torchvision's, "
            "timm/NAME, hf/NAME, smp/NAME, or an import path 'pkg.module:callable'"
            + (nearest_name(name, MODELS) or nearest_name(name, networks))
        )
    return {name: LIBRARIES["torchvision"]}, "torchvision"


def _load(
    module: nn.Module, file: str | Path, head: str | None, rename: str | None = None
) -> LoadReport:
    """Load a file without its head where that is another one than the network's."""
    state = own_names(module, read_state_dict(file, module))
    mine = {n: t.shape for n, t in module.state_dict().items() if is_selected(n, head or ())}
    fits = all(n in state and state[n].shape == shape for n, shape in mine.items())
    ignore = () if head is None or fits else head
    return load_weights(module, state, ignore=ignore, rename=rename)


class TaskModel(NamedTuple):
    """A network shaped for a task.

    Attributes
    ----------
    module
        The network.
    head
        Name of its head's layer.
    loaded
        What came out of a file of weights, if one was given.
    """

    module: nn.Module
    head: str
    loaded: LoadReport | None = None


def model_for(
    name: str,
    *,
    num_classes: int,
    input_shape: Sequence[int],
    weights: str | Path | None = None,
    rename: str | None = None,
    head: str | None = None,
    seed: int = 0,
    trusted: bool = True,
    options: Mapping[str, Any] | None = None,
) -> TaskModel:
    """Return a network shaped for a task.

    Parameters
    ----------
    name
        As of `get_model`.
    num_classes, input_shape
        Of the task: passed on as ``num_classes``, ``in_channels`` and ``in_features`` where the
        callable takes them (``num_classes`` also where it takes any keyword).
    weights
        A file, or a name of torchvision's such as DEFAULT. Their head is kept only if it has as
        many outputs as there are classes.
    rename
        ``"auto"`` gives a file's tensors the network's names, by order and shape (`load_weights`).
    head
        Name of the head's layer; `head_prefix` by default.
    seed
        Of the random initialization; torch's global state is left as it is.
    trusted, options
        As of `get_model`.

    Raises
    ------
    ConfigError, CheckpointError
        If a name or option is unknown, or the weights do not fit.

    Examples
    --------
    >>> made = model_for("mlp", num_classes=3, input_shape=(1, 4, 4))
    >>> made.head, made.module.head.out_features
    ('head', 3)
    """
    table, library = _table(name)
    own = library != "torchvision"
    target = resolve("model", name, table, trusted=trusted)
    accepted = inspect.signature(target).parameters
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    known: dict[str, Any] = {
        "num_classes": num_classes,
        "in_channels": input_shape[0] if input_shape else 1,
        "in_features": math.prod(input_shape),
    }
    given = {name: value for name, value in known.items() if name in accepted}
    if any_keyword:
        given["num_classes"] = num_classes
    file = weights if _is_file(weights) else None
    if not own or weights != file:
        if own and "weights" not in accepted:
            raise ConfigError(
                f"no file {str(weights)!r}; names of weights work for networks of libraries"
            )
        given |= {"weights": weights} | ({"rename": rename} if rename and file else {})
        if weights is not None:  # they come with their own number of classes
            given.pop("num_classes", None)
    given |= options or {}
    with seeded(seed):
        try:
            module = get_model(name, trusted=trusted, **given)
        except ConfigError as error:  # what takes any keyword may hand it on to what does not
            passed_on = any_keyword and isinstance(error.__cause__, TypeError)
            if not passed_on or "num_classes" not in str(error.__cause__):
                raise
            del given["num_classes"]
            module = get_model(name, trusted=trusted, **given)
        head = head or head_prefix(module)
        if given.get("weights") and num_outputs(module, head) != num_classes:
            replace_head(module, num_classes, head)
    return TaskModel(module, head, None if file is None else _load(module, file, head, rename))


def _is_file(weights: Any) -> bool:
    return isinstance(weights, str | Path) and Path(weights).expanduser().is_file()
