import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.study_options import StudyOptions
from bayesprior.recipes.study_plan import Configuration, Method, edges, evaluations, plan, select


def planned(budget=100, baseline=None, **methods):
    return plan(
        StudyOptions(
            data="d", model="m", source="s", methods=methods, budget=budget, baseline=baseline
        )
    )


def test_open_steps_use_the_budget_up():
    swag = {"inference": "swag", "num_snapshots": 20, "rank": 10, "collect_every": 2}
    sgld = {"inference": "sgld", "chains": 2, "num_draws": 10, "thin": 2}
    cyclical = {"inference": "sghmc", "chains": 1, "num_draws": 4, "thin": 2, "cycles": 2}
    few = {"num_steps": 30}
    found = planned(map={}, few=few, swag=swag, sgld=sgld, cyclical=cyclical)
    used = {
        name: evaluations(m.inference, m.configurations[0].options) for name, m in found.items()
    }
    assert used == {"map": 100, "few": 30, "swag": 100, "sgld": 100, "cyclical": 100}
    assert found["cyclical"].configurations[0].options["burn_in"] == 46


def test_a_grid_reaches_the_fit_and_the_prior():
    method = planned(
        a={
            "inference": "swag",
            "num_snapshots": 20,
            "rank": 10,
            "collect_every": 2,
            "prior": {"shape": "low-rank", "head_std": 2.0},
            "grid": {"lr": [0.1, 0.2], "prior.rank": [1, 2], "rms_std": [0.5]},
        }
    )["a"]
    names = [c.name for c in method.configurations]
    assert names[0] == "lr=0.1,prior.rank=1,rms_std=0.5"
    assert len(set(names)) == 4
    last = method.configurations[-1]
    assert (last.options["lr"], last.prior, last.rms_std) == (
        0.2,
        {"shape": "low-rank", "head_std": 2.0, "rank": 2},
        0.5,
    )


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"num_steps": 101}, "method 'a': a fit takes 101 gradient evaluations, the budget is 100"),
        ({"inference": "swag", "collect_every": 5}, "snapshots or draws leave no step"),
        ({"learning_rate": 1}, "'learning_rate' is no option of its fit"),
        ({"num_step": 1}, "did you mean 'num_steps'"),
        ({"prior": {"shap": "zero"}}, "no option of its prior; did you mean 'shape'"),
        ({"batch_size": 3}, "'batch_size' is the study's own"),
        ({"inference": "swag", "start": "random"}, "start='random' is for inference: map"),
        ({"inference": "mcmc"}, "inference must be one of"),
        ("map", "it must map names to values"),
    ],
)
def test_mistakes_are_told_before_any_work(method, message):
    with pytest.raises(ConfigError, match=message):
        planned(a=method)


def test_names_are_checked():
    with pytest.raises(ConfigError, match="methods is empty"):
        planned()
    with pytest.raises(ConfigError, match="a name becomes a folder"):
        planned(**{"../a": {}})
    with pytest.raises(ConfigError, match="baseline 'MAPP' is none of the methods.*'MAP'"):
        planned(baseline="MAPP", MAP={})


def test_the_least_mean_is_chosen_and_divergence_never():
    method = planned(a={"snapshots": 2, "grid": {"lr": [0.1, 0.2, 0.3]}})["a"]
    scores = {
        0: [{"50": 1.0, "100": 0.5}, {"50": 0.9, "100": 1.6}],
        1: [{"50": 0.1, "100": 0.1}, {}],
        2: [{"50": None, "100": 2.0}, {"50": 0.1, "100": 2.0}],
    }
    chosen, tried = select(method, scores)
    assert chosen.chosen == {"lr": 0.1, "stop": 50}
    assert "snapshots" not in chosen.options
    assert chosen.options["stop"] == 50
    assert [row["validation_nll"] for row in tried] == pytest.approx(
        [0.95, 1.05, float("inf"), float("inf"), float("inf"), 2.0]
    )
    with pytest.raises(ConfigError, match="every configuration diverged"):
        select(method, {0: [{}]})


def test_a_choice_at_the_edge_is_told():
    grid = {"lr": [0.1, 0.2], "rms_std": [0.01, 0.1, 1.0]}

    def said(width):
        chosen = {"lr": 0.1, "rms_std": width}
        return list(
            edges(Method("M", "map", "prior", grid, ()), Configuration(chosen, {}, {}, 1.0))
        )

    assert said(1.0) == [
        "M: selected at the edge of the grid (rms_std = 1, the widest): the choice was for as "
        "little prior as the grid has."
    ]
    assert "narrower prior may do better" in said(0.01)[0]
    assert said(0.1) == []
