"""What a step of `train` costs beyond the arithmetic: a tiny network on 20 images.

    python benchmarks/engine_overhead.py [--quick]

Few-shot fits are thousands of such steps, each a whole epoch. The hand-written loop does the same
arithmetic (the prior's gradient too) and nothing else: no loader, trace, checks or checkpoints.
"""

import copy
from collections.abc import Callable, Sequence

import _bench
import torch
from torch import nn

from bayesprior.data import from_arrays
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.prior_term import PriorTerm
from bayesprior.inference.schedules import cosine
from bayesprior.models import MLP
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

NUM_DATA = 20
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, tuple[Make, int | None]] = {
    "torch SGD, no prior": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), None),
    "ImplicitPriorSGD, prior of rank 20": (lambda p: ImplicitPriorSGD(p, lr=0.01), 20),
    "SGLD, prior of rank 20": (lambda p: SGLD(p, lr=1e-3, num_data=NUM_DATA), 20),
}


def calls(make: Make, rank: int | None, num_steps: int) -> dict[str, Callable[[], None]]:
    """Return runs of ``num_steps`` steps."""
    torch.manual_seed(0)
    start = MLP(64, 10, (32,))
    images, labels = torch.rand(NUM_DATA, 8, 8), torch.arange(NUM_DATA) % 10
    bundle = from_arrays("tiny", (images.numpy(), labels.numpy()))
    batch = next(iter(bundle.loader("train", NUM_DATA)))
    layout = ParameterLayout.from_module(start)
    prior = None
    if rank is not None:
        diag = torch.full((layout.dim,), 1e-1)
        factor = torch.randn(layout.dim, rank) * 0.05
        prior = GaussianWeights(layout, layout.flatten(start), diag, factor)
    loss_fn = supervised(Categorical())

    def run(loader: object) -> Callable[[], None]:
        def call() -> None:
            net = copy.deepcopy(start)
            optimizer = make(list(net.parameters()))
            train(
                net,
                loss_fn,
                loader,  # type: ignore[arg-type]
                optimizer,
                cosine(num_steps=num_steps),
                num_steps,
                num_data=NUM_DATA,
                prior=prior,
                progress=False,
            )

        return call

    def by_hand() -> None:
        net = copy.deepcopy(start)
        optimizer = make(list(net.parameters()))
        term = PriorTerm(net, prior, NUM_DATA) if prior is not None else None
        if term is not None:
            term.prepare(optimizer)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for _ in range(num_steps):
            loss, _ = loss_fn(net, batch)
            loss.backward()
            if term is not None:
                term.add_to_grad()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    return {
        "by hand": by_hand,
        "train, list of batches": run([batch]),
        "train, DataBundle.loader": run(bundle.loader("train", NUM_DATA, shuffle=True)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _bench.parser(__doc__).parse_args(argv)
    _bench.start(arguments, "Overhead of the engine")
    num_steps, rounds = (20, 2) if arguments.quick else (500, 9)
    rows = []
    for name, (make, rank) in OPTIMIZERS.items():
        times = _bench.interleaved(calls(make, rank, num_steps), rounds=rounds)
        base = _bench.median(times["by hand"])
        for loop, values in times.items():
            milliseconds = 1e3 * _bench.median(values) / num_steps
            over = milliseconds - 1e3 * base / num_steps
            rows.append([name, loop, f"{milliseconds:.3f}", f"{over:+.3f}"])
    header = [f"{num_steps} steps on {NUM_DATA} images", "loop", "ms per step", "overhead, ms"]
    print(_bench.table(header, rows), end="\n\n")


if __name__ == "__main__":
    main()
