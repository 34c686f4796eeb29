import numpy as np
import pytest

from bayesprior.errors import DataError
from bayesprior.report.confusion import confusion_matrix


def test_confusion_matrix_shades_shares_of_the_true_class():
    counts = np.array([[3, 1, 0], [0, 0, 0], [5, 0, 5]])
    [axes] = confusion_matrix(counts, ["a", "b", "c"]).axes
    shades = {tuple(bar.get_center()): bar.get_facecolor()[3] for bar in axes.patches}
    places = {(0, 0): 0.75, (1, 0): 0.25, (0, 2): 0.5, (2, 2): 0.5}
    assert shades == {place: pytest.approx(0.65 * share) for place, share in places.items()}
    assert [text.get_text() for text in axes.texts] == ["3", "1", "5", "5"]
    with pytest.raises(DataError, match="26 classes are too many"):
        confusion_matrix(np.eye(26, dtype=int), [str(k) for k in range(26)])
