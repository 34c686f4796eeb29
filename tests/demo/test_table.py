import numpy as np
import pytest

from bayesprior.demo.methods import METHODS
from bayesprior.demo.table import REFERENCE, as_arrays, compare, rows, sentences
from bayesprior.diagnostics.predictions import Outcome


def outcome(loss: float, seed: int) -> Outcome:
    """Two classes; each point's log score is -loss plus noise that all methods share."""
    rng = np.random.default_rng(seed)
    score = -loss - 0.1 * rng.random(50)
    targets = rng.integers(0, 2, 50)
    probs = np.empty((50, 2))
    probs[np.arange(50), targets] = np.exp(score)
    probs[np.arange(50), 1 - targets] = 1 - np.exp(score)
    return Outcome("test", probs, targets, score, np.zeros(50), np.zeros(50))


def outcomes(seeds: int = 4, **losses: float) -> dict[str, list[Outcome]]:
    """Per method its loss; the methods' own differences between seeds cancel."""
    return {
        method: [
            outcome(losses.get(method, 0.3) + 0.002 * (index % 3) * (-1) ** s, s)
            for s in range(seeds)
        ]
        for index, method in enumerate(METHODS)
    }


def test_rows_are_means_and_standard_errors_over_seeds():
    found = outcomes()
    table = rows(found, dict.fromkeys(METHODS, 2.0))
    assert [row["method"] for row in table] == [m.title for m in METHODS.values()]
    losses = [-o.log_score.mean() for o in found["map"]]
    row = next(row for row in table if row["method"] == METHODS["map"].title)
    assert row["nll"] == pytest.approx(np.mean(losses))
    assert row["nll_se"] == pytest.approx(np.std(losses, ddof=1) / 2)
    assert (row["seeds"], row["seconds"]) == (4, 2.0)


def test_differences_are_paired_by_seed():
    found = outcomes(map=0.2)
    gaps = [
        b.log_score.mean() - a.log_score.mean()
        for a, b in zip(found["map"], found[REFERENCE], strict=True)
    ]
    difference = compare(found, "map", REFERENCE)["nll"]
    assert difference["estimate"] == pytest.approx(np.mean(gaps))
    half = 3.182446 * np.std(gaps, ddof=1) / 2  # Student's t, 3 degrees of freedom, 97.5 %
    assert difference["high"] - difference["estimate"] == pytest.approx(half, rel=1e-5)
    assert difference["verdict"] == "better"


def test_sentences_name_better_worse_and_ties():
    said = " ".join(sentences(outcomes(scratch=0.6, sgld=0.2)))
    assert "Worse than fine-tuning: from scratch: NLL +0." in said
    assert "Better than fine-tuning: SGLD, learned prior: NLL -0." in said
    tied = next(s for s in sentences(outcomes()) if s.startswith("Tied"))
    assert all(METHODS[m].title in tied for m in METHODS if m != REFERENCE)
    assert "MAP with the learned prior and L2-SP tie" in said
    assert "brought nothing measurable" in said


def test_a_learned_covariance_that_helps_or_harms_is_said_so():
    assert "is better than L2-SP" in " ".join(sentences(outcomes(map=0.2)))
    assert "is not better than L2-SP" in " ".join(sentences(outcomes(map=0.5)))


def test_a_difference_below_print_is_a_tie():
    found = outcomes()
    moved = [
        Outcome(o.name, o.probs, o.targets, o.log_score - 1e-4, o.aleatoric, o.epistemic)
        for o in found[REFERENCE]
    ]
    assert compare(found | {"map": moved}, "map", REFERENCE)["nll"]["verdict"] == "tie"


def test_one_seed_says_nothing():
    [said] = sentences(outcomes(seeds=1))
    assert "nothing is said of differences" in said


def test_an_outcome_comes_back_from_its_arrays(tmp_path):
    before = outcome(0.3, 1)
    np.savez(tmp_path / "o.npz", **as_arrays(before))
    with np.load(tmp_path / "o.npz") as arrays:
        after = Outcome("test", **{k: arrays[k] for k in arrays.files})
    for name, array in as_arrays(before).items():
        np.testing.assert_array_equal(array, getattr(after, name))
