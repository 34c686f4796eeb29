"""`transfer`: from a checkpoint and few labels to calibrated probabilities, without a grid."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Any

from torch import nn

from bayesprior.data import DataBundle, as_bundle
from bayesprior.data.adapters import forward_for
from bayesprior.errors import DataError, check
from bayesprior.inference.collectors.memory import DrawsInMemory
from bayesprior.inference.posteriors import StoredDraws, save_draw
from bayesprior.inference.strength.noise import feature_noise
from bayesprior.models import head_prefix
from bayesprior.recipes.calls import recipe
from bayesprior.recipes.candidates import Candidate, candidates, network_for, ranked
from bayesprior.recipes.committee import fit_committee
from bayesprior.recipes.digests import (
    data_digests,
    described,
    file_digest,
    network_digest,
    prior_digest,
    state_digest,
)
from bayesprior.recipes.head_priors import examples, head_prior_of
from bayesprior.recipes.leaderboard import leaderboard, split_numbers
from bayesprior.recipes.members import MemberTask
from bayesprior.recipes.named import load_data
from bayesprior.recipes.options import (
    DataOptions,
    MadeFrom,
    ModelOptions,
    TransferOptions,
    plain_values,
)
from bayesprior.recipes.places import recorded
from bayesprior.recipes.prior import make_prior
from bayesprior.recipes.rule import RULE
from bayesprior.recipes.runs import add_results, is_finished, open_run, read_results
from bayesprior.recipes.saved import Transfer, at_first_draw_
from bayesprior.recipes.sessions import Session, locked
from bayesprior.recipes.training import bound, pick_device
from bayesprior.storage import PRIOR, chain_dir
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.protocols import Forward, pair_forward
from bayesprior.weights.gaussian import GaussianWeights

__all__ = ["transfer"]

MEMBERS = "members"
_NOISE_ON = 256  # training examples


class TransferCall(TransferOptions, kw_only=False):
    """Arguments of `transfer`."""

    data: Any
    """The target task: a `DataBundle`, a data set, a ``DataLoader``, or what ``--data`` takes."""
    model: nn.Module | str
    """The network, its trained weights in it (it is not changed), or a name as of ``--model``. A
    head that has another number of outputs than there are classes is replaced."""
    _: KW_ONLY
    source: Any = None
    """A source posterior of `fit_source` or its file; or several, of which the best is taken. Its
    features tell the head's prior."""
    weights: Any = None
    """Or a checkpoint's file for a model by name; or several."""
    head: str | None = None
    """Name of the head's layer; the last linear one by default."""
    forward: Forward = pair_forward
    """Calls the network on a batch: ``(module, batch) -> (outputs, targets)``."""
    made_from: MadeFrom | None = None
    """The names that model and data were made from, for `load_run`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        made = self.made_from or MadeFrom()
        if isinstance(self.model, str):
            choice = ModelOptions(model=self.model, head=self.head)
            made = dataclasses.replace(made, model=made.model or choice)
        else:
            check(self.model, "network", "model")
        if isinstance(self.data, str | os.PathLike):
            choice_of_data = DataOptions(data=os.fspath(self.data))
            made = dataclasses.replace(made, data=made.data or choice_of_data)
            object.__setattr__(self, "data", load_data(choice_of_data, made.model))
        object.__setattr__(self, "data", as_bundle(check(self.data, "data", "data")))
        for name in ("source", "weights"):
            object.__setattr__(self, name, _listed(getattr(self, name)))
            for given in getattr(self, name):
                check(given, name, name)
        object.__setattr__(self, "made_from", made)
        check(self.forward, "function", "forward")
        _check_task(self.data)
        object.__setattr__(self, "forward", forward_for(self.data, self.forward))


def _listed(given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    several = given if isinstance(given, list | tuple) else (given,)
    paths = (str, os.PathLike)
    return tuple(os.path.expanduser(os.fspath(g)) if isinstance(g, paths) else g for g in several)


def _check_task(data: DataBundle) -> None:
    """Raise `DataError` unless every example has one of two classes or more, all of them seen."""
    labels = data.train.targets
    if not data.class_names or data.has_masks or (labels is not None and labels.ndim != 1):
        what = "no classes (of pictures, every class needs a folder)"
        if data.class_names:
            what = "masks" if data.has_masks else "several labels an example"
        elif data.num_numbers:
            what = "numbers to predict"
        raise DataError(
            f"{data.name!r} has {what}, and transfer is for one class an example; take make-prior "
            "and fit map"
        )
    if data.num_classes < 2:
        raise DataError(f"{data.name!r} has one class; there is nothing to tell apart")
    if absent := (data.class_counts == 0).nonzero().flatten().tolist():
        raise DataError(
            f"{data.name!r} has no training example of {data.class_names[absent[0]]!r}; add one, "
            "or leave the class out (classes=)"
        )


@recipe(TransferCall)
def transfer(call: TransferCall) -> Transfer:
    """Transfer a trained network to a task with few labels: calibrated, without a search.

    A committee, averaged in logits, of the MAP under the informative prior and of short
    fine-tunings on folds; how far they may move, and one confidence, are chosen out of fold.

    Returns
    -------
    Transfer
        Also in ``out``: ``chain-00`` (the members), ``prior.safetensors``, ``results.json``.

    Raises
    ------
    DataError
        If the task has no classes, one class, or a class without an example.
    ConfigError
        If there is nothing to start from, network and data do not fit, or ``out`` is another
        run's.
    LayoutMismatchError
        If a source has nothing in common with the network.
    """
    folder = None if call.out is None else Path(call.out)
    if folder is None:
        return _transferred(call, None)
    with locked(folder):
        made = recorded(call.made_from, folder)
        open_run(folder, "transfer", _options(call), _digests(call), made)
        if not is_finished(folder, "transfer"):
            with _timed(folder) as session:
                _transferred(call, folder, session)
                shutil.rmtree(folder / MEMBERS, ignore_errors=True)
        return _read(call, folder)


@contextlib.contextmanager
def _timed(folder: Path) -> Iterator[Session]:
    session = Session(folder)
    try:
        yield session
    except BaseException:
        session.pause()
        raise
    session.finish()


def _options(call: TransferCall) -> dict[str, Any]:
    speaks = {"likelihood": described(Categorical()), "forward": described(call.forward)}
    return {**plain_values(call), **speaks}


def _digests(call: TransferCall) -> dict[str, str]:
    found = {f"data.{name}": digest for name, digest in data_digests(call.data).items()}
    if isinstance(call.model, nn.Module):
        head = call.head or head_prefix(call.model)  # which starts anew
        kept = {n: v for n, v in call.model.state_dict().items() if not n.startswith(f"{head}.")}
        found |= {"network": network_digest(call.model), "start": state_digest(kept)}
    for name in ("source", "weights"):
        for number, given in enumerate(getattr(call, name)):
            if isinstance(given, GaussianWeights):
                found[f"{name}.{number}"] = prior_digest(given)
            elif Path(given).is_file():  # torchvision's names of weights are none
                found[f"{name}.{number}"] = file_digest(given)
    return found


def _transferred(
    call: TransferCall, folder: Path | None, session: Session | None = None
) -> Transfer:
    """Do all the work; leave it in the folder, the numbers last."""
    began = time.perf_counter()
    device = pick_device(call.device)
    found = candidates(
        _model(call),
        call.data,
        sources=call.source,
        weights=call.weights,
        rename=call.rename,
        head=call.head,
        seed=call.seed,
    )
    ranking_options: dict[str, Any] = {"forward": call.forward, "device": device}
    best, ranking = ranked(found, call.data, seed=call.seed, **ranking_options)
    task = _task(call, best, None if folder is None else folder / MEMBERS)
    rule = dataclasses.replace(RULE, num_folds=call.folds)
    test = call.data.test
    scored = test is not None and test.targets is not None
    committee = fit_committee(task, rule, held_out_map=not scored and call.baselines != "none")
    seconds = time.perf_counter() - began if session is None else session.seconds
    board = leaderboard(task, committee, call.data, baselines=call.baselines)
    if call.baselines == "all" and not any(row["on"] == "test" for row in board):
        committee.notes.append("no test split with labels: of the baselines the probe alone")
    told = {
        "method": "transfer",
        "seed": call.seed,
        "num_data": call.data.num_data,
        "source": best.label,
        "candidates": ranking,
        "head": best.head,
        **{name: task.prior.provenance.get(name) for name in ("head_prior", "head_note")},
        "members": committee.names,
        "budget": committee.budget,
        "confidence": committee.confidence,
        "feature_noise": task.step_std,
        "feature_noise_by_tensor": task.tensor_std,
        "num_gradients": committee.num_gradients,
        "num_fits": committee.num_fits,
        "notes": committee.notes,
        "rms_std": committee.prior.rms_std,
        "seconds": seconds,
        "leaderboard": board,
    }
    results = {**split_numbers(board, seed=call.seed), "fit": told}
    layout = task.prior.layout
    if folder is not None:
        for draw in committee.draws:
            save_draw(chain_dir(folder, 0), layout, draw, average="logits")
        committee.prior.save(folder / PRIOR)
        for name, values in results.items():
            add_results(folder, name, values)
    posterior = DrawsInMemory(committee.draws, layout, average="logits")
    return _finished(call, folder, best.module, committee.prior, posterior, results)


def _task(call: TransferCall, best: Candidate, folder: Path | None) -> MemberTask:
    """Make the prior and measure its units, at the source's weights."""
    few = list(examples(call.data, _NOISE_ON))
    measured: dict[str, Any] = {"head": best.head, "forward": call.forward, "seed": call.seed}
    tensor_std = feature_noise(best.module, few, by_tensor=True, **measured)
    prior = make_prior(
        best.source,
        best.module,
        head=best.head,
        shape="isotropic",
        rms_ratio=RULE.map_width * tensor_std,
        head_prior=call.head_prior,
        data=call.data,
        forward=call.forward,
    )
    return MemberTask(
        best.module,
        call.data,
        prior,
        head=best.head,
        head_prior=head_prior_of(prior, best.head),
        step_std=feature_noise(best.module, few, **measured),
        tensor_std=tensor_std,
        forward=call.forward,
        folder=folder,
        seed=call.seed,
        progress=call.progress,
        checkpoint_every=call.checkpoint_every,
    )


def _read(call: TransferCall, folder: Path) -> Transfer:
    """Return what a finished folder holds."""
    module, _ = network_for(_model(call), call.data, head=call.head, seed=call.seed)
    prior, posterior = GaussianWeights.load(folder / PRIOR), StoredDraws(folder)
    module.to(pick_device(call.device))
    return _finished(call, folder, module, prior, posterior, read_results(folder))


def _model(call: TransferCall) -> Any:
    """Return the network, or its name with the options that belong to it."""
    made = call.made_from.model if call.made_from is not None else None
    return call.model if isinstance(call.model, nn.Module) else made


def _finished(
    call: TransferCall,
    folder: Path | None,
    module: nn.Module,
    prior: GaussianWeights,
    posterior: StoredDraws | DrawsInMemory,
    results: Mapping[str, Any],
) -> Transfer:
    at_first_draw_(module, posterior)
    speaks = (Categorical(), call.forward)
    posterior = bound(posterior, module, *speaks)
    about = (folder, "transfer", _options(call), results)
    return Transfer(*about, call.data, module, posterior, prior, *speaks)
