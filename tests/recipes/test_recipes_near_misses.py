"""What people give by mistake: every public function says so in one clear line.

In a process without the checker of annotations that other tests run under: users have none.
"""

import json

import pytest
from forked import run_code

SCRIPT = """
import json, sys, warnings
from functools import partial
import numpy as np, torch
import bayesprior as bp
from recipes_cases import Net, blobs
from bayesprior.recipes.named import point_source

warnings.simplefilter("ignore")
bundle, net = blobs(2), Net(2)
law = point_source(Net(2), 0.1)
good = {"module": net, "prior": law, "data": bundle}
loader = bundle.loader("train", 8)
arrays = (bundle.train.inputs.numpy(), bundle.train.targets.numpy())
tensors = torch.utils.data.TensorDataset(bundle.train.inputs, bundle.train.targets)
point = bp.PointPosterior.from_module(net)
few = {"num_steps": 1, "progress": False, "device": "cpu"}
tiny = {"num_draws": 1, "chains": 1, "burn_in": 0, "thin": 1, "progress": False, "device": "cpu"}

misses = {
    "module": ["resnet18", Net, net.state_dict(), None, bundle, torch.nn.Identity(), [net]],
    "prior": ["prior.safetensors", bp.GaussianWeights, net, point, None, 0.1, net.state_dict()],
    "data": ["digits", bp.DataBundle, arrays, bundle.train.inputs, None, 5],
}
options = {
    "likelihood": ["categorical", bp.Categorical, torch.nn.CrossEntropyLoss(), 5],
    "forward": ["pair", torch.nn.Linear, 5],
    "fabric": ["cuda", 2],
    "num_steps": ["10", 1e3, True, 0, None, 10**21, [1]],
    "lr": ["fast", 0, -1, float("nan"), float("inf"), True, [0.1]],
    "batch_size": [0, 1.5, "64", 10**21],
    "seed": [-1, 1.5, "0", None, 10**21],
    "device": ["gpu", "cuda:99", 3.5, None],
    "out": [5, b"x/y", ["runs"]],
    "progress": ["yes", 1, None],
    "checkpoint_every": [0, -3],
    "batch_norm": ["frosen", True, None],
    "start": ["source", None],
    "made_from": [{"data": "digits"}, "digits"],
    "num_step": [5],
    "learning_rate": [0.1],
}
calls = {}
for recipe in (bp.fit_map, bp.fit_swag, bp.sample):
    small = tiny if recipe is bp.sample else few
    for name, values in misses.items():
        for value in values:
            label = f"{recipe.__name__}({name}={type(value).__name__} {str(value)[:20]!r})"
            calls[label] = partial(recipe, **{**good, **small, name: value})
    calls[f"{recipe.__name__}(prior, module, data)"] = partial(recipe, law, net, bundle)
    calls[f"{recipe.__name__}(module, data, prior)"] = partial(recipe, net, bundle, law)
    calls[f"{recipe.__name__}(module)"] = partial(recipe, net)
for name, values in options.items():
    for value in values:
        calls[f"fit_map({name}={value!r})"] = partial(bp.fit_map, **good, **{**few, name: value})
for name in ("module", "data"):
    for value in misses[name]:
        label = f"fit_source({name}={type(value).__name__} {str(value)[:20]!r})"
        calls[label] = partial(bp.fit_source, **{"module": net, "data": bundle, **few, name: value})
for name, values in {
    "loss_fn": ["simclr", torch.nn.CrossEntropyLoss, 5],
    "head": [5, [5], "nosuchlayer", ["head", "fc"], lambda name: False],
    "rank": [0, 41, 1.5],
    "momentum": [1.5],
}.items():
    for value in values:
        calls[f"fit_source({name}={value!r})"] = partial(
            bp.fit_source, net, bundle, **few, **{name: value}
        )
for name, values in {
    "sampler": ["nuts", None],
    "chains": [0, 1.0],
    "cycles": [7],
    "temperature": [-1, "cold"],
    "friction": [0, 2],
}.items():
    for value in values:
        kept = {**tiny, "num_draws": 3, name: value}
        calls[f"sample({name}={value!r})"] = partial(bp.sample, **good, **kept)
for name, values in {
    "source": misses["prior"],
    "target": misses["module"],
    "head": [5, "fc", ["head", "fc"]],
    "rms_std": ["0.1", 0, -1, float("nan")],
    "shape": ["full", None],
    "jitter": [-0.1, None],
    "rank": [-1, 2.5, "3"],
    "out": [5],
}.items():
    for value in values:
        label = f"make_prior({name}={type(value).__name__} {str(value)[:20]!r})"
        calls[label] = partial(
            bp.make_prior, **{"source": law, "target": net, "head": "head", name: value}
        )
named = {"data": bundle, "model": "mlp", "progress": False, "device": "cpu"}
for name, values in {
    "weights": [net.state_dict(), [net.state_dict()], net, 3, ["a.pth", None], bp.GaussianWeights],
    "source": [net.state_dict(), net, 3, point, [law, 0.1], bp.GaussianWeights],
}.items():
    for value in values:
        for out in (None, "nowhere"):
            label = f"transfer({name}={type(value).__name__} {str(value)[:12]!r}, out={out})"
            calls[label] = partial(bp.transfer, **named, **{name: value, "out": out})
for value in (5, None, "nowhere", "~/nowhere"):
    calls[f"load_run({value!r})"] = partial(bp.recipes.load_run, value)

found = {}
for label, call in calls.items():
    try:
        call()
        found[label] = ["accepted", ""]
    except bp.BayesPriorError as error:
        found[label] = ["told", str(error)]
    except TypeError as error:
        told = "unexpected keyword" in str(error) or "missing a required" in str(error)
        found[label] = ["told" if told else "raw", f"TypeError: {error}"]
    except Exception as error:
        found[label] = ["raw", f"{type(error).__name__}: {error}"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes():
    done = run_code(SCRIPT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_near_miss_is_one_clear_line(outcomes):
    assert len(outcomes) > 150
    wrong = {
        label: text
        for label, (kind, text) in outcomes.items()
        if kind != "told" or "\n" in text or len(text) > 400
    }
    assert not wrong


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("fit_map(prior=str 'prior.safetensors')", "load it with GaussianWeights.load('prior.saf"),
        ("fit_map(module=type", "module must be a network (torch.nn.Module), got the class Net"),
        ("fit_map(data=str 'digits')", "load it with get_data('digits')"),
        ("fit_map(likelihood=<class", "got the class Categorical; call it"),
        ("fit_map(num_step=5)", "did you mean 'num_steps'?"),
        ("fit_map(prior, module, data)", "module must be a network"),
        ("transfer(weights=OrderedDict", "load them into a network with load_state_dict, and give"),
        ("transfer(weights=list", "weights must be a file of weights or a name that"),
        ("transfer(source=int", "got 3; fit_source or collect makes one"),
        ("transfer(source=OrderedDict", "load these weights into a network with load_state_dict"),
        ("make_prior(source=PointPosterior", "got PointPosterior; fit_source or collect makes one"),
        ("fit_map(num_steps=1000.0)", "num_steps must be a whole number, got 1000.0"),
    ],
)
def test_the_line_names_the_remedy(outcomes, label, said):
    texts = [text for key, (_, text) in outcomes.items() if key.startswith(label)]
    assert texts
    assert all(said in text for text in texts)
