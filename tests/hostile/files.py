"""Hostile priors, checkpoints, weights and archives of arrays."""

import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile.damage import NASTY, damaged, mutated, pick
from hostile.judge import Case
from safetensors import safe_open
from safetensors.torch import save_file

from bayesprior.inference.checkpoint import read_checkpoint, save_checkpoint
from bayesprior.storage import save_tensors

Make = Callable[[np.random.Generator, Any, Path], Case]


class Bomb:
    """Runs a shell command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def odd_tensor(rng: np.random.Generator, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in the place of another: other numbers, types, shapes, layouts."""
    numbers = tensor.float()
    return pick(
        rng,
        [
            lambda: numbers * float("nan"),
            lambda: numbers + float("inf"),
            lambda: -numbers,
            lambda: numbers * 1e38,
            lambda: numbers * 0,
            lambda: numbers.double(),
            lambda: numbers.half(),
            lambda: numbers.bfloat16(),
            lambda: numbers.to(torch.complex64),
            lambda: numbers.to(torch.int64),
            lambda: numbers > 0,
            lambda: numbers.flatten()[:-1],
            lambda: numbers[None],
            lambda: torch.zeros(0),
            lambda: torch.zeros(()),
            lambda: torch.zeros(3, 5000),
        ],
    )()


