"""One evaluation of a Pyro potential and its gradient against the bare module.

    python benchmarks/pyro_potential.py [--quick]

MLP 784-1024-1024-10 (1.86 million weights), batch 128, a prior of rank 20. "Evaluation" is the
potential energy of one batch and its gradient: forward, backward and, in the second half of the
table, the prior's gradient. Pyro's own way is the log density of a trace by autograd, with our
prior and with torch's.
"""

from collections.abc import Callable, Sequence

import _bench
import pyro
import torch
from pyro import poutine

from bayesprior.inference.prior_term import PriorTerm
from bayesprior.models import MLP
from bayesprior.probabilistic import BayesianNetwork, PyroPotential
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

NUM_DATA = 60_000


def problem(
    widths: tuple[int, ...], batch_size: int, rank: int
) -> tuple[MLP, GaussianWeights, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    net = MLP(784, 10, widths)
    layout = ParameterLayout.from_module(net)
    factor = torch.randn(rank, layout.dim).mul_(0.02).T
    prior = GaussianWeights(layout, layout.flatten(net), torch.full((layout.dim,), 1e-2), factor)
    return net, prior, (torch.randn(batch_size, 784), torch.randint(0, 10, (batch_size,)))


def bare(size: tuple[tuple[int, ...], int, int], *, with_prior: bool) -> Callable[[], None]:
    net, prior, batch = problem(*size)
    loss_fn = supervised(Categorical())
    term = PriorTerm(net, prior, NUM_DATA)

    def call() -> None:
        loss_fn(net, batch)[0].backward()
        if with_prior:
            term.add_to_grad()
        net.zero_grad()

    return call


def potential(size: tuple[tuple[int, ...], int, int], *, with_prior: bool) -> Callable[[], None]:
    net, prior, batch = problem(*size)
    model = PyroPotential(BayesianNetwork(net, prior, Categorical(), NUM_DATA), batch)
    assert model.prior is not None
    term = PriorTerm(model, model.prior, NUM_DATA)

    def call() -> None:
        model(batch).backward()
        if with_prior:
            term.add_to_grad()
        model.zero_grad()

    return call


def pyros(size: tuple[tuple[int, ...], int, int], *, stock: bool) -> Callable[[], None]:
    net, prior, batch = problem(*size)
    model = BayesianNetwork(net, prior, Categorical(), NUM_DATA)
    if stock:
        law = prior.to_pyro()

        def model(x, y, network=model):  # type: ignore[no-redef,no-untyped-def]
            weights = pyro.sample("weights", law)
            poutine.block(poutine.condition(network, {"weights": weights}), hide=["weights"])(x, y)

    weights = prior.loc.clone().requires_grad_()

    def call() -> None:
        fixed = poutine.condition(model, {"weights": weights})
        trace = poutine.trace(fixed).get_trace(*batch)
        (-trace.log_prob_sum() / NUM_DATA).backward()
        weights.grad = None

    return call


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _bench.parser(__doc__).parse_args(argv)
    _bench.start(arguments, "Pyro potential")
    size = ((16,), 8, 3) if arguments.quick else ((1024, 1024), 128, 20)
    calls = {
        "module": bare(size, with_prior=False),
        "PyroPotential": potential(size, with_prior=False),
        "module + closed-form prior": bare(size, with_prior=True),
        "PyroPotential + closed-form prior": potential(size, with_prior=True),
        "Pyro's trace, our prior by autograd": pyros(size, stock=False),
        "Pyro's trace, torch's prior by autograd": pyros(size, stock=True),
    }
    times = _bench.interleaved(calls, rounds=3 if arguments.quick else 30)
    names = list(calls)
    rows = []
    for index, name in enumerate(names):
        base = names[0] if index < 2 else names[2]
        rows.append(
            [
                name,
                f"{1e3 * _bench.median(times[name]):.2f}",
                f"{_bench.ratio(times, name, base):.3f}",
                base,
            ]
        )
    print(_bench.table(["evaluation", "ms", "ratio", "to"], rows), end="\n\n")


if __name__ == "__main__":
    main()
