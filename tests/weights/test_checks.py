"""The numbers of a law: what is refused, and what a transform lets through."""

import pytest
import torch

from bayesprior.errors import ConfigError
from bayesprior.weights.checks import check_positive, check_range, check_vector, transformed


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), None, torch.tensor(0.0)])
def test_check_positive(value):
    with pytest.raises(ConfigError, match="width must be a positive number"):
        check_positive("width", value)
    check_positive("width", torch.tensor([2.0], requires_grad=True))


def test_check_vector_takes_an_empty_one():
    check_vector("loc", torch.empty(0), 0)


def test_a_mapped_number_has_no_value_to_check():
    assert not transformed()

    def width(number):
        assert transformed()
        check_positive("width", number)
        return number

    torch.testing.assert_close(
        torch.vmap(width)(torch.tensor([-1.0, 2.0])), torch.tensor([-1.0, 2])
    )


@pytest.mark.parametrize("values", [(0.0, 1.0), (1e-45, 1.0), (1.0, 1e39), (1.0, torch.inf)])
def test_check_range(values):
    with pytest.raises(ConfigError, match=r"jitter makes variances .* torch\.float32 cannot hold"):
        check_range("jitter", *values, torch.float32)
    check_range("jitter", 1e-30, 1e30, torch.float32)
