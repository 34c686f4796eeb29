"""What a prior is asked for, before anything heavy is imported."""

import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.options import plain_values
from bayesprior.recipes.prior_options import PriorOptions


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rms_std": 1, "rms_ratio": 1}, "one of rms_std and rms_ratio"),
        ({"cov_scale": 1, "rms_ratio": 1}, "one of cov_scale and rms_ratio"),
        ({"head_std": 1, "head_logit_std": 5}, "one of head_std and head_logit_std"),
        ({"head_std": 1, "head_prior": "learned"}, "give head_logit_std"),
        ({"head_prior": "wide"}, "head_prior must be one of"),
        ({"rms_ratio": 0}, "rms_ratio must be above 0"),
    ],
)
def test_what_contradicts_itself_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        PriorOptions(**given)


def test_a_folder_records_them():
    found = plain_values(PriorOptions(head_logit_std=3))
    assert found["head_logit_std"] == 3.0
    assert found["head_prior"] == "auto"
    assert found.keys() >= {"rms_ratio", "head_std", "shape"}
