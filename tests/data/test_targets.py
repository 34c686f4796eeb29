"""Targets of several labels an example; the other kinds are tested where arrays are read."""

import numpy as np
import pytest
import torch

from bayesprior.data import (
    ArrayDataset,
    DataBundle,
    few_shot,
    from_arrays,
    get_data,
    select_classes,
)
from bayesprior.data.targets import checked_targets
from bayesprior.errors import DataError

X = np.arange(24.0).reshape(6, 4)
Y = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1]])


FEW = pytest.mark.filterwarnings("ignore:.*no training example")


@FEW
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_rows_of_0_and_1_are_several_labels(dtype):
    bundle = from_arrays("t", (X, Y.astype(dtype)), test_fraction=0.3)
    assert (bundle.has_several_labels, bundle.has_masks, bundle.num_numbers) == (True, False, 0)
    assert bundle.class_names == ("0", "1", "2")
    assert (bundle.train.targets.dtype, bundle.train[0][1].shape) == (torch.int64, (3,))
    assert len(bundle.test) == 2


def test_counts_are_of_the_examples_that_have_a_label():
    bundle = from_arrays("t", (X, Y), class_names=("a", "b", "c"))
    assert bundle.class_counts.tolist() == [5, 2, 1]
    with pytest.warns(UserWarning, match="no training example of 1 of its 3 classes: c"):
        from_arrays("t", (X[:5], Y[:5]), class_names=("a", "b", "c"))


def test_named_floats_are_labels_and_others_numbers():
    floats = Y.astype(float)
    assert from_arrays("t", (X, floats), kind="multilabel").has_several_labels
    assert from_arrays("t", (X, floats), class_names=("a", "b", "c")).has_several_labels
    assert from_arrays("t", (X, floats), kind="regression").num_numbers == 3
    with pytest.raises(DataError, match="kind='regression' or 'multilabel'"):
        from_arrays("t", (X, floats))


@pytest.mark.parametrize(
    ("targets", "kind", "message"),
    [
        (Y * 2, None, "must hold 0 or 1 for each of several labels an input, it has 2"),
        (-Y, "multilabel", "it has -1"),
        (Y / 2, "multilabel", r"it has 0\.5"),
        (Y.astype(str), "multilabel", "dtype <U"),
        (Y[:, 0], "multilabel", r"shape \(6,\) but there are 6 inputs; of several labels"),
        (Y[:4], None, r"shape \(4, 3\) but there are 6 inputs"),
        (Y[:, :1], None, "store one label per input"),
    ],
)
def test_others_get_one_line(targets, kind, message):
    with pytest.raises(DataError, match=message) as caught:
        checked_targets("y", targets, 6, kind)
    assert "\n" not in str(caught.value)


def test_splits_have_the_same_labels():
    with pytest.raises(DataError, match=r"test labels of 't' must be .*\(N, 3\).*got .*\(6, 2\)"):
        from_arrays("t", (X, Y), (X + 1, Y[:, :2]))
    data = ArrayDataset(torch.from_numpy(X), torch.from_numpy(2 * Y))
    with pytest.raises(DataError, match="must be 0 or 1 each, several an example; got 2"):
        DataBundle("t", data, class_names=("a", "b", "c"))


@FEW
def test_few_of_them_are_any():
    assert few_shot(from_arrays("t", (X, Y)), num_data=4).num_data == 4
    with pytest.raises(DataError, match="no class for each example"):
        few_shot(from_arrays("t", (X, Y)), per_class=1)


def test_kept_classes_are_columns():
    few = select_classes(from_arrays("t", (X, Y), class_names=("a", "b", "c")), ["c", "a"])
    assert few.class_names == ("c", "a")
    assert few.train.targets.tolist() == Y[:, [2, 0]].tolist()


def test_data_sets_that_do_not_tell_their_targets_are_asked():
    class Rows:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return torch.from_numpy(X[index]), torch.from_numpy(Y[index])

    bundle = DataBundle("t", Rows(), class_names=("a", "b", "c"))
    assert bundle.has_several_labels
    assert bundle.class_counts.tolist() == [5, 2, 1]


@FEW
def test_an_archive_and_a_table_name_their_labels(tmp_path):
    np.savez(tmp_path / "t.npz", x=X, y=Y, class_names=["a", "b", "c"])
    lines = ["u,v,a,b", *(f"{i / 7},{-i},{i % 2},{i % 3 == 0:d}" for i in range(9))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    assert get_data(tmp_path / "t.npz").class_names == ("a", "b", "c")
    table = get_data(tmp_path / "t.csv", target=["a", "b"])
    assert (table.class_names, table.columns) == (("a", "b"), ("u", "v"))
    assert table.has_several_labels
    numbers = get_data(tmp_path / "t.csv", target=["a", "b"], kind="regression")
    assert numbers.num_numbers == 2
    (tmp_path / "t.csv").write_text("u,a,b\n1,0,1\n2,1,3\n")
    with pytest.raises(DataError, match=r"t.csv: .* it has 3; numbers to predict: kind='regress"):
        get_data(tmp_path / "t.csv", target=["a", "b"])
