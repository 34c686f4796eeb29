"""Shared like pre-trained weights: a file with its card, the Hugging Face hub, another network."""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bayesprior.errors import MissingDependencyError, PriorFileError, StorageError, checked
from bayesprior.storage import HUB, write_text
from bayesprior.version import __version__
from bayesprior.weights.blocks import Block
from bayesprior.weights.checks import check_device
from bayesprior.weights.file import Contents, read, write
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.selection import Selection, is_selected
from bayesprior.weights.state_dicts import LoadReport, load_weights

__all__ = ["Shareable"]

S = TypeVar("S", bound="Shareable")


class Shareable:
    """What `GaussianWeights`, which alone is one, can do with files, the hub and networks."""

    layout: ParameterLayout
    loc: Tensor
    blocks: tuple[Block, ...]
    buffers: dict[str, Tensor]
    provenance: dict[str, Any]
    statistics: dict[str, Tensor]
    new_names: Any

    @checked(path="path")
    def save(self, path: str | Path, *, card: bool = False) -> None:
        """Write a safetensors file (`bayesprior.weights.file`); a failure leaves an older one.

        Parameters
        ----------
        path
            Such as ``"source.safetensors"``.
        card
            For others: also write the `card` beside it (``source.md``), and the law by its
            principal directions, so that ``load(rank=)`` reads those that it keeps and no others.
        """
        self._write(path, by_rank=card)
        if card:
            where = Path(path).expanduser()
            write_text(where.with_suffix(".md"), self.card(f"load({where.name!r})"))

    def _write(self, path: str | Path, *, by_rank: bool) -> None:
        named = (self.buffers, self.provenance, self.statistics)
        write(path, Contents(self.layout, self.loc, self.blocks, *named), by_rank=by_rank)

    @classmethod
    @checked(path="path", device="device", rank="index")
    def load(
        cls: type[S],
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        rank: int | None = None,
    ) -> S:
        """Read what `save` wrote, keeping the ``rank`` largest directions (see `truncate`).

        The file is mapped into memory; with ``rank`` no tensor of the whole factor is made, on
        the device neither. Of a file written with ``card=True`` the other directions are not read.

        Raises
        ------
        PriorFileError
            If the file is missing, truncated, corrupt, foreign or inconsistent.
        ConfigError
            If there is no such device.
        """
        check_device(device)
        new: Any = object.__new__(cls)
        new._hold(read(path, rank))
        if rank is not None:
            new = new.truncate(rank)._with(loc=new.loc.clone())
        return new.to(device)

    def push_to_hub(
        self, repo: str, *, revision: str | None = None, private: bool = False, **options: Any
    ) -> str:
        """Upload the file and its card to the Hugging Face hub; the repository is made if absent.

        Parameters
        ----------
        repo
            Such as ``"organization/name"``; its card (README.md) is replaced.
        revision
            Branch; the main one by default.
        private
            Of a repository that is made.
        **options
            Of ``huggingface_hub.HfApi``: ``token``, ``endpoint``.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        MissingDependencyError
            If ``huggingface_hub`` is not installed.
        StorageError
            If the hub refuses or cannot be reached.
        """
        hub = _library()
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder) / HUB, by_rank=True)
            write_text(Path(folder) / "README.md", self.card(f"from_hub({repo!r})"))
            with _one_line(f"could not write {repo!r} to the hub", StorageError):
                api = hub.HfApi(library_name="bayesprior", library_version=__version__, **options)
                api.create_repo(repo, private=private, exist_ok=True)
                done = api.upload_folder(repo_id=repo, folder_path=folder, revision=revision)
        return str(done.commit_url)

    @classmethod
    @checked(repo="text", device="device", rank="index")
    def from_hub(
        cls: type[S],
        repo: str,
        *,
        revision: str | None = None,
        rank: int | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> S:
        """Download what `push_to_hub` wrote, or find it in the hub's cache, and `load` it.

        Parameters
        ----------
        repo
            Such as ``"organization/name"``.
        revision
            Branch, tag or commit.
        rank, device
            As of `load`.
        **options
            Of ``huggingface_hub.hf_hub_download``: ``token``, ``cache_dir``, ``local_files_only``.

        Raises
        ------
        MissingDependencyError
            If ``huggingface_hub`` is not installed.
        PriorFileError
            If there is no such repository, revision or file, or the hub cannot be reached.
        """
        hub = _library()
        with _one_line(f"could not read {HUB} of {repo!r} from the hub", PriorFileError):
            path = hub.hf_hub_download(
                repo,
                HUB,
                revision=revision,
                library_name="bayesprior",
                library_version=__version__,
                **options,
            )
        return cls.load(path, device=device, rank=rank)

    @checked(module="network")
    def load_into(
        self, module: nn.Module, *, ignore: Selection = (), rename: str | None = None
    ) -> LoadReport:
        """Put a network at the mean, BatchNorm statistics included: pre-trained weights.

        Parameters
        ----------
        module
            Changed in place, all or nothing.
        ignore
            Its layers that shall keep their weights, such as a head; what is new in this law does.
        rename
            ``"auto"`` goes by order and shape where the names are of another network.

        Returns
        -------
        LoadReport
            What was taken, what the network has beside it, and what was left out; ``summary``
            says it in a line.

        Raises
        ------
        CheckpointError
            If a shape conflicts, or less than half of the network's parameters are here.

        Warns
        -----
        UserWarning
            If layers that were not to be ignored keep the weights that they had.
        """
        state = {**self.layout.unflatten(self.loc.detach()), **self.buffers}
        name, new = str(self.provenance.get("role", "law of the weights")), self.new_names

        def left(entry: str) -> bool:
            return entry in new or is_selected(entry, ignore)

        return load_weights(module, state, f"the {name}", ignore=left, rename=rename)

    def card(self, place: str = "load('source.safetensors')") -> str:
        """Return the card of this law: Markdown under the header that the hub reads.

        Parameters
        ----------
        place
            How it is loaded, for the example.
        """
        known, told = self.provenance, _told(self)
        role = _plain(known.get("role", "law of the weights"))
        header = {
            "library_name": "bayesprior",
            "license": str(known.get("license", "unknown")),
            "tags": ["bayesprior", "bayesian-deep-learning", role.replace(" ", "-")],
            "bayesprior": told,
        }
        rows = {**told, "license": header["license"]}.items()
        name, network = "prior" if role == "prior" else "source", _plain(told["network"])
        return "\n".join(
            [
                "---",
                *(f"{key}: {_json(value)}" for key, value in header.items()),  # JSON is YAML
                "---",
                "",
                f"# {role.capitalize()} of {network}",
                "",
                "A Normal distribution over the weights, for bayesprior: mean, diagonal and "
                f"{told['rank']} directions of the covariance, BatchNorm statistics.",
                "",
                "| | |",
                "| --- | --- |",
                *(f"| {key.replace('_', ' ')} | {_plain(value)} |" for key, value in rows),
                "",
                "```python",
                "import bayesprior as bp",
                "",
                f"{name} = bp.GaussianWeights.{place}",
                f"network = ...  # {network}, its parameters named as here; then your head",
                *(["prior = bp.make_prior(source, network, head='head')"] * (name == "source")),
                "posterior = bp.fit_map(network, prior, data)",
                "```",
                "",
            ]
        )


def _told(law: Any) -> dict[str, Any]:
    """Return what a card says of a law."""
    known, layout = law.provenance, law.layout
    by_module = Counter(name.partition(".")[0] for name in layout.names)
    some = ", ".join(f"{name} ({n})" for name, n in list(by_module.items())[:8])
    new = f"; new: {', '.join(law.new_names)}" if law.new_names else ""
    left = f"; left behind: {', '.join(known['left_behind'])}" if known.get("left_behind") else ""
    more = f" and {len(by_module) - 8} more" if len(by_module) > 8 else ""
    return {
        "source_task": known.get("data", "not recorded"),
        "num_data": known.get("num_data", "not recorded"),
        "objective": known.get("objective", "not recorded"),
        "network": known.get("model", "not recorded"),
        "normalization": known.get("normalization", "not recorded"),
        "layout_digest": layout.digest(),
        "rank": law.rank,
        "rms_std": float(f"{law.rms_std:.4g}"),
        "coverage": f"{layout.dim} weights in {len(layout.names)} parameters: {some}{more}{new}"
        + left,
        "statistics": sorted(law.statistics) + [f"{len(law.buffers)} buffers"],
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    """Return text for a cell of a table: one line, no markup of whoever wrote the file."""
    text = ", ".join(value) if isinstance(value, list) else value
    text = text if isinstance(text, str) else _json(text)
    return " ".join(text.translate({ord(c): f"\\{c}" for c in "\\`*_[]<>|#"}).split())


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingDependencyError(
            "the hub needs huggingface_hub: pip install 'bayesprior[hub]'"
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def _one_line(what: str, kind: type[Exception]) -> Iterator[None]:
    """Turn whatever the hub's library raises into one line, which it is the cause of."""
    try:
        yield
    except Exception as error:  # of the network, of names, of permissions: no common class
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise kind(
            f"{what}: {told} (check the name and revision, the network, and `hf auth login`)"
        ) from error
