"""Names <-> positions in a flat weight vector."""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayesprior.errors import LayoutMismatchError, checked, nearest_name

__all__ = ["LayoutDiff", "ParameterLayout"]


class LayoutDiff(NamedTuple):
    """What two layouts share and where they differ.

    Attributes
    ----------
    shared
        Names present in both with equal shapes.
    only_here, only_there
        Names present on one side only.
    shape_conflicts
        ``name -> (shape here, shape there)`` for names present in both with different shapes.
    """

    shared: tuple[str, ...]
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]
    shape_conflicts: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def is_equal(self) -> bool:
        """Whether both layouts hold the same names with the same shapes (in any order)."""
        return not (self.only_here or self.only_there or self.shape_conflicts)

    def describe(self, limit: int = 3, missing: str | None = None) -> str:
        """Return one line that names the differences, each missing name with its nearest match.

        Parameters
        ----------
        limit
            How many names of each kind are spelled out.
        missing
            What to call the names that are only here, where those only there do not matter.
        """

        def some(names: Iterable[str]) -> str:
            names = list(names)
            more = f" and {len(names) - limit} more" if len(names) > limit else ""
            return ", ".join(names[:limit]) + more

        parts = []
        if self.shape_conflicts:
            parts.append(
                "different shapes: "
                + some(f"{n} {a} against {b}" for n, (a, b) in self.shape_conflicts.items())
            )
        if self.only_here:
            hinted = (n + nearest_name(n, self.only_there) for n in self.only_here)
            parts.append(f"{missing or 'only here'}: {some(hinted)}")
        if self.only_there and missing is None:
            parts.append("only there: " + some(self.only_there))
        return "; ".join(parts) or "equal"


