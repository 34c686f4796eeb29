"""Collecting a SWAG snapshot against copying the weights and against a training step.

    python benchmarks/swag_collect.py [--quick]

MLP 784-1024-1024-10 (1.86 million weights), rank 20.
"""

import time
from collections.abc import Sequence

import _bench
import torch
from torch import nn

from bayesprior.inference.collectors import SWAG
from bayesprior.models import MLP
from bayesprior.weights.layout import ParameterLayout


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _bench.parser(__doc__).parse_args(argv)
    _bench.start(arguments, "SWAG collection")
    quick = arguments.quick
    widths, batch, rounds, rank = ((16,), 8, 4, 3) if quick else ((1024, 1024), 128, 25, 20)
    torch.manual_seed(0)
    net = MLP(784, 10, widths)
    images, labels = torch.randn(batch, 784), torch.randint(0, 10, (batch,))
    layout = ParameterLayout.from_module(net)
    collector = SWAG(rank=rank)

    def collect() -> None:
        collector.update_weights(layout.flatten(net), layout)

    def train() -> None:
        net.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        with torch.no_grad():  # so that snapshots differ
            for parameter in net.parameters():
                parameter.add_(parameter.grad, alpha=-0.01)

    calls = {
        "forward + backward + update": train,
        "copy of the weights": lambda: layout.flatten(net),
        "SWAG collect": collect,
    }
    times = _bench.interleaved(calls, rounds=rounds, warm_up=2)
    rows = [
        [
            name,
            f"{1e3 * _bench.median(times[name]):.2f}",
            f"{_bench.ratio(times, name, 'copy of the weights'):.2f}",
            f"{_bench.ratio(times, name, 'forward + backward + update'):.3f}",
        ]
        for name in calls
    ]
    begin = time.perf_counter()
    law = collector.posterior()
    rows.append(
        [f"posterior(), once (rank {law.rank})", f"{1e3 * (time.perf_counter() - begin):.1f}"]
        + [""] * 2
    )
    header = [f"D = {layout.dim:,}", "ms", "ratio to the copy", "ratio to the training step"]
    print(_bench.table(header, rows), end="\n\n")


if __name__ == "__main__":
    main()
