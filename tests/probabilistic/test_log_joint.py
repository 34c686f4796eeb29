import pyro
import pyro.distributions as dist
import pytest
import torch
from probabilistic.problems import eight_schools, schools_model
from pyro import poutine
from torch.distributions import biject_to, constraints

from bayesprior.errors import ConfigError
from bayesprior.probabilistic.log_joint import LogJoint
from bayesprior.probabilistic.sites import LatentSite, call_model

REAL, POSITIVE = biject_to(constraints.real), biject_to(constraints.positive)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [((1, 2), (1, 2)), ([1, 2], (1, 2)), ({"a": 1, "b": 2}, (1, 2)), (1, (1, None))],
)
def test_batches_are_arguments(batch, expected):
    assert call_model(lambda a, b=None: (a, b), batch) == expected


def test_the_total():
    latents = {"mu": torch.tensor(1.0), "tau": torch.tensor(0.5), "eta": torch.randn(8)}
    transforms = {"mu": REAL, "tau": POSITIVE, "eta": REAL}
    sites = {name: LatentSite(name, transforms[name], value) for name, value in latents.items()}
    with LogJoint(sites, latents, {}) as joint:
        schools_model(*eight_schools())
    joint.check_complete()
    values = latents | {"tau": latents["tau"].exp()}
    trace = poutine.trace(poutine.condition(schools_model, values)).get_trace(*eight_schools())
    torch.testing.assert_close(joint.total, trace.log_prob_sum() + latents["tau"])


def test_batch_larger_than_its_plate():
    def model():
        with pyro.plate("data", 3, subsample_size=4):
            pyro.sample("y", dist.Normal(torch.zeros(4), 1.0), obs=torch.zeros(4))

    with LogJoint({}, {}, {}), pytest.raises(ConfigError, match="batch of 4 is larger than"):
        model()
