import pytest

from bayesprior.errors import ConfigError
from bayesprior.recipes.options import plain_values
from bayesprior.recipes.study_options import DemoOptions, StudyOptions

STUDY = {"data": "d", "model": "m", "source": "s"}


def test_numbers_of_examples_are_one_or_several():
    assert StudyOptions(**STUDY, num_data=20).num_data == (20,)
    assert StudyOptions(**STUDY, num_data=[20, 50]).num_data == (20, 50)


def test_a_folder_records_the_options_of_all_groups():
    recorded = plain_values(StudyOptions(**STUDY, seeds=3))
    assert (recorded["seeds"], recorded["model"], recorded["seed"]) == (3, "m", 0)


def test_the_demo_wants_an_image_of_each_digit():
    with pytest.raises(ConfigError, match="num_data must be at least 10"):
        DemoOptions(num_data=9)
