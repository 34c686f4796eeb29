import copy
import pickle

import pytest
import torch

from bayesprior.errors import ConfigError
from bayesprior.inference.collectors import DrawsInMemory
from bayesprior.inference.posteriors import PointPosterior, StoredDraws, save_draw
from bayesprior.inference.protocols import Draw
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

LAYOUT = ParameterLayout(("a",), ((2,),))
DRAW = Draw(0, 0, torch.zeros(2))


def stored(folder):
    save_draw(folder / "chain-00", LAYOUT, DRAW)
    return StoredDraws(folder)


@pytest.mark.parametrize(
    "make",
    [
        lambda _: PointPosterior(LAYOUT, torch.zeros(2)),
        lambda _: GaussianWeights.point(LAYOUT, torch.zeros(2), 1.0),
        lambda _: DrawsInMemory([DRAW], LAYOUT),
        stored,
    ],
)
def test_only_a_bound_posterior_predicts(tmp_path, make):
    posterior, seen = make(tmp_path), []

    def predictor(law, inputs, **options):
        seen.append((law, inputs, options))
        return torch.ones(1, 1)

    with pytest.raises(ConfigError, match=r"bp\.predict.* bp\.load_run") as error:
        posterior.predict_proba(torch.zeros(1, 3))
    assert "\n" not in str(error.value)
    assert posterior.bind(predictor) is posterior
    assert posterior.predict_proba(3, seed=1).item() == 1
    assert seen == [(posterior, 3, {"seed": 1})]
    for other in (copy.copy(posterior), pickle.loads(pickle.dumps(posterior))):
        with pytest.raises(ConfigError, match="does not know its network"):
            other.predict_proba(3)


def test_a_notebook_shows_what_the_weights_are(tmp_path):
    prior = GaussianWeights.point(LAYOUT, torch.zeros(2), 0.5)
    shown = prior._repr_html_()
    assert "<caption>GaussianWeights</caption><tr><th>weights</th><td>2 in 1 parameters" in shown
    assert "<tr><th>rank</th><td>0</td></tr>" in shown
    assert "<tr><th>rms std</th><td>0.5</td></tr>" in shown
    point = PointPosterior(LAYOUT, torch.zeros(2), provenance={"model": "<b>", "kept": [1]})
    assert "<tr><th>model</th><td>&lt;b&gt;</td></tr>" in point._repr_html_()
    assert "kept" not in point._repr_html_()
    assert "<tr><th>num chains</th><td>1</td></tr>" in stored(tmp_path)._repr_html_()
