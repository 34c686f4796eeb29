import dataclasses
import json

import pytest

from bayesprior import recipes
from bayesprior.errors import ConfigError
from bayesprior.recipes import options as groups
from bayesprior.recipes.calls import field_docs
from bayesprior.recipes.prior_options import PriorOptions

GROUPS = [
    g for g in vars(groups).values() if isinstance(g, type) and g.__module__ == groups.__name__
]


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_words_and_a_default_that_passes_its_own_check(group):
    docs = field_docs(group)
    needed = {"data": "d", "model": "m", "source": "s"}
    names = {spec.name for spec in dataclasses.fields(group)}
    found = group(**{k: v for k, v in needed.items() if k in names})
    for spec in dataclasses.fields(group):
        assert docs[spec.name].endswith(".")
        value = getattr(found, spec.name)
        assert value is not None or spec.metadata.get("shown") or group is groups.MadeFrom


def test_every_kind_of_inference_has_a_recipe_that_takes_its_options():
    import inspect

    assert list(groups.METHODS) == ["map", "swag", "sgld", "sghmc"]
    for recipe, group in groups.METHODS.values():
        known = inspect.signature(getattr(recipes, recipe)).parameters
        assert {spec.name for spec in dataclasses.fields(group)} <= set(known)


def test_what_a_folder_records_is_json_and_nothing_but_options():
    class Call(groups.MapOptions, kw_only=False):
        """Arguments."""

        module: object

    found = groups.plain_values(Call(object(), lr=0.5))
    assert found.keys() == {spec.name for spec in dataclasses.fields(groups.MapOptions)}
    assert json.loads(json.dumps(found))["lr"] == 0.5


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        (groups.SourceOptions, {"rank": 0}, "at least 1 and below num_snapshots = 40, got 0"),
        (groups.SwagOptions, {"rank": 40}, "below num_snapshots = 40, got 40"),
        (PriorOptions, {"rms_std": 1, "cov_scale": 1}, "one of rms_std and cov_scale"),
        (PriorOptions, {"shape": "zero", "rank": 1}, "'zero' has no directions"),
        (groups.MapOptions, {"stop": 501}, "stop must be at most num_steps = 500, got 501"),
        (groups.SampleOptions, {"cycles": 7}, "num_draws = 50 is no multiple of cycles = 7"),
        (
            groups.SamplerOptions,
            {"sampler": "sgld", "friction": 0.1},
            "friction belongs to sampler='sghmc'",
        ),
        (groups.SamplerOptions, {"head_lr": 0.1}, "head_lr goes with lr; give both, or none"),
    ],
)
def test_combinations_that_cannot_work(group, options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        group(**options)


def test_defaults_that_depend_on_others():
    assert groups.SourceOptions(rank=0, diagonal_only=True).rank == 0
    assert groups.SamplerOptions(lr=1e-3).friction == 0.1
    assert groups.SamplerOptions().friction is None
    assert groups.SamplerOptions(sampler="sgld", lr=1e-3).friction is None
