"""A source posterior of checkpoints that somebody else's training left."""

import contextlib
import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bayesprior.data import DataBundle, as_bundle, check_fit
from bayesprior.errors import ConfigError, check, kind_of
from bayesprior.inference.batch_norm import reestimate_, running_layers
from bayesprior.inference.generators import seeded
from bayesprior.recipes.arguments import check_network, head_names
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.digests import data_digests, described, file_digest, network_digest
from bayesprior.recipes.options import MadeFrom, plain_values
from bayesprior.recipes.places import recorded
from bayesprior.recipes.prior import law_numbers
from bayesprior.recipes.runs import add_results, is_finished, open_run, stage_of
from bayesprior.recipes.sessions import locked
from bayesprior.recipes.source import add_statistics, normalization_of
from bayesprior.recipes.source_options import CollectOptions
from bayesprior.recipes.training import initialize_, pick_device
from bayesprior.storage import SOURCE
from bayesprior.tasks.protocols import Forward, inputs_forward, pair_forward
from bayesprior.version import __version__
from bayesprior.weights.blocks import lives
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.importers import from_checkpoints
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection
from bayesprior.weights.state_dicts import Source

__all__ = ["collect"]


class CollectCall(CollectOptions, kw_only=False):
    """Arguments of `collect`."""

    module: nn.Module
    """The network that the checkpoints are of; left as it is."""
    checkpoints: Iterable[Source]
    """Files of weights of any layout, or state dicts, in the order of the training: at least two.
    One trajectory, best after the learning rate has come down; see `bayesprior.SWAG`."""
    _: KW_ONLY
    data: DataBundle | None = None
    """The source task, where it is at hand: BatchNorm statistics at the mean are estimated from
    its training split, and how the head's inputs vary, for the prior of a new head."""
    head: Selection | None = None
    """The source head's parameters, which do not transfer and are left out of the result."""
    forward: Forward = pair_forward
    """Calls the network on a batch of the data."""
    made_from: MadeFrom | None = None
    """The names that network and data were made from, for the folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.module)
        if isinstance(self.checkpoints, str | Path | Mapping):
            raise ConfigError(f"checkpoints must be a list, got {kind_of(self.checkpoints)}")
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        count = len(self.checkpoints)  # type: ignore[arg-type]
        if count < 2:
            raise ConfigError(
                f"a posterior takes at least 2 checkpoints, got {count}; the prior around a single "
                "one is that of make-prior --weights (bayesprior.weights.importers.from_state_dict)"
            )
        if (self.rank or 0) > count:
            raise ConfigError(f"rank must be at most {count}, the checkpoints; got {self.rank}")
        names = ParameterLayout.from_module(self.module).names
        if len(head_names(names, self.head, "network")) == len(names):
            raise ConfigError(f"head = {self.head!r} covers every parameter; nothing would remain")
        if self.data is not None:
            object.__setattr__(self, "data", as_bundle(check(self.data, "data", "data")))
            if self.forward is pair_forward and isinstance(self.data.peek(1), Tensor):
                object.__setattr__(self, "forward", inputs_forward)  # no labels are needed
            check_fit(self.module, self.data, self.forward)


@recipe(CollectCall)
def collect(call: CollectCall) -> GaussianWeights:
    """Fit SWAG to checkpoints of a training: the source posterior of whoever trained.

    Returns
    -------
    GaussianWeights
        Over the backbone; also in ``out/source.safetensors``, as of `fit_source`.

    Raises
    ------
    PriorFileError
        If a checkpoint cannot be read or is of another network.
    ConfigError
        If there are fewer than two, ``rank`` is larger than their number, all are equal, or
        ``out`` is another run's.

    Warns
    -----
    UserWarning
        If the network has BatchNorm and no data are given: the statistics of the last checkpoint
        do not belong to the mean of all.
    """
    if call.out is None:
        return _collected(call)
    with locked(call.out):
        options = {**plain_values(call), "head": described(call.head)}
        digests = {"network": network_digest(call.module), "checkpoints": _digest(call.checkpoints)}
        if call.data is not None:
            digests["data.train"] = data_digests(call.data)["train"]
        path = open_run(call.out, "collect", options, digests, recorded(call.made_from, call.out))
        if not is_finished(path, "collect"):
            source = _collected(call)
            source.save(path / SOURCE)
            add_results(path, stage_of("collect"), law_numbers(source))
        return GaussianWeights.load(path / SOURCE)


def _digest(checkpoints: Iterable[Source]) -> str:
    """Return what tells these checkpoints from others: their content, wherever they lie."""
    parts = []
    for source in checkpoints:
        if isinstance(source, Mapping):
            parts.append(described(source, content=True))
        else:
            with contextlib.suppress(OSError):  # a file that is missing is told by its reader
                parts.append(file_digest(Path(source).expanduser()))
    return str(described(parts, content=True))


def _collected(call: CollectCall) -> GaussianWeights:
    checkpoints: Any = call.checkpoints
    names = ParameterLayout.from_module(call.module).names
    head = head_names(names, call.head, "network")
    source = from_checkpoints(
        checkpoints,
        call.module,
        head=() if call.head is None else call.head,
        rename=call.rename,
        rank=min(20, len(checkpoints)) if call.rank is None else call.rank,
        diagonal_only=call.diagonal_only,
    )
    source.provenance |= {
        "role": "source posterior",
        "bayesprior": __version__,
        "model": type(call.module).__name__,
        "objective": "of the checkpoints' own training",
    }
    if call.data is not None:
        source.provenance |= {"data": call.data.name, "num_data": call.data.num_data}
        source.provenance |= normalization_of(call.data)
        source.buffers = _buffers_at(source, call, call.data)
        add_statistics(source, call, head)
    elif running_layers(call.module):
        source.provenance["batch_norm"] = "of the last checkpoint"
        warnings.warn(
            "BatchNorm statistics are those of the last checkpoint, not of the mean of all: give "
            "the source's data (--data) to estimate them",
            stacklevel=3,
        )
    return source


def _buffers_at(source: GaussianWeights, call: CollectCall, data: DataBundle) -> dict[str, Any]:
    """Return the buffers at the mean, BatchNorm statistics estimated from the training split."""
    device = pick_device(call.device)
    module = copy.deepcopy(call.module).to(device)
    initialize_(module, source.to(device))
    with seeded(call.seed, [device]):
        loader = data.loader("train", call.batch_size, shuffle=True, seed=call.seed)
        reestimate_(module, loader, call.forward, max_examples=data.num_data)
    whole, place = ParameterLayout.from_module(module), source.loc.device
    return {
        name: buffer.detach().to(place)
        for name, buffer in module.named_buffers()
        if lives(name, whole, source.layout)
    }
