import dataclasses
import types
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bayesprior.errors import ConfigError
from bayesprior.recipes.fields import Options, option, values_of


class Base(Options):
    """A group."""

    seed: int = option(0, least=0)
    out: str | None = option(None, path=True)


class Group(Base):
    """A larger group."""

    num_steps: int = option(500, least=1)
    lr: float = option(0.03, above=0)
    share: float = option(0.5, least=0, most=1)
    device: str = "auto"
    progress: bool = True
    batch_norm: Literal["frozen", "train"] = "frozen"
    more: dict[str, Any] = dataclasses.field(default_factory=dict)
    nums: tuple[int, ...] = ()


class Positional(Group, kw_only=False):
    """Arguments of a function."""

    module: list[int]


def test_a_group_is_a_frozen_dataclass_of_keywords():
    assert [spec.name for spec in dataclasses.fields(Base)] == ["seed", "out"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Base().seed = 1
    with pytest.raises(TypeError, match="positional"):
        Base(1)
    assert Positional([1], lr=2).module == [1]
    assert Base() != Base()


def test_values_are_brought_to_their_types():
    found = Group(
        num_steps=np.int64(3),
        lr=np.float32(0.5),
        share=torch.tensor(0.25),
        out=Path("~/x"),
        device=0,
        progress=np.True_,
        nums=[1, 2],
        more=types.MappingProxyType({"a": 1}),
    )
    assert type(found.num_steps) is int
    assert (type(found.lr), type(found.share)) == (float, float)
    assert isinstance(found.out, str)
    assert not found.out.startswith("~")
    assert found.device == "cuda:0"
    assert Group(device=torch.device("cuda", 1)).device == "cuda:1"
    assert found.progress is True
    assert (found.nums, found.more) == ((1, 2), {"a": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1e3}, "num_steps must be a whole number, got 1000.0"),
        ({"num_steps": True}, "num_steps must be a whole number, got True"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"seed": 10**21}, "seed must be at most 2.14748e"),
        ({"lr": "fast"}, "lr must be a number, got 'fast'"),
        ({"lr": 0}, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"share": 1.5}, "share must be at most 1, got 1.5"),
        ({"batch_norm": "frosen"}, "got 'frosen'; did you mean 'frozen'?"),
        ({"progress": "yes"}, "progress must be True or False"),
        ({"out": 3}, "out must be a path, got int"),
        ({"more": "a=1"}, "more must map names to values"),
        ({"device": None}, "device must be text, got None"),
    ],
)
def test_a_wrong_value_is_one_line(options, message):
    with pytest.raises(ConfigError) as caught:
        Group(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_values_of_one_group():
    assert values_of(Base, Positional([], seed=3)) == {"seed": 3, "out": None}
