import warnings

import pytest
from recipes_cases import TINY, blobs, interrupt_at, net

from bayesprior.recipes import fit_source
from bayesprior.recipes.runs import add_results, read_results


def test_a_source_that_learned_nothing_is_told_with_its_accuracies(tmp_path):
    options = {**TINY, "lr": 1e-6}
    with pytest.warns(UserWarning, match="learned nothing that shows: .*knn .*linear "):
        fit_source(net(), blobs(3), objective="simclr", out=tmp_path, **options)
    found = read_results(tmp_path)
    assert found["start"].keys() == {"knn", "linear"}
    for name, numbers in found["fit-source"]["accuracy"].items():
        assert numbers["start"] == found["start"][name]
        p, q = numbers["start"], numbers["source"]
        assert numbers["std_error"] ** 2 == pytest.approx((p * (1 - p) + q * (1 - q)) / 60)
        assert 1 / 3 < numbers["source"] <= 1


def test_a_source_that_is_better_than_its_start_is_not_blamed(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            fit_source(net(), blobs(3), objective="simclr", out=tmp_path, **TINY)
    add_results(tmp_path, "start", {"knn": 0.3, "linear": 0.3})  # what a resumed run goes by
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the source has learned nothing")
        fit_source(net(), blobs(3), objective="simclr", out=tmp_path, **TINY)
    found = read_results(tmp_path)["fit-source"]["accuracy"]["linear"]
    assert found["start"] == 0.3
    assert found["source"] > 0.8


def test_it_can_be_left_out(tmp_path):
    fit_source(net(), blobs(3), objective="vicreg", accuracy=False, out=tmp_path, **TINY)
    assert read_results(tmp_path).keys() == {"versions", "fit-source"}
