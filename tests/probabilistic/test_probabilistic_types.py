"""Arguments of a wrong type, outside the tests' own type checks: one line that says what to do."""

from forked import run_code

SCRIPT = """
import torch, pyro.distributions as dist
import bayesprior as bp
from bayesprior.weights.layout import ParameterLayout
from bayesprior.probabilistic import StochasticGradientMCMC

net = torch.nn.Linear(2, 1)
prior = bp.GaussianWeights.point(ParameterLayout.from_module(net), torch.zeros(3), std=1.0)
noise, batch = bp.Normal(std=1.0), (torch.zeros(4, 2), torch.zeros(4, 1))
model = bp.BayesianNetwork(net, prior, noise, 4)
sgld = StochasticGradientMCMC(bp.SGLD, lr=0.1)
for call in (
    lambda: bp.BayesianNetwork(net, "prior.safetensors", noise, 4),
    lambda: bp.BayesianNetwork(net, dist.Normal(0.0, 1.0), noise, 4),
    lambda: bp.BayesianNetwork(prior, net, noise, 4),
    lambda: bp.BayesianNetwork(net, prior, "normal", 4),
    lambda: bp.BayesianNetwork(net, prior, noise, None),
    lambda: bp.BayesianNetwork(net, prior, noise, 4.5),
    lambda: StochasticGradientMCMC(bp.SGLD(net.parameters(), lr=0.1, num_data=4)),
    lambda: sgld.run(model, None, num_samples=2, progress=False),
    lambda: sgld.run(model, [batch], num_samples=2.5, progress=False),
):
    try:
        call()
        print("nothing raised")
    except bp.ConfigError as error:
        print(error)
"""

EXPECTED = [
    "prior must be a GaussianWeights, such as GaussianWeights.load(path), got str",
    "prior must be a GaussianWeights, such as GaussianWeights.load(path), got Normal",
    "module must be a network (torch.nn.Module), got GaussianWeights",
    "likelihood must be one of bayesprior.tasks.likelihoods, such as Normal(std=0.1), got 'normal'",
    "num_data must be a whole number, got NoneType",
    "num_data must be a whole number, got 4.5",
    "kernel must make the sampler, such as the class SGLD with lr= beside it, got SGLD",
    "data_loader must yield batches, such as a DataLoader, or [(x, y)] for all data at once, got "
    "NoneType",
    "run() needs num_samples (at least 1), or a schedule with its num_steps",
]


def test_one_line_each():
    done = run_code(SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == EXPECTED
