"""A GPU against the CPU: the same numbers, no waiting in a step, and what a step costs there.

    python benchmarks/gpu.py [--device cuda] [--tiny] [--out gpu.json]

Needs torch, Pyro and Fabric, no data and no ArviZ; eight minutes at most. First every stage
(source, prior, MAP, SWAG, samples, predictions) from the same start on both devices, in float32
and bf16-mixed: how far the results lie apart, as a share of how far the stage itself went. Then
steps of ResNet-50 in the engine, with and without a prior, while CUDA refuses whatever makes the
host wait; a SWAG snapshot; predictions. Ends with everything as one line of JSON.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _bench
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torchvision.models import resnet50

from bayesprior.data import DataBundle, from_arrays
from bayesprior.inference.collectors import SWAG
from bayesprior.inference.engine import train
from bayesprior.inference.optimizers import SGLD, ImplicitPriorSGD
from bayesprior.inference.protocols import Phase, StepEvent
from bayesprior.inference.schedules import constant
from bayesprior.models import SmallConvNet
from bayesprior.prediction.predict import predict
from bayesprior.recipes import fit_map, fit_source, fit_swag, make_prior, sample
from bayesprior.tasks.likelihoods import Categorical
from bayesprior.tasks.objectives import supervised
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout

# Largest distances, as shares of the way; of predictions the largest difference of probabilities.
BOUNDS = {"32-true": 1e-3, "bf16-mixed": 0.3}
STEPS: dict[str, Any] = {"num_steps": 20, "batch_size": 32, "lr": 0.02, "progress": False}
SNAPSHOTS: dict[str, Any] = {"rank": 4, "num_snapshots": 6, "collect_every": 2}
Vectors = Mapping[str, Tensor]


def blobs(num_classes: int, num_data: int = 192) -> DataBundle:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_data) % num_classes
    centers = torch.rand(num_classes, 1, 16, 16, generator=generator)
    images = (centers[labels] + torch.rand(num_data, 1, 16, 16, generator=generator)) / 2
    x, y, half = images[:, 0].numpy(), labels.numpy(), num_data // 2
    names = [str(label) for label in range(num_classes)]
    return from_arrays("blobs", (x[:half], y[:half]), (x[half:], y[half:]), class_names=names)


def network(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return SmallConvNet(1, num_classes, widths=(8, 16), norm="batch")


def stages(
    device: torch.device, precision: str, given: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Vectors]]:
    """Run every stage, from the ``given`` results of the one before; return objects and numbers."""
    target, made, numbers = blobs(2), {}, {}

    def fabric() -> Fabric:
        return Fabric(accelerator=device.type, devices=1, precision=precision)

    def note(name: str, result: Any, **vectors: Tensor) -> Any:
        made[name], numbers[name] = result, {k: v.double().cpu() for k, v in vectors.items()}
        return result if given is None else given[name]

    source = fit_source(network(3), blobs(3), head="head", fabric=fabric(), **SNAPSHOTS, **STEPS)
    source = note("source", source, loc=source.loc, variance=source.variance)
    prior = make_prior(source.to(device), network(2).to(device), head="head", rms_std=0.1)
    value = torch.ones(prior.dim, device=device)
    prior = note("prior", prior, score=prior.score(value), color=prior.color(value))
    fit = fit_map(network(2), prior, target, fabric=fabric(), **STEPS)
    note("map", fit, weights=fit.weights)
    swag = fit_swag(network(2), prior, target, fabric=fabric(), **SNAPSHOTS, **STEPS)
    swag = note("swag", swag, loc=swag.loc, variance=swag.variance)
    chain = {"num_draws": 1, "chains": 1, "thin": 10, "burn_in": 0, "lr": 0.01, "batch_size": 32}
    for sampler in ("sgld", "sghmc"):
        options = {**chain, "sampler": sampler, "temperature": 0.0, "progress": False}
        draws = sample(network(2), prior, target, fabric=fabric(), **options)
        note(sampler, draws, weights=next(draws.draws()).weights)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision != "32-true"):
        loader = target.loader("test", 64)
        found = predict(network(2), swag, loader, Categorical(), num_draws=5, device=device)
    assert found.mean_probs is not None
    note("predict", found, probs=found.mean_probs)
    return made, numbers


def apart(name: str, there: Vectors, here: Vectors, start: Tensor) -> float:
    """Largest distance of a stage's vectors, as a share of the way from its start."""
    if name == "predict":
        return float((there["probs"] - here["probs"]).abs().max())
    shares = []
    for kind, vector in here.items():
        origin = start[: len(vector)] if kind in ("loc", "weights") else 0.0
        shares.append(float((there[kind] - vector).norm() / (vector - origin).norm()))
    return max(shares)


def noise_z(device: torch.device) -> float:
    """Of a million squared normals of one SGLD step there, whose sum is chi-square."""
    weight = nn.Parameter(torch.zeros(10**6, device=device))
    weight.grad = torch.zeros_like(weight)
    SGLD([weight], lr=0.01, num_data=100, seed=1).step()
    squares = weight.detach().double().square() / (2 * 0.01 / 100)
    return float((squares.sum() - len(weight)) / math.sqrt(2 * len(weight)))


