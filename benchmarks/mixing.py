"""How chains mix in 1,000 steps: 20 handwritten digits under a prior from rendered glyphs.

    python benchmarks/mixing.py [--quick]

Four chains of `bayesprior.sample` with nothing chosen but their length, from draws of the prior; a
logit has the prior standard deviation 5. The first half is burn-in. R-hat and ESS are those of the
held-out log likelihood of single draws.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _bench
import numpy as np
import torch
from torch.nn import functional as F

import bayesprior as bp
from bayesprior.diagnostics.convergence import summarize_chains
from bayesprior.recipes.runs import read_results

NUM_DATA, THIN, HELD_OUT = 20, 4, 300
QUIET: Mapping[str, Any] = {"progress": False, "device": "cpu"}


def problem(source_steps: int) -> tuple[torch.nn.Module, Any, Any]:
    """Return the network, its prior and the data."""
    torch.manual_seed(0)
    glyphs = bp.get_data("glyphs")
    first = bp.get_model("small_conv", in_channels=1, num_classes=62)
    source = bp.fit_source(
        first,
        glyphs,
        head="head",
        rank=10,
        num_steps=source_steps,
        num_snapshots=20,
        collect_every=5,
        **QUIET,
    )
    data = bp.few_shot(bp.get_data("digits"), num_data=NUM_DATA, seed=0)
    network = bp.get_model("small_conv", in_channels=1, num_classes=10)
    return network, bp.make_prior(source, network, head="head", data=data), data


@torch.no_grad()
def held_out(network: torch.nn.Module, draws: Any, data: Any) -> np.ndarray:
    """Return each draw's mean log likelihood of test images, (chains, draws)."""
    inputs, labels = (part[:HELD_OUT] for part in next(iter(data.loader("test", 1000))))
    found: dict[int, list[float]] = {}
    network.eval()
    for draw in draws.draws():
        draws.layout.load_(network, draw.weights)
        found.setdefault(draw.chain, []).append(-float(F.cross_entropy(network(inputs), labels)))
    return np.array(list(found.values()))


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _bench.parser(__doc__).parse_args(argv)
    _bench.start(arguments, "Mixing of samplers")
    source_steps, num_steps = (4, 40) if arguments.quick else (500, 1000)
    network, prior, data = problem(source_steps)
    rows = []
    for sampler in ("sghmc", "sgld"):
        with tempfile.TemporaryDirectory() as out:
            draws = bp.sample(
                network,
                prior,
                data,
                sampler=sampler,
                burn_in=num_steps // 2,
                thin=THIN,
                num_draws=num_steps // 2 // THIN,
                out=out,
                **QUIET,
            )
            values, told = held_out(network, draws, data), read_results(Path(out))["fit"]
        (found,) = summarize_chains({"log likelihood": values})
        friction = "" if told["friction"] is None else f"{told['friction']:.3f}"
        mean = f"{values.mean():.3f}"
        ess = f"{found.ess_bulk:.0f}"
        rows.append([sampler, f"{told['lr']:.3f}", friction, mean, f"{found.rhat:.3f}", ess])
    header = [f"{num_steps} steps, 4 chains", "lr", "friction", "mean", "R-hat", "ESS"]
    print(_bench.table(header, rows), end="\n\n")


if __name__ == "__main__":
    main()