def prior(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """A prior, posterior, estimate or draw; some with checksums as their author would make them."""
    root, path = field.root, folder / "p.safetensors"
    seeds = [
        field.prior,
        root / "source" / "source.safetensors",
        root / "map" / "map.safetensors",
        root / "sgld" / "chain-00" / "draw-0000.safetensors",
    ]
    source = pick(rng, [field.prior, field.prior, *seeds])
    data = source.read_bytes()
    how = int(rng.integers(5))
    if how == 0:
        path.write_bytes(damaged(rng, data))
    elif how == 1:  # the header's own words
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        text = json.dumps(mutated(rng, header)).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    else:
        with safe_open(source, "pt") as file:
            header = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if how == 2:
            name = pick(rng, sorted(tensors))
            tensors[name] = odd_tensor(rng, tensors.pop(name))
        elif how == 3:
            name = pick(rng, [n for n in ("layout", "provenance", "blocks") if n in header])
            header[name] = json.dumps(mutated(rng, json.loads(header[name])))
        else:
            header = mutated(rng, header)
            if not isinstance(header, dict):
                header = {}
            header = {str(k): v if isinstance(v, str) else str(v) for k, v in header.items()}
        save_tensors(path, tensors, header)
    argv = ["inspect", str(path)]
    if rng.random() < 0.5:
        fit = field.fit(folder / "out")
        fit[fit.index("--prior") + 1] = str(path)
        argv = ["fit", "map", *fit]
    return Case(
        argv, f"prior {how} of {source.name}", refused=how == 0 and path.read_bytes() != data
    )


def checkpoint(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """The checkpoint of a run that is resumed, or looked at."""
    run = field.copied("stopped/map", folder)
    path, bomb = run / "checkpoint.pt", folder / "ran"
    data = path.read_bytes()
    how = int(rng.integers(4))
    if how <= 1:
        path.write_bytes(damaged(rng, data))
    elif how == 2:
        state = read_checkpoint(path)
        for _ in range(int(rng.integers(1, 4))):
            state = mutated(rng, state)
        save_checkpoint(path, state if isinstance(state, dict) else {"state": state})
    else:
        odd = pick(rng, ({"run": Bomb(bomb)}, Bomb(bomb), [torch.ones(2)], pick(rng, NASTY)))
        if rng.random() < 0.5:
            torch.save(odd, path)
        else:
            path.write_bytes(pickle.dumps(odd))
    argv = ["inspect", str(path)] if rng.random() < 0.2 else ["fit", "map", *field.fit(run)]
    refused = how != 2 and path.read_bytes() != data
    return Case(argv, f"checkpoint {how}", refused=refused, never=bomb)


def weights(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """A file of weights from outside."""
    state = dict(torch.load(field.root / "map" / "checkpoint.pt", weights_only=True)["model"])
    bomb, path = folder / "ran", folder / pick(rng, ("w.pth", "w.pt", "w.safetensors", "w.bin"))
    how = int(rng.integers(6))
    name = pick(rng, sorted(state))
    if how == 0:
        if rng.random() < 0.5:
            torch.save(state, path, _use_new_zipfile_serialization=bool(rng.random() < 0.7))
        else:
            save_file(state, path)
        path.write_bytes(damaged(rng, path.read_bytes()))
    elif how == 1:
        torch.save(state | {name: odd_tensor(rng, state[name])}, path)
    elif how == 2:
        odd = [
            lambda: state[name].to_sparse(),
            lambda: torch.quantize_per_tensor(state[name].float(), 0.1, 0, torch.qint8),
            lambda: state[name].to("meta"),
            lambda: torch.zeros(()).expand(10**12),
            lambda: state[name].expand(3, *state[name].shape),
            lambda: torch.nn.Parameter(state[name].float()),
            lambda: pick(rng, NASTY),
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors are deprecated
            torch.save(state | {name: pick(rng, odd)()}, path)
    elif how == 3:
        wrapped: Any = state
        for _ in range(int(rng.integers(1, 60))):
            wrapped = {pick(rng, ("module", "state_dict", "\x1b[2J", "a\nb", "m" * 500)): wrapped}
        torch.save(mutated(rng, wrapped), path)
    elif how == 4:
        torch.save(state | {"x": Bomb(bomb)}, path)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
            archive.writestr("archive/data/0", bytes(2**24))
            archive.writestr("archive/version", "3\n")
        if rng.random() < 0.5:
            path.write_bytes(pick(rng, (b"", b"<html>404</html>", b"{}", b"\x80\x02.", bytes(64))))
    argv = field.make_prior(folder / "out", "--weights", str(path), *field.data)
    return Case(argv, f"weights {how} {path.suffix}", never=bomb)


def _npy(array: np.ndarray, **header: Any) -> bytes:
    """Return a .npy member whose header says something else than its array."""
    file = io.BytesIO()
    entries = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(file, entries)
    return file.getvalue() + array.tobytes()


def npz(rng: np.random.Generator, field: Any, folder: Path) -> Case:
    """An archive of arrays: for training, for predictions, or looked at."""
    with np.load(field.npz) as archive:
        arrays: dict[str, Any] = dict(archive)
    if rng.random() < 0.3:
        arrays["class_names"] = np.array(["a", "b", "c"])
    if rng.random() < 0.3:
        arrays = {"x": arrays["x_train"], "y": arrays["y_train"]}
    path, bomb = folder / "d.npz", folder / "ran"
    how = int(rng.integers(5))
    name = pick(rng, sorted(arrays))
    if how == 0:
        np.savez(path, **arrays)
        path.write_bytes(damaged(rng, path.read_bytes()))
    elif how in (1, 2):
        changed = _odd_array(rng, arrays[name])
        np.savez(path, **(arrays | {pick(rng, (name, name, name, "class_names")): changed}))
    elif how == 3:
        members = {key: _npy(value) for key, value in arrays.items()}
        members[name] = pick(
            rng,
            [
                lambda: _npy(arrays[name], shape=(10**12,)),
                lambda: _npy(arrays[name], shape=(2**40, 2**40)),
                lambda: _npy(arrays[name], shape=(-1,)),
                lambda: _npy(arrays[name], descr="|O") + pickle.dumps(Bomb(bomb)),
                lambda: _npy(arrays[name], descr="<U1000000000"),
                lambda: _npy(arrays[name], descr="|S9"),
                lambda: b"\x93NUMPY" + rng.bytes(20),
                lambda: pickle.dumps(Bomb(bomb)),
                lambda: bytes(2**22),
            ],
        )()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for key, data in members.items():
                out.writestr(f"{key}.npy", data)
        if rng.random() < 0.3:  # the archive says its first part holds a petabyte
            data = bytearray(path.read_bytes())
            at = data.rindex(b"PK\x01\x02")
            data[at + 24 : at + 28] = b"\xfe\xff\xff\xff"
            path.write_bytes(data)
    else:
        content = pick(
            rng, (b"", b"PK", pickle.dumps(Bomb(bomb)), b"\x93NUMPY", b"PK\x05\x06" + bytes(18))
        )
        path.write_bytes(content)
    shape_only = field.make_prior(folder / "out", "--shape", "zero", "--data", str(path))
    predict = ["predict", str(field.root / "map"), str(path), "--progress", "false"]
    argv = pick(rng, (shape_only, shape_only, predict, ["inspect", str(path)]))
    return Case(argv, f"npz {how}", never=bomb)


def _odd_array(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    numbers = array.astype(np.float64) if array.dtype.kind in "iu" else np.arange(3.0)
    one = array.copy()
    if one.dtype.kind == "i":
        one[0] = pick(rng, (-1, 3, 10**9, 2**62, -(2**62)))
    return pick(
        rng,
        [
            lambda: one,
            lambda: np.full(array.shape, 2**63, np.uint64),
            lambda: numbers * np.nan,
            lambda: numbers - np.inf,
            lambda: numbers / 255,
            lambda: numbers.astype(np.float16),
            lambda: numbers.astype(np.longdouble),
            lambda: numbers.astype(np.complex64),
            lambda: numbers.astype(np.uint16),
            lambda: numbers > 1,
            lambda: array.astype(str),
            lambda: array.astype("S3"),
            lambda: array.astype("M8[s]") if array.dtype.kind == "i" else array,
            lambda: np.zeros(array.shape, [("a", "i4"), ("b", "f4")]),
            lambda: array[:-1],
            lambda: array[:0],
            lambda: array[None],
            lambda: array[..., None, None],
            lambda: np.zeros((24, 1, 1), np.uint8),
            lambda: np.zeros((24, 8, 8, 7), np.uint8),
            lambda: np.array(3),
            lambda: np.array(["a", "a", "\x1b[2J"]),
            lambda: np.array([b"\xff", b"b", b"c"]),
            lambda: np.array(["x" * 100_000, "a\0b", ""]),
        ],
    )()
