"""One step of the samplers and of `ImplicitPriorSGD` against forward and backward alone.

    python benchmarks/sampler_step.py [--quick]

MLP 784-1024-1024-10 (1.86 million weights), batch 128, rank 20. Each method takes some steps in a
row before the next one's turn, so that noise computed ahead in the background is paid by the
method that uses it.
"""

from collections.abc import Callable, Sequence

import _bench
import torch
from torch import nn

from bayesprior.inference.optimizers import SGHMC, SGLD, ImplicitPriorSGD
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.models import MLP
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

NUM_DATA = 60_000
Params = list[nn.Parameter]

OPTIMIZERS: dict[str, Callable[[Params], torch.optim.Optimizer] | None] = {
    "nothing": None,
    "torch SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "ImplicitPriorSGD": lambda p: ImplicitPriorSGD(p, lr=1e-3),
    "SGLD": lambda p: SGLD(p, lr=1e-4, num_data=NUM_DATA),
    "SGHMC": lambda p: SGHMC(p, lr=1e-4, num_data=NUM_DATA, friction=0.1),
}


def steps(
    make: Callable[[Params], torch.optim.Optimizer] | None,
    rank: int | None,
    widths: tuple[int, ...],
    batch: int,
    inner: int,
) -> Callable[[], None]:
    """Return a call that takes ``inner`` steps; ``rank`` None is no prior."""
    torch.manual_seed(0)
    net = MLP(784, 10, widths)
    images, labels = torch.randn(batch, 784), torch.randint(0, 10, (batch,))
    optimizer = make(list(net.parameters())) if make is not None else None
    term = None
    if rank is not None:
        layout = ParameterLayout.from_module(net)
        diag = torch.full((layout.dim,), 1e-2)
        factor = torch.randn(rank, layout.dim).mul_(0.02).T
        prior = GaussianWeights(layout, layout.flatten(net), diag, factor)
        term = PriorTerm(net, prior, NUM_DATA)
        if optimizer is not None:
            term.prepare(optimizer)

    def call() -> None:
        for _ in range(inner):
            nn.functional.cross_entropy(net(images), labels).backward()
            if term is not None:
                term.add_to_grad()
            if optimizer is not None:
                optimizer.step()
            net.zero_grad()

    return call


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _bench.parser(__doc__).parse_args(argv)
    _bench.start(arguments, "Sampler step")
    quick = arguments.quick
    widths, batch = ((16,), 8) if quick else ((1024, 1024), 128)
    inner, rounds, rank = (2, 2, 3) if quick else (5, 15, 20)
    calls = {}
    for name, make in OPTIMIZERS.items():
        calls[name, "no prior"] = steps(make, None, widths, batch, inner)
        if make is not None:
            calls[name, f"rank {rank}"] = steps(make, rank, widths, batch, inner)
    named = {" | ".join(key): call for key, call in calls.items()}
    times = _bench.interleaved(named, rounds=rounds)
    base = "nothing | no prior"
    rows = []
    for name, prior in calls:
        key = f"{name} | {prior}"
        relative = _bench.ratio(times, key, base)
        rows.append(
            [name, prior, f"{1e3 * _bench.median(times[key]) / inner:.2f}", f"{relative:.3f}"]
        )
    header = ["after forward and backward", "prior", "ms per step", "ratio to nothing"]
    print(_bench.table(header, rows), end="\n\n")
    print(
        "Samplers on the CPU draw the next step's noise in a background thread: with one core to "
        "spare it is hidden behind the next forward and backward pass.\n"
    )


if __name__ == "__main__":
    main()
