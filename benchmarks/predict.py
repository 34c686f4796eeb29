"""`predict` with 30 draws against a plain loop of ``functional_call``.

    python benchmarks/predict.py [--quick]

The plain loop averages the probabilities and nothing else; `predict` also gives entropies, the
log likelihood of every draw and point, and metrics, in float64.
"""

from collections.abc import Iterator, Sequence

import _bench
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprior.inference.protocols import Draw
from bayesprior.models import MLP, SmallConvNet
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.weights.layout import ParameterLayout


class Held:
    """Draws in memory: reading or sampling them is not what is measured."""

    def __init__(self, layout: ParameterLayout, weights: list[Tensor]) -> None:
        self.layout, self.weights = layout, weights

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield the draws."""
        for index, weights in enumerate(self.weights):
            yield Draw(0, index, weights)


@torch.no_grad()
def plain_loop(net: nn.Module, posterior: Held, loader: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    net.eval()
    averages = []
    for inputs, _ in loader:
        total: Tensor | float = 0.0
        for weights in posterior.weights:
            state = posterior.layout.unflatten(weights)
            total = total + functional_call(net, state, (inputs,)).softmax(1)
        averages.append(total / len(posterior.weights))
    return torch.cat(averages)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _bench.parser(__doc__).parse_args(argv)
    _bench.start(arguments, "Prediction")
    num_draws, num_points, batch, rounds = (3, 40, 20, 2) if arguments.quick else (30, 2000, 500, 5)
    torch.manual_seed(0)
    cases: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "MLP 784-1024-1024-10": (MLP(784, 10), (784,)),
        "SmallConvNet at 28 x 28": (SmallConvNet(1, 10), (1, 28, 28)),
    }
    if arguments.quick:
        cases = {"MLP 784-16-10": (MLP(784, 10, (16,)), (784,))}
    rows = []
    for name, (net, shape) in cases.items():
        layout = ParameterLayout.from_module(net)
        start = layout.flatten(net)
        posterior = Held(layout, [start + 0.01 * torch.randn(layout.dim) for _ in range(num_draws)])
        loader = [
            (torch.randn(batch, *shape), torch.randint(0, 10, (batch,)))
            for _ in range(num_points // batch)
        ]
        calls = {
            "loop": lambda n=net, p=posterior, x=loader: plain_loop(n, p, x),
            "predict": lambda n=net, p=posterior, x=loader: predict(n, p, x, Categorical()),
        }
        plain, ours = calls["loop"](), calls["predict"]().mean_probs
        torch.testing.assert_close(ours.float(), plain, rtol=1e-4, atol=1e-6)
        times = _bench.interleaved(calls, rounds=rounds, warm_up=0)
        seconds = [f"{_bench.median(times[key]):.3f}" for key in calls]
        rows.append([name, *seconds, f"{_bench.ratio(times, 'predict', 'loop'):.2f}"])
    header = [f"{num_draws} draws x {num_points:,} points", "plain loop, s", "predict, s", "ratio"]
    print(_bench.table(header, rows), end="\n\n")


if __name__ == "__main__":
    main()
