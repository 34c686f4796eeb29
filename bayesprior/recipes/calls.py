"""What turns a dataclass of arguments into a public function with that signature."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from bayesprior.errors import nearest_name

__all__ = ["field_docs", "recipe"]

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")


def recipe(arguments: Callable[P, C]) -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Return a decorator: the function takes one value, the public one its fields as arguments.

    Type checkers, ``help()`` and IDEs see every argument with its type and default; the
    docstring's Parameters are the fields' own. A wrong value is told by the dataclass.

    Parameters
    ----------
    arguments
        A frozen dataclass: positional fields for objects, keyword-only ones for options, which
        `bayesprior.recipes.options` holds.
    """

    def decorate(function: Callable[[C], R]) -> Callable[P, R]:
        signature = inspect.signature(arguments)

        @functools.wraps(function)
        def public(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                unknown = (n for n in kwargs if n not in signature.parameters)
                blamed = next((n for n in unknown if repr(n) in str(error)), "")
                hint = nearest_name(blamed, signature.parameters)
                raise TypeError(f"{public.__name__}(): {error}{hint}") from None
            return function(arguments(*args, **kwargs))

        returned = inspect.signature(function).return_annotation
        public.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        public.__annotations__ = {**arguments.__init__.__annotations__, "return": returned}
        del public.__wrapped__
        public.__doc__ = _with_parameters(inspect.getdoc(function) or "", arguments)
        return public

    return decorate


@functools.cache
def field_docs(kind: type[Any]) -> dict[str, str]:
    """Return the text under each field of a dataclass, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for node, after in zip(body, body[1:], strict=False):
            is_field = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[node.target.id] = " ".join(str(after.value.value).split())
    return docs


def _with_parameters(doc: str, arguments: Any) -> str:
    """Put a Parameters section of the fields behind the summary."""
    docs, lines = field_docs(arguments), ["", "Parameters", "----------"]
    for spec in sorted(dataclasses.fields(arguments), key=lambda spec: bool(spec.kw_only)):
        text = textwrap.wrap(docs.get(spec.name, ""), 92)
        lines += [spec.name, *(f"    {line}" for line in text)]
    head, found, rest = doc.partition("\nReturns\n")
    return "\n".join([head.rstrip(), *lines, "", found.lstrip() + rest]).rstrip()
