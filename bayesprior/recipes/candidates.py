"""Where a transfer can start: checkpoints and source posteriors, ranked by a probe."""

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprior.data import DataBundle, check_fit
from bayesprior.errors import ConfigError, LayoutMismatchError, check
from bayesprior.inference.generators import seeded
from bayesprior.inference.strength.features import check_is_last, head_inputs
from bayesprior.inference.strength.probe import Probe, fit_probe
from bayesprior.models import head_prefix, replace_head
from bayesprior.models.heads import num_outputs
from bayesprior.recipes.head_priors import examples
from bayesprior.recipes.named import load_model, point_source
from bayesprior.recipes.options import ModelOptions
from bayesprior.recipes.training import initialize_
from bayesprior.tasks.protocols import Forward
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["Candidate", "candidates", "network_for", "ranked"]

_RANKED_ON = 2_000  # training examples


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network at a source's weights.

    Attributes
    ----------
    label
        The file's name.
    module, head
        With an output for each class; the head's name.
    source
        The law that the source left, or its weights alone.
    loaded
        What was taken from its file of weights, stripped, converted and left out.
    probe
        On its features.
    """

    label: str
    module: nn.Module
    head: str
    source: GaussianWeights
    loaded: str | None = None
    probe: Probe | None = None


def network_for(
    model: nn.Module | str | ModelOptions,
    data: DataBundle,
    *,
    head: str | None = None,
    weights: str | None = None,
    rename: str | None = None,
    seed: int = 0,
    tell: Callable[[str], None] | None = None,
) -> tuple[nn.Module, str]:
    """Return a network of one's own, with an output for each class, and its head's name."""
    if isinstance(model, nn.Module):
        module = copy.deepcopy(model)
        head = head_prefix(module) if head is None else head
        if num_outputs(module, head) != data.num_classes:
            with seeded(seed):
                replace_head(module, data.num_classes, head)
        return module, head
    choice = ModelOptions(model=model, head=head) if isinstance(model, str) else model
    return load_model(choice, data, seed=seed, weights=weights, rename=rename, tell=tell)


def candidates(
    model: nn.Module | str | ModelOptions,
    data: DataBundle,
    *,
    sources: Sequence[Any] = (),
    weights: Sequence[Any] = (),
    rename: str | None = None,
    head: str | None = None,
    seed: int = 0,
) -> Iterator[Candidate]:
    """Yield the networks that a transfer can start from, one at a time.

    Raises
    ------
    ConfigError
        If there is no source, or one is no law.
    LayoutMismatchError
        If a source has nothing in common with the network.
    """
    for number, given in enumerate(sources):
        is_path = isinstance(given, str | os.PathLike)
        law = GaussianWeights.load(given) if is_path else given
        check(law, "source", "source")
        module, name = network_for(model, data, head=head, seed=seed)
        mine = {n for n, _ in module.named_parameters() if not n.startswith(f"{name}.")}
        if not (shared := mine & set(law.layout.names)):
            raise LayoutMismatchError(
                f"the source {given if is_path else number} shares no parameter with the network "
                f"(such as {law.layout.names[0]!r}); rename() it, or give its own model"
            )
        with torch.no_grad():
            initialize_(module, law.marginal(n for n in law.layout.names if n in shared))
        label = Path(given).name if is_path else f"source {number}"
        yield Candidate(label, module, name, law)
    for file in weights:
        if isinstance(model, nn.Module):
            raise ConfigError("weights are for a model by name; load them into yours instead")
        lines: list[str] = []
        own: dict[str, Any] = {"weights": os.fspath(file), "rename": rename, "tell": lines.append}
        module, name = network_for(model, data, head=head, seed=seed, **own)
        law = point_source(module, None, str(file))
        yield Candidate(Path(file).name, module, name, law, "; ".join(lines))
    if not sources and not weights:
        if not isinstance(model, nn.Module):
            raise ConfigError("a transfer starts from something: give weights= or source=")
        module, name = network_for(model, data, head=head, seed=seed)
        yield Candidate("the network's own", module, name, point_source(module, None))


def ranked(
    found: Iterator[Candidate],
    data: DataBundle,
    *,
    forward: Forward,
    device: torch.device,
    seed: int = 0,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Return the best candidate, by the cross-validated NLL of a probe, and the ranking.

    One network is held beside the best one so far.
    """
    best: Candidate | None = None
    ranking: list[dict[str, Any]] = []
    for candidate in found:
        module, head = candidate.module.to(device), candidate.head
        check_fit(module, data, forward)
        check_is_last(module, head, next(iter(examples(data, 8))), forward)
        few = examples(data, _RANKED_ON)
        features, labels = head_inputs(module, head, few, forward=forward)
        probe = fit_probe(features, labels.long(), data.num_classes, seed=seed)
        right = (probe.held_out.argmax(1) == labels).double().mean()
        row = {"source": candidate.label, "nll": probe.nll, "accuracy": float(right)}
        ranking.append(row | ({"loaded": candidate.loaded} if candidate.loaded else {}))
        if best is None or (best.probe is not None and probe.nll < best.probe.nll):
            best = dataclasses.replace(candidate, module=module, probe=probe)
    assert best is not None
    return best, sorted(ranking, key=lambda row: row["nll"])
