import pytest
from probabilistic.problems import Conjugate


@pytest.fixture
def conjugate():
    return Conjugate()
