"""An accelerator that every machine has: a device of torch's whose kernels are the CPU's.

`register` makes ``accel`` a device. A tensor there is a wrapper around a CPU tensor that nobody
else sees. Every operation on one is refused where CUDA would refuse it (tensors of two devices, a
generator of another), and whatever makes the host wait for the device is counted under the place
in the package that asked for it: a value read, a copy to the host, a blocking copy to the device,
a result whose size depends on values. Numbers come from the device's own generators.

The registration is for good and for the whole process, so it needs one of its own.
"""

import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import Accelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch.utils import backend_registration
from torch.utils._pytree import tree_iter, tree_map

import bayesprior

NAME = "accel"
CPU = torch.device("cpu")
PACKAGE = f"{Path(bayesprior.__file__).parent}/"

# Operations whose result the host waits for.
_WAITING = set(
    "_local_scalar_dense is_nonzero equal nonzero masked_select _unique2 unique_dim bincount "
    "unique_consecutive repeat_interleave _linalg_eigh _linalg_svd _linalg_check_errors".split()
)
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_waits: Counter[str] = Counter()


class DeviceTensor(torch.Tensor):
    """A tensor whose values are in ``raw``."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "DeviceTensor":
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        wrapper.raw = raw
        return wrapper

    def __repr__(self) -> str:
        return f"DeviceTensor({self.raw!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeviceTensor":
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        memo[id(self)] = copied
        return copied

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        _wait("saving")
        return self.raw.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the values."""
    name = func._schema.name.removeprefix("aten::")
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
    host = [t for t in tensors if not isinstance(t, DeviceTensor)]
    place = kwargs.get("device")
    stays = place is None or torch.device(place).type == NAME
    if name == "copy_":
        blocking = not (kwargs.get("non_blocking") or True in args[2:])
        if host and (blocking or host[0] is tensors[0]):
            _wait(f"{name} between host and device")
    elif len(host) < len(tensors):
        _check_mixing(func, name, host)
        waits = name in _WAITING or (name == "_to_copy" and not stays)
        if waits or (name in _INDEXING and (_counts_values(args) or any(t.dim() for t in host))):
            _wait(name)
    generator = next(
        (x for x in tree_iter((args, kwargs)) if isinstance(x, torch._C.Generator)), None
    )
    if generator is not None and generator._cdata not in Generator.there:
        raise RuntimeError(f"{name} on {NAME}: a generator on the CPU")
    given, named = tree_map(
        lambda t: t.raw if isinstance(t, DeviceTensor) else t, (args, dict(kwargs))
    )
    if place is not None:
        named["device"] = CPU
    named.pop("pin_memory", None)
    own = generator is None and torch.Tag.nondeterministic_seeded in func.tags
    with _Module.numbers() if own else contextlib.nullcontext():
        found = func(*given, **named)
    if not stays:
        return found
    known = {id(t.raw): t for t in tensors if isinstance(t, DeviceTensor)}

    def wrapped(result: Any) -> Any:
        if not isinstance(result, torch.Tensor):
            return result
        return known[id(result)] if id(result) in known else DeviceTensor(result)

    return tree_map(wrapped, found)


def _check_mixing(func: Any, name: str, host: list[torch.Tensor]) -> None:
    """Numbers on the host go as arguments into elementwise kernels, indices are copied."""
    scalars = torch.Tag.pointwise in func.tags or name in _INDEXING | {"fill_", "masked_fill_"}
    wrong = [t for t in host if name not in _INDEXING and (t.dim() or not scalars)]
    if wrong:
        raise RuntimeError(
            f"{name}: a tensor on {NAME} and one on the CPU, {tuple(wrong[0].shape)}"
        )


def _counts_values(args: Any) -> bool:
    """Whether an index is a mask, of which the host must know how many places it has."""
    masks = any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    return masks and not (len(args) > 2 and args[2].numel() == 1)  # that is masked_fill


def _wait(what: str) -> None:
    """Count a synchronization under the innermost line of the package that asked for it."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            _waits[f"{path.removeprefix(PACKAGE)}:{frame.f_code.co_name}"] += 1
            return
        frame = frame.f_back
    _waits[f"outside:{what}"] += 1


@contextlib.contextmanager
def waits() -> Iterator[Counter[str]]:
    """Yield the synchronizations made inside the block, by place; filled at its end."""
    found: Counter[str] = Counter()
    _waits.clear()
    try:
        yield found
    finally:
        found.update(_waits)


class Generator(torch._C.Generator):
    """torch's, of any device: the numbers are the CPU's."""

    there: set[int] = set()  # those on the device, by what identifies them below Python

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.place = torch.device(device)
        (cls.there.add if made.place.type == NAME else cls.there.discard)(made._cdata)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place


class _Module:
    """What torch expects of ``torch.accel``; its global generator is the device's own."""

    state = Generator().get_state()

    @classmethod
    @contextlib.contextmanager
    def numbers(cls) -> Iterator[None]:
        host = torch.get_rng_state()
        torch.set_rng_state(cls.state)
        try:
            yield
        finally:
            cls.state = torch.get_rng_state()
            torch.set_rng_state(host)

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        cls.state = Generator().manual_seed(seed).get_state()

    @classmethod
    def get_rng_state(cls, device: Any = None) -> torch.Tensor:
        return cls.state

    @classmethod
    def set_rng_state(cls, state: torch.Tensor, device: Any = None) -> None:
        cls.state = state

    is_initialized = is_available = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)


_all, _aten = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> Any:
    """What ``torch.tensor`` calls below ``__torch_dispatch__``."""
    return _run(torch.ops.aten.copy_.default, (target, source, non_blocking), {})


def register() -> torch.device:
    """Make ``accel`` a device, once a process; return it."""
    if not hasattr(torch, NAME):
        backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        _all.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
        _aten.impl("_copy_from", _copy_from, "PrivateUse1")
        torch.Generator = Generator  # type: ignore[misc]
    return torch.device(NAME, 0)


class DeviceAccelerator(Accelerator):
    """Fabric's view of the device."""

    setup_device = teardown = lambda self, device=None: None
    parse_devices = staticmethod(lambda devices: devices)
    get_parallel_devices = staticmethod(lambda devices: [torch.device(NAME, 0)])
    auto_device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    name = staticmethod(lambda: NAME)


def fabric_on(device: torch.device) -> Fabric:
    """One process on the CPU or the device."""
    if device.type == "cpu":
        return Fabric(accelerator="cpu", devices=1)
    return Fabric(strategy=SingleDeviceStrategy(device, accelerator=DeviceAccelerator()))


def assert_same(there: Any, here: Any, where: str = "") -> None:
    """Compare trees of tensors; bits, not values."""
    if isinstance(here, torch.Tensor):
        assert (there.shape, there.dtype) == (here.shape, here.dtype), where
        bits = [t.detach().to("cpu").flatten().view(torch.uint8) for t in (there, here)]
        assert torch.equal(*bits), where
    elif isinstance(here, Mapping):
        assert list(there) == list(here), where
        for name in here:
            assert_same(there[name], here[name], f"{where}.{name}")
    elif isinstance(here, tuple | list):
        assert len(there) == len(here), where
        for number, pair in enumerate(zip(there, here, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    elif dataclasses.is_dataclass(here):
        assert_same(vars(there), vars(here), f"{where}.{type(here).__name__}")
    else:
        assert there == here or there != there and here != here, where
