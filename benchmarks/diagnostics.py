"""Time and memory of prediction and diagnostics on large sets.

    python benchmarks/diagnostics.py [--quick]

Each case runs in its own process, whose peak resident memory is compared with what it held before
(interpreter, libraries and the data themselves).
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import _bench
import torch
from torch import Tensor, nn

from bayesprior.inference.protocols import Draw
from bayesprior.prediction.predict import predict
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.pixels import PixelCategorical
from bayesprior.weights.layout import ParameterLayout


class Around:
    """Draws around a module's weights, made when asked for, in two chains."""

    def __init__(self, module: nn.Module, num_draws: int, std: float) -> None:
        self.layout = ParameterLayout.from_module(module)
        self.start = self.layout.flatten(module)
        self.num_draws, self.std = num_draws, std

    def draws(self, num_draws: int | None = None, seed: int = 0) -> Iterator[Draw]:
        """Yield the draws."""
        generator = torch.Generator().manual_seed(seed)
        half = self.num_draws // 2
        for index in range(self.num_draws):
            noise = torch.randn(self.layout.dim, generator=generator)
            yield Draw(index // half, index % half, self.start + self.std * noise)


class Clock:
    """Keeps what each part took, in seconds."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.since = time.perf_counter()

    def stop(self, part: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self.parts[part] = now - self.since
        self.since = now


def classes(quick: bool, clock: Clock) -> Callable[[], None]:
    """200 draws x 10,000 points x 100 classes, to every score, interval and ArviZ's tree."""
    draws, points, num_classes = (8, 200, 10) if quick else (200, 10_000, 100)
    torch.manual_seed(0)
    net = nn.Linear(64, num_classes)
    inputs = torch.randn(points, 64)
    labels = net(inputs).argmax(1)
    loader = list(zip(inputs.split(1000), labels.split(1000), strict=True))
    posterior = Around(net, draws, 0.05)

    def call() -> None:
        from bayesprior.diagnostics.convergence import summarize_chains
        from bayesprior.diagnostics.predictions import Outcome, score_intervals, scores
        from bayesprior.tree.build import to_datatree

        found = predict(net, posterior, loader, Categorical())
        clock.stop("predict")
        outcome = Outcome.from_prediction("test", found)
        scores(outcome)
        clock.stop("scores")
        score_intervals(outcome)
        clock.stop("intervals")
        tree = to_datatree(test=found, mode="summary")
        clock.stop("DataTree")
        likelihood = tree["predictions"]["log_likelihood"].values
        summarize_chains({"log likelihood": likelihood})
        clock.stop("R-hat, ESS")

    return call


def pixels(quick: bool, clock: Clock) -> Callable[[], None]:
    """20 draws x 50 frames of 360 x 480 x 11 classes through the streaming pixel metrics."""
    frames, side, num_classes, draws = (2, (12, 16), 3, 2) if quick else (50, (360, 480), 11, 20)
    torch.manual_seed(0)
    net = nn.Conv2d(3, num_classes, 3, padding=1)
    posterior = Around(net, draws, 0.05)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        for _ in range(frames):
            images = torch.rand(1, 3, *side, generator=generator)
            yield images, torch.randint(0, num_classes, (1, *side), generator=generator)

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return batches()

    def call() -> None:
        predict(net, posterior, Loader(), PixelCategorical())
        clock.stop("predict and metrics")

    return call


CASES = {"classes": classes, "pixels": pixels}


def measure(case: str, quick: bool) -> dict[str, float]:
    clock = Clock()
    call = CASES[case](quick, clock)
    _import_all()
    clock.since = begin = time.perf_counter()
    before, peak = _bench.resident_megabytes(call)
    seconds = time.perf_counter() - begin
    parts = {f"part: {part}": value for part, value in clock.parts.items()}
    return {"seconds": seconds, "before": before, "peak": peak} | parts


def _import_all() -> None:
    import bayesprior.diagnostics.convergence
    import bayesprior.diagnostics.predictions
    import bayesprior.tree.build  # noqa: F401


def main(argv: Sequence[str] | None = None) -> None:
    options = _bench.parser(__doc__)
    options.add_argument("--measure", choices=CASES, help=argparse.SUPPRESS)
    arguments = options.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.measure:
        return _bench.show(measure(arguments.measure, arguments.quick))
    _bench.start(arguments, "Diagnostics of large sets")
    extra = ["--threads", str(arguments.threads)] if arguments.threads else []
    rows = []
    for name, case in CASES.items():
        if arguments.quick:
            found = measure(name, quick=True)
        else:
            found = _bench.in_own_process(__file__, name, *extra)
        parts = [f"{k[6:]} {v:.1f} s" for k, v in found.items() if k.startswith("part: ")]
        rows.append(
            [
                (case.__doc__ or "").rstrip("."),
                f"{found['seconds']:.1f}",
                f"{found['before']:.0f}",
                f"{found['peak'] - found['before']:.0f}",
                ", ".join(parts),
            ]
        )
    header = ["case", "seconds", "resident before, MB", "extra at the peak, MB", "of which"]
    print(_bench.table(header, rows), end="\n\n")
    return None


if __name__ == "__main__":
    main()