def compare(device: torch.device) -> list[dict[str, Any]]:
    """Return a row for each stage and precision."""
    torch.backends.cudnn.allow_tf32 = False
    given, here = stages(torch.device("cpu"), "32-true")
    starts = {"source": network(3), "map": network(2), "swag": network(2)}
    rows = []
    for precision, bound in BOUNDS.items():
        there = stages(device, precision, given)[1]
        for name, vectors in here.items():
            start = starts.get(name, network(2))
            flat = ParameterLayout.from_module(start).flatten(start).double()
            if name != "source":  # the backbone's way begins at the prior's mean
                flat[: given["prior"].shared_dim] = given["prior"].loc[: given["prior"].shared_dim]
            found = apart(name, there[name], vectors, flat)
            rows.append({"stage": name, "precision": precision, "apart": found, "bound": bound})
    return rows


def law_of(module: nn.Module, rank: int) -> GaussianWeights:
    layout = ParameterLayout.from_module(module)
    loc = layout.flatten(module)
    factor = (0.01 * torch.randn(rank, layout.dim, device=loc.device)).T
    return GaussianWeights(layout, loc, torch.full_like(loc, 1e-2), factor)


def steps(
    device: torch.device, prior: GaussianWeights | None, module: nn.Module, batch: Any, count: int
) -> float:
    """Seconds of a step in the engine; from the second on CUDA refuses to make the host wait."""
    cuda = device.type == "cuda"
    times: list[float] = []

    def watch(event: StepEvent) -> None:
        if cuda and event.step in (1, count - 1):
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error" if event.step == 1 else "default")
        if event.step in (1, count - 1):
            times.append(time.perf_counter())

    train(
        module,
        supervised(Categorical()),
        [batch],
        ImplicitPriorSGD(module.parameters(), lr=1e-3),
        constant(burn_in=count),
        count,
        num_data=10**6,
        prior=prior,
        batch_norm="frozen",
        fabric=Fabric(accelerator=device.type, devices=1, precision="bf16-mixed"),
        hooks=[watch],
        log_every=count,
        progress=False,
    )
    return (times[1] - times[0]) / (count - 2)


def seconds(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    def waited() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return _bench.median(_bench.interleaved({"": waited}, rounds=rounds)[""])


def speed(device: torch.device, tiny: bool) -> dict[str, float]:
    """Return seconds by what was done."""
    torch.manual_seed(0)
    module = (SmallConvNet(3, 10, norm="batch") if tiny else resnet50(num_classes=1000)).to(device)
    size, side, classes = (8, 16, 10) if tiny else (128, 224, 1000)
    batch = torch.randn(size, 3, side, side), torch.randint(classes, (size,))
    rank, count, rounds = (2, 5, 2) if tiny else (10, 30, 10)
    found: dict[str, float] = {}
    law = law_of(module, rank)
    for name, prior in {"step": None, f"step, prior of rank {rank}": law}.items():
        found[name] = steps(device, prior, module, batch, count)
    swag, event = SWAG(rank=rank), StepEvent(1, Phase(1.0, 1.0, True), module, law.layout)
    found["SWAG snapshot"] = seconds(lambda: swag.update(event), device, rounds)
    found["predict, 5 draws of a batch"] = seconds(
        lambda: predict(module, law, [batch], Categorical(), num_draws=5), device, 2
    )
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = _bench.parser(__doc__)
    parser.add_argument("--tiny", dest="quick", action="store_true", help="the same as --quick")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="file for the JSON")
    arguments = parser.parse_args(argv)
    _bench.start(arguments, "GPU")
    device, begin = torch.device(arguments.device), time.perf_counter()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rows, z = compare(device), noise_z(device)
    shown = [
        [row["stage"], row["precision"], f"{row['apart']:.1e}", f"{row['bound']:g}"] for row in rows
    ]
    header = ["stage", "precision", f"{name} from CPU, share of the way", "bound"]
    print(_bench.table(header, shown), end="\n\n", flush=True)
    print(f"Noise of SGLD: z = {z:.2f} of the squares of a million.\n", flush=True)
    times = speed(device, arguments.quick)
    table = [[what, f"{1e3 * value:.2f}"] for what, value in times.items()]
    print(_bench.table([name, "ms"], table), end="\n\n")
    found = {"device": name, "machine": _bench.machine(), "stages": rows, "noise_z": z}
    found |= {"seconds": times, "total_seconds": time.perf_counter() - begin}
    print(json.dumps(found))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    wrong = [f"{r['stage']} in {r['precision']}" for r in rows if not r["apart"] <= r["bound"]]
    if wrong or not abs(z) < 5:
        raise SystemExit(f"error: too far from the CPU: {', '.join(wrong) or 'the noise'}")


if __name__ == "__main__":
    main()
