"""Prior gradient of a low-rank Normal: closed form against torch's class and autograd.

    python benchmarks/prior_gradient.py [--quick] [--imagenet]

Both add the gradient of -log p / N to ``.grad`` of a module's parameters, which is there already,
as after ``backward`` of the loss: ours by `PriorTerm.add_to_grad` (flatten,
`GaussianWeights.score`, add), torch's by ``log_prob`` of the concatenated parameters and
``backward``. ``score`` alone is compared with what the memory could do at best: it has to move
(2 K + 7) D floats, a copy moves 2 D.
"""

import argparse
from collections.abc import Sequence

import _bench
import torch
from torch import nn
from torch.distributions import LowRankMultivariateNormal

from bayesprior.inference.prior_term import PriorTerm
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

NUM_DATA = 1000
BLOCKS = 20  # a network has some tens of tensors


class Problem:
    """A module of D weights and a prior of rank K on it."""

    def __init__(self, dim: int, rank: int, kind: str = "both") -> None:
        generator = torch.Generator().manual_seed(0)
        sizes = [dim // BLOCKS] * (BLOCKS - 1) + [dim - dim // BLOCKS * (BLOCKS - 1)]
        self.module = nn.ParameterList(torch.randn(n, generator=generator) * 0.1 for n in sizes)
        loc = torch.zeros(dim)
        diag = torch.rand(dim, generator=generator) * 1e-2 + 1e-3
        factor = torch.randn(rank, dim, generator=generator).mul_(0.01).T
        if kind != "torch":
            prior = GaussianWeights(ParameterLayout.from_module(self.module), loc, diag, factor)
            self.prior = prior
            self.term = PriorTerm(self.module, prior, NUM_DATA)
            self.weights = prior.layout.flatten(self.module)
            self.scores = torch.empty(dim)
            self.closed_form()  # what is computed once and kept
        if kind != "ours":
            self.law = LowRankMultivariateNormal(
                loc, factor.contiguous(), diag, validate_args=False
            )

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.module:
            parameter.grad = None

    def closed_form(self) -> None:
        """Add the gradient our way."""
        self.term.add_to_grad()

    def score(self) -> None:
        """Compute the score of weights that are flat already."""
        self.prior.score(self.weights, out=self.scores)

    def autograd(self) -> None:
        """Add the gradient by torch's class and autograd."""
        flat = torch.cat([p.reshape(-1) for p in self.module])
        (self.law.log_prob(flat) / -NUM_DATA).backward()


def network_step(imagenet: bool) -> tuple[str, int, object]:
    """Return forward and backward of a ResNet-18, batch 32."""
    from torchvision.models import resnet18

    net = resnet18(weights=None)
    side = 224 if imagenet else 32
    if not imagenet:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = nn.Identity()  # type: ignore[assignment]
    images, labels = torch.randn(32, 3, side, side), torch.randint(0, 1000, (32,))

    def step() -> None:
        net.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()

    return (
        f"ResNet-18 step (batch 32 at {side} x {side})",
        ParameterLayout.from_module(net).dim,
        step,
    )


def speed(dims: Sequence[int], ranks: Sequence[int], rounds: int, imagenet: bool) -> str:
    """Time all sizes; the network's step and the copy are interleaved with them."""
    rows = []
    name, net_dim, step = network_step(imagenet)
    for dim in dims:
        is_network = abs(dim / net_dim - 1) < 0.1 or len(dims) == 1
        for rank in ranks:
            problem = Problem(dim, rank)
            calls = {
                "copy": _bench.copy_call(dim),
                "score": problem.score,
                "ours": problem.closed_form,
                "torch": problem.autograd,
            }
            if is_network:
                calls["step"] = step  # type: ignore[assignment]
            times = _bench.interleaved(calls, rounds=rounds)
            seconds = {key: _bench.median(values) for key, values in times.items()}
            copied = 8 * dim / seconds["copy"] / 1e9
            moved = (2 * rank + 7) * 4 * dim / seconds["score"] / 1e9
            share = f"{100 * seconds['ours'] / seconds['step']:.1f} %" if is_network else ""
            rows.append(
                [
                    f"{dim:.3g}",
                    rank,
                    f"{1e3 * seconds['torch']:.1f}",
                    f"{1e3 * seconds['ours']:.1f}",
                    f"{_bench.ratio(times, 'torch', 'ours'):.1f} x",
                    f"{1e3 * seconds['score']:.1f}",
                    f"{moved:.1f}",
                    f"{copied:.1f}",
                    share,
                ]
            )
            del problem, calls
    header = [
        "D", "K", "torch + autograd, ms", "ours, ms", "speed-up", "score() alone, ms",
        "score() GB/s", "copy GB/s", f"ours / {name}",
    ]  # fmt: skip
    return _bench.table(header, rows)


def memory(dim: int, rank: int) -> str:
    """Peak resident memory during one gradient, each method in its own process."""
    rows = []
    for kind in ("torch", "ours"):
        found = _bench.in_own_process(__file__, kind, str(dim), str(rank))
        extra = found["peak"] - found["before"]
        rows.append(
            [kind, f"{found['before']:.0f}", f"{extra:.0f}", f"{extra * 1e6 / (4 * dim):.1f}"]
        )
    header = [f"D = {dim:.3g}, K = {rank}", "before, MB", "extra at the peak, MB", "in D-vectors"]
    return _bench.table(header, rows) + (
        "\n\nPeak resident set (VmHWM) during one gradient less the resident set before it; the "
        "D-vector of new `.grad` is in both."
    )


def measure(kind: str, dim: int, rank: int) -> dict[str, float]:
    problem = Problem(dim, rank, kind)
    call = problem.autograd if kind == "torch" else problem.closed_form
    problem.clear()
    before, peak = _bench.resident_megabytes(call)
    return {"before": before, "peak": peak}


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--imagenet", action="store_true", help="ResNet-18 at 224 x 224")
    options.add_argument("--dims", nargs="+", type=float, default=[1e6, 11.7e6, 25.6e6])
    options.add_argument("--ranks", nargs="+", type=int, default=[5, 10, 20])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = options.parse_args(argv)
    if arguments.measure:
        kind, dim, rank = arguments.measure
        return _bench.show(measure(kind, int(dim), int(rank)))
    _bench.start(arguments, "Prior gradient")
    dims, ranks, rounds = arguments.dims, arguments.ranks, arguments.rounds
    if arguments.quick:
        dims, ranks, rounds = [2e4], [5], 2
    sizes = [round(dim) for dim in dims]
    print(speed(sizes, ranks, rounds, arguments.imagenet), end="\n\n", flush=True)
    print(memory(sizes[-1], ranks[len(ranks) // 2]), end="\n\n")
    return None


if __name__ == "__main__":
    main()
