import csv
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bayesprior.errors import ConfigError, DataError
from bayesprior.recipes.new_data import (
    NewLabels,
    NewNumbers,
    fitted_threshold,
    predict_new,
)
from bayesprior.recipes.saved import load_run

QUIET = {"device": "cpu", "progress": False}


@pytest.fixture
def pictures(striped, tmp_path):
    """The first test images as files, one of them in a folder of its own."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    with np.load(striped / "data.npz") as arrays:
        images = arrays["x_test"][:4]
    for number, image in enumerate(images):
        where = folder / "more" if number == 3 else folder
        Image.fromarray(image).save(where / f"{number}.png")
    np.savez(tmp_path / "new.npz", x=images)
    np.savez(tmp_path / "float.npz", x=(images / 255).astype(np.float32))
    return folder


def expected(run, num):
    """Average over draws of the softmax at the first test images, by hand."""
    fit = load_run(run)
    inputs, _ = next(iter(fit.data.loader("test", num)))
    draws = []
    for draw in fit.posterior.draws():
        fit.posterior.layout.load_(fit.module, draw.weights)
        with torch.no_grad():
            draws.append(fit.module.eval()(inputs).double().softmax(1))
    return torch.stack(draws).mean(0).numpy()


@pytest.mark.parametrize("name", ["map", "sgld"])
def test_pictures_and_arrays_get_the_probabilities_of_the_test_split(
    striped, pictures, tmp_path, name
):
    probs = expected(striped / name, 4)
    for new in ([pictures], [tmp_path / "new.npz"], [tmp_path / "float.npz"]):
        found = predict_new(striped / name, new, batch_size=3, **QUIET)
        np.testing.assert_allclose(found.probs, probs, atol=1e-6)
    order = [pictures / "2.png", pictures / "0.png"]
    found = predict_new(striped / name, order, **QUIET)
    np.testing.assert_allclose(found.probs, probs[[2, 0]], atol=1e-6)
    assert found.files == tuple(map(str, order))


def test_rows_name_file_class_probabilities_entropy_and_abstention(striped, pictures, tmp_path):
    found = predict_new(striped / "map", [pictures, tmp_path / "new.npz"], **QUIET)
    found.write(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "class", "p(entropy)", "low", "high", "entropy", "abstain"]
    assert [row[0] for row in rows[3:6]] == [
        str(pictures / "more" / "3.png"),
        f"{tmp_path / 'new.npz'}[0]",
        f"{tmp_path / 'new.npz'}[1]",
    ]
    for row, probs in zip(rows, found.probs, strict=True):
        values = np.array(row[2:5], float)
        np.testing.assert_allclose(values, probs, rtol=1e-5)
        assert row[1] == ("entropy", "low", "high")[values.argmax()]
        assert float(row[5]) == pytest.approx(-(probs * np.log(probs)).sum(), rel=1e-4)
        assert row[6] == str(bool(probs.max() < found.threshold.confidence)).lower()


def test_without_validation_data_nothing_is_abstained_from(striped, pictures):
    found = predict_new(striped / "bare", [pictures], **QUIET)
    assert found.threshold is None
    assert {row["abstain"] for row in found.rows()} == {None}
    assert found.csv().splitlines()[1].endswith(",")


def test_what_cannot_be_read_is_named_and_the_rest_predicted(striped, pictures, tmp_path):
    (pictures / "bad.png").write_text("no picture")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(pictures / "large.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(pictures / "deep.png")
    os.mkfifo(pictures / "pipe.png")
    np.savez(tmp_path / "nothing.npz", y=np.zeros(3))
    np.savez(tmp_path / "nan.npz", x=np.full((2, 8, 8), np.nan, np.float32))
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}]))
    (tmp_path / "text.npz").write_text("no archive")
    archives = [tmp_path / f"{n}.npz" for n in ("nothing", "nan", "objects", "text")]
    found = predict_new(striped / "map", [pictures, *archives], **QUIET)
    assert len(found.files) == 4
    said = {os.path.basename(file): reason for file, reason in found.unreadable.items()}
    assert "cannot identify image" in said["bad.png"]
    assert "the shape (1, 9, 9), the run's inputs have (1, 8, 8)" in said["large.png"]
    assert "more than 8 bits" in said["deep.png"]
    assert said["pipe.png"] == "is no file"
    assert "lacks the array x (it holds y)" in said["nothing.npz"]
    assert "NaN" in said["nan.npz"]
    assert "cannot be read" in said["objects.npz"]
    assert "cannot be read" in said["text.npz"]
    with pytest.raises(DataError, match=r"nothing could be read: .*bad\.png"):
        predict_new(striped / "map", [pictures / "bad.png"], **QUIET)


def test_color_becomes_gray_as_the_run_wants_it(striped, pictures):
    with Image.open(pictures / "0.png") as image:
        image.convert("RGB").save(pictures / "color.png")
    found = predict_new(striped / "map", [pictures / "0.png", pictures / "color.png"], **QUIET)
    np.testing.assert_allclose(found.probs[0], found.probs[1], atol=1e-6)


def test_nothing_to_predict(striped, tmp_path):
    (tmp_path / "empty").mkdir()
    for new, message in (
        ([tmp_path / "no.png"], "there is no file or folder"),
        ([tmp_path / "empty"], "holds no pictures"),
        ([], "nothing to predict"),
    ):
        with pytest.raises(ConfigError, match=message):
            predict_new(striped / "map", new, **QUIET)


def test_an_unfinished_run_is_refused(striped, pictures, tmp_path):
    shutil.copytree(striped / "sgld", tmp_path / "half")
    (tmp_path / "half" / "results.json").unlink()
    with pytest.raises(ConfigError, match="is not finished"):
        predict_new(tmp_path / "half", [pictures], **QUIET)


def test_only_our_own_files_are_replaced(striped, pictures, tmp_path):
    found = predict_new(striped / "map", [pictures], **QUIET)
    found.write(tmp_path / "rows.csv")
    found.write(tmp_path / "rows.csv")
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="nothing was overwritten"):
        found.write(tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
    with pytest.raises(ConfigError, match=r"must be a \.csv file"):
        found.write(tmp_path / "rows.txt")


def test_the_threshold_keeps_as_many_answers_as_the_risk_allows():
    rng = np.random.default_rng(0)
    for _ in range(30):
        probs = np.round(rng.dirichlet(np.ones(3), 40), 1) + 1e-3
        targets = rng.integers(0, 3, 40)
        risk = float(rng.uniform(0, 0.7))
        found = fitted_threshold(probs, targets, risk)
        confidence, wrong = probs.max(1), probs.argmax(1) != targets
        kept = confidence >= found.confidence
        assert (found.num_data, found.num_kept) == (40, kept.sum())
        assert found.num_errors == wrong[kept].sum()
        assert not kept.any() or wrong[kept].mean() <= risk + 1e-9
        for level in confidence[confidence < found.confidence]:
            assert wrong[confidence >= level].mean() > risk


def test_labels_that_are_called_as_columns_are_told_apart():
    probs = np.array([[0.9, 0.2], [0.5, 0.7]])
    found = NewLabels(("a", "b"), ("labels", "red"), probs)
    nats = -(probs * np.log(probs) + (1 - probs) * np.log(1 - probs)).sum(1)
    assert found.columns == ["file", "labels", "p(labels)", "red", "entropy"]
    assert [row["labels"] for row in found.rows()] == ["labels", "red"]
    np.testing.assert_allclose([row["entropy"] for row in found.rows()], nats)


def test_intervals_of_numbers_are_the_quantiles(tmp_path):
    ends = np.array([[[0.0, 1.0, 2.0, 5.0], [10.0, 11.0, 12.0, 15.0]]])
    found = NewNumbers(("a",), np.array([[1.5, 11.5]]), np.ones((1, 2)), ends)
    [row] = found.rows()
    assert (row["low_50_0"], row["high_50_0"]) == (1.0, 2.0)
    assert (row["low_90_1"], row["high_90_1"], row["mean_1"]) == (10.0, 15.0, 11.5)
    found.write(tmp_path / "numbers.csv")
    NewLabels(("a",), ("x",), np.ones((1, 1))).write(tmp_path / "numbers.csv")  # ours, too