@dataclass(frozen=True)
class ParameterLayout:
    """The order, names and shapes of the parameters in a flat vector of D weights.

    The layout, not ``module.parameters()``, decides positions; modules are looked up by name.
    Only trainable parameters enter, tied ones once (under the first name); buffers never do.

    Parameters
    ----------
    names
        Parameter names as in ``module.named_parameters()``.
    shapes
        One shape a name.

    Raises
    ------
    LayoutMismatchError
        If the lengths differ, a name occurs twice or is no text, or a size is no count.

    Examples
    --------
    >>> layout = ParameterLayout.from_module(nn.Linear(3, 2))
    >>> layout.names, layout.dim
    (('weight', 'bias'), 8)
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes):
            raise LayoutMismatchError(f"{len(self.names)} names but {len(self.shapes)} shapes")
        if len(set(self.names)) != len(self.names):
            twice = next(n for n in self.names if self.names.count(n) > 1)
            raise LayoutMismatchError(f"the parameter name {twice!r} occurs twice in a layout")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if not isinstance(name, str) or not name.isprintable():
                raise LayoutMismatchError(f"a parameter's name must be text, got {name!a}")
            if not all(type(size) is int and size >= 0 for size in shape):
                raise LayoutMismatchError(
                    f"the shape of {name!r} must hold integers of 0 or more, got {shape!r}"
                )

    @classmethod
    @checked(module="network")
    def from_module(
        cls, module: nn.Module, include: Callable[[str], bool] | None = None
    ) -> "ParameterLayout":
        """Read the layout of a module's trainable parameters.

        Parameters
        ----------
        module
            Any module.
        include
            Keeps the names for which it is true; all by default.
        """
        named = [
            (name, tuple(p.shape))
            for name, p in module.named_parameters()
            if p.requires_grad and (include is None or include(name))
        ]
        return cls(tuple(n for n, _ in named), tuple(s for _, s in named))

    @functools.cached_property
    def slices(self) -> dict[str, slice]:
        """``name -> slice`` of the flat vector."""
        out, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            stop = start + math.prod(shape)
            out[name] = slice(start, stop)
            start = stop
        return out

    @functools.cached_property
    def dim(self) -> int:
        """D, the number of weights."""
        return sum(math.prod(shape) for shape in self.shapes)

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, name: str) -> slice:
        """Return the positions of one parameter.

        Raises
        ------
        LayoutMismatchError
            If the layout has no such name; the message gives the nearest one.
        """
        if name not in self.slices:
            raise LayoutMismatchError(
                f"no parameter {name!r} in this layout{nearest_name(name, self.names)}"
            )
        return self.slices[name]

    def parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """Return the module's parameters in this layout's order.

        Raises
        ------
        LayoutMismatchError
            If one is missing or has another shape.
        """
        found = dict(module.named_parameters(remove_duplicate=False))
        out = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in found or tuple(found[name].shape) != shape:
                module_layout = ParameterLayout(
                    tuple(found), tuple(tuple(p.shape) for p in found.values())
                )
                diff = self.compare(module_layout).describe(missing="missing in the module")
                raise LayoutMismatchError(
                    f"the module {type(module).__name__} does not match the layout: {diff}"
                )
            out.append(found[name])
        return out

    def flatten(
        self, module: nn.Module, *, out: Float[Tensor, " D"] | None = None
    ) -> Float[Tensor, " D"]:
        """Copy the module's parameters into a flat vector of shape (D,), a new one or ``out``."""
        return self.flatten_tensors(self.parameters(module), out=out)

    def flatten_tensors(
        self, tensors: Iterable[Tensor], *, out: Float[Tensor, " D"] | None = None
    ) -> Float[Tensor, " D"]:
        """Copy tensors given in layout order into a flat vector, a new one or ``out``."""
        flat = [t.detach().reshape(-1) for t in tensors]
        return torch.cat(flat, out=out) if flat else torch.empty(0)

    @torch.no_grad()
    def load_(self, module: nn.Module, weights: Float[Tensor, " D"]) -> None:
        """Write a flat vector of shape (D,) into the module's parameters, in place.

        Raises
        ------
        LayoutMismatchError
            If the vector's length is not D or the module lacks a parameter.
        """
        self.check_dim(weights)
        for param, view in zip(
            self.parameters(module), self.unflatten(weights).values(), strict=True
        ):
            param.copy_(view)

    def unflatten(self, weights: Float[Tensor, "*batch D"]) -> dict[str, Tensor]:
        """Return views of a vector (or a stack of vectors, last axis D) by name."""
        self.check_dim(weights)
        lead = weights.shape[:-1]
        return {
            name: weights[..., where].reshape((*lead, *shape))
            for (name, where), shape in zip(self.slices.items(), self.shapes, strict=True)
        }

    def check_dim(self, weights: Tensor) -> None:
        """Raise `LayoutMismatchError` unless the last axis has length D."""
        if weights.shape[-1:] != (self.dim,):
            raise LayoutMismatchError(
                f"expected weights whose last axis is D = {self.dim}, "
                f"got shape {tuple(weights.shape)}"
            )

    def select(self, names: Iterable[str]) -> "ParameterLayout":
        """Return the sub-layout with these names, in this layout's order."""
        wanted = set(names)
        for name in wanted:
            self.slice(name)
        kept = [(n, s) for n, s in zip(self.names, self.shapes, strict=True) if n in wanted]
        return ParameterLayout(tuple(n for n, _ in kept), tuple(s for _, s in kept))

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str]) -> "ParameterLayout":
        """Return the same positions under new names.

        Parameters
        ----------
        mapping
            ``old name -> new name`` (names that it lacks stay) or a function of the old name.
        """
        if not callable(mapping):
            for old in mapping:
                self.slice(old)
        rename = mapping if callable(mapping) else lambda name: mapping.get(name, name)
        return ParameterLayout(tuple(rename(n) for n in self.names), self.shapes)

    def extend(self, other: "ParameterLayout") -> "ParameterLayout":
        """Return this layout followed by the parameters that only ``other`` has, in its order.

        Raises
        ------
        LayoutMismatchError
            If ``other`` lacks one of this layout's parameters or has it in another shape.
        """
        diff = self.compare(other)
        if diff.only_here or diff.shape_conflicts:
            raise LayoutMismatchError(f"cannot extend: {diff.describe(missing='missing there')}")
        new = other.select(diff.only_there)
        return ParameterLayout(self.names + new.names, self.shapes + new.shapes)

    def compare(self, other: "ParameterLayout") -> LayoutDiff:
        """Compare by name and shape; the order does not matter."""
        here = dict(zip(self.names, self.shapes, strict=True))
        there = dict(zip(other.names, other.shapes, strict=True))
        both = [n for n in here if n in there]
        return LayoutDiff(
            shared=tuple(n for n in both if here[n] == there[n]),
            only_here=tuple(n for n in here if n not in there),
            only_there=tuple(n for n in there if n not in here),
            shape_conflicts={n: (here[n], there[n]) for n in both if here[n] != there[n]},
        )

    def to_json(self) -> str:
        """Return ``[[name, [shape]], ...]`` as JSON."""
        return json.dumps([[n, list(s)] for n, s in zip(self.names, self.shapes, strict=True)])

    @classmethod
    def from_json(cls, text: str) -> "ParameterLayout":
        """Inverse of `to_json`."""
        pairs = json.loads(text)
        return cls(tuple(n for n, _ in pairs), tuple(tuple(s) for _, s in pairs))

    def digest(self) -> str:
        """Return a SHA-256 of names, shapes and order (hexadecimal)."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()
