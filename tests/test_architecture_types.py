"""The checker that stands for jaxtyping's own: as strict, letter by letter."""

import dataclasses

import jaxtyping
import pytest
import runtime_types
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

checked = jaxtyping.jaxtyped(typechecker=runtime_types.check)


@checked
def same(x: Float[Tensor, "N"], y: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    return x


@checked
def shorter(x: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
    return x[1:]


@checked
def copies(x: Float[Tensor, "N"], num: int, more: int = 0) -> Float[Tensor, "{num} N"]:
    return x.expand(num + more, -1)


@checked
def inside(pairs: list[tuple[str, Float[Tensor, "N"] | None]]) -> None:
    pass


@checked
def plain(count: int, size: "float" = 1) -> str:
    return "many" if count else None


@checked
@dataclasses.dataclass
class Pair:
    x: Float[Tensor, "N"]
    y: Float[Tensor, "N"]


two, three = torch.ones(2), torch.ones(3)


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (lambda x: same(two, x), three),
        (lambda x: same(two, x), two.long()),
        (lambda x: same(two, x), two[None]),
        (lambda x: shorter(x) if len(x) else x, three),
        (lambda more: copies(two, 2, more), 1),
        (lambda x: inside([("a", x)]), two.long()),
        (plain, "many"),
        (lambda size: plain(1, size), "wide"),
        (plain, 0),
        (lambda x: Pair(two, x), three),
    ],
)
def test_what_an_annotation_forbids_is_refused(call, wrong, monkeypatch):
    with pytest.raises(TypeCheckError):
        call(wrong)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    call(wrong)


def test_the_rest_is_taken():
    assert same(two, two) is two
    assert same(three, three) is three  # a letter counts within one call
    assert copies(two, 2).shape == (2, 2)
    inside([("a", two), ("b", None)])
    assert plain(1, 2) == "many"
    assert Pair(two, two).y is two
