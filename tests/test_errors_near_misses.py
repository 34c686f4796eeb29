"""What people give by mistake, and what they may give: every public name says so in one line.

In a process without the checker of annotations that other tests run under: users have none.
"""

import json

import pytest
from forked import run_code

SCRIPT = """
import json, re, sys, tempfile, warnings
from pathlib import Path
import numpy as np, torch
import bayesprior as bp
from bayesprior.inference.schedules import constant
from bayesprior.recipes.named import point_source
from recipes_cases import Net, blobs

warnings.simplefilter("ignore")
home = Path(sys.argv[1])
bundle, net = blobs(2), Net(2)
law, point, cat = point_source(Net(2), 0.1), bp.PointPosterior.from_module(net), bp.Categorical()
loader, layout = bundle.loader("train", 8), bp.ParameterLayout.from_module(net)
x, y = bundle.train.inputs.numpy(), bundle.train.targets.numpy()
law.save(home / "law")
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
cross = torch.nn.CrossEntropyLoss

networks = ["net.pt", Net, None, bundle, net.state_dict()]
laws = ["p.safetensors", bp.GaussianWeights, net, 0.1]
posteriors = ["run", bp.PointPosterior, None, net, 0.1]
batches = [bundle, "test", None, 5, torch.utils.data.DataLoader]
bundles = ["digits", loader, None, bp.DataBundle, (x, y)]
likelihoods = ["categorical", bp.Categorical, 5, cross()]
functions = ["f", 5, torch.nn.Linear]
counts = ["3", 0, 1.5, True]
integers = ["0", 1.5]
paths = [5, net, b"x"]
devices = ["gpu", 3.5]
optimizer = {"params": ["net", None, 5, []], "lr": ["1", -1, None, float("nan")]}
sampler = {**optimizer, "num_data": [*counts, None], "temperature": ["1", -1], "seed": integers}
sampling = {"params": list(net.parameters()), "lr": 0.1, "num_data": 60}
law_of = {"path": home / "law"}
table = [
    (bp.predict, {"model": net, "posterior": point, "loader": loader, "likelihood": cat}, {
        "model": networks, "posterior": posteriors, "loader": batches,
        "likelihood": [*likelihoods, None], "forward": functions, "num_draws": counts,
        "metrics": ["accuracy", 5], "batch_norm": ["frosen", None, 5], "device": devices,
        "seed": [*integers, None], "max_draw_bytes": ["1", 0], "bn_loader": [bundle],
    }),
    (bp.train, {"model": net, "loss_fn": bp.supervised(cat), "loader": loader, "optimizer": sgd,
                "schedule": constant(), "num_steps": 1, "num_data": 60, "progress": False}, {
        "model": networks, "loss_fn": ["ce", cross, 5, None, cat], "loader": batches,
        "optimizer": ["sgd", torch.optim.SGD, 5], "schedule": ["constant", 5],
        "num_steps": [*counts, None], "num_data": [*counts, None], "prior": laws,
        "collectors": ["swag", bp.SWAG, 5, [bp.SWAG], [5]], "hooks": [5, [5]],
        "fabric": ["cuda", 2], "accumulate": [0, "1", 1.5], "clip_norm": ["1", -1],
        "batch_norm": ["frosen", None], "run_dir": paths, "checkpoint_every": counts,
        "log_every": counts, "on_step": [5, "print"], "resume": [True],
    }),
    (bp.get_data, {"name": "digits"}, {
        "name": ["digit", 5, None, bundle, "pkg.mod:fun", "~/no.npz"], "siz": [3]}),
    (bp.get_model, {"name": "mlp"}, {
        "name": ["resnet", 5, None, Net, net, "pkg.mod:fun"], "width": [3]}),
    (bp.few_shot, {"bundle": bundle, "num_data": 4}, {
        "bundle": bundles, "num_data": [*counts, 10**6], "seed": [*integers, None]}),
    (bp.few_shot, {"bundle": bundle}, {"per_class": [*counts, 10**6]}),
    (bp.from_arrays, {"name": "t", "train": (x[:20], y[:20]), "test": (x[30:50], y[30:50])}, {
        "name": [5, None], "train": ["x.npz", x, (x,), (x, y[:3]), None, bundle, (x, "y"), 5],
        "test": ["x.npz", (x, y[:3]), 5], "class_names": ["ab", 5, ["a"], ["a", "a"]]}),
    (bp.attach_prior, {"optimizer": sgd, "module": net, "prior": law, "num_data": 60}, {
        "optimizer": ["sgd", torch.optim.SGD, None, net], "module": networks,
        "prior": [*laws, None], "num_data": ["60", 0, 1.5, None, -1, True]}),
    (bp.supervised, {"likelihood": cat}, {
        "likelihood": [*likelihoods, None], "forward": functions}),
    (bp.two_view, {"ssl_loss": cross()}, {"ssl_loss": ["simclr", None, 5, cross]}),
    (bp.report, {"module": net, "posterior": point, "data": bundle, "out": home / "report"}, {
        "module": networks, "posterior": posteriors, "data": bundles, "out": [*paths, None],
        "prior": laws, "likelihood": likelihoods, "run_dir": paths, "num_draws": counts,
        "batch_size": counts, "device": devices, "mode": ["ful", None]}),
    (bp.BayesianNetwork, {"module": net, "prior": law, "likelihood": cat, "num_data": 60}, {
        "module": networks, "prior": [*laws, None], "likelihood": ["categorical", None, 5],
        "num_data": ["60", 0, 1.5, True, -1]}),
    (bp.GaussianWeights, {"layout": layout, "loc": law.loc, "cov_diag": torch.ones(law.dim)}, {
        "layout": ["net", net, None, bp.ParameterLayout], "loc": ["0", None, 5, x],
        "cov_diag": ["1", None, 5, torch.ones(3)], "cov_factor": ["1", 5]}),
    (bp.GaussianWeights.load, law_of, {
        "path": [*paths, None, "~/nowhere", home], "device": devices,
        "rank": ["1", 1.5, -1, True]}),
    (bp.PointPosterior.load, law_of, {
        "path": [*paths, None, "~/nowhere", home], "device": devices}),
    (law.save, {}, {"path": [*paths, None]}),
    (point.save, {}, {"path": [*paths, None]}),
    (law.rescale, {}, {"rms_std": [0, -1, "1", float("nan")]}),
    (bp.PointPosterior.from_module, {}, {"module": networks}),
    (bp.ParameterLayout.from_module, {}, {"module": networks}),
    (bp.StoredDraws, {}, {"folders": [5, None, "~/nowhere", [], [5], net]}),
    (bp.DrawWriter, {"run_dir": home / "w"}, {
        "run_dir": [*paths, None], "chain": ["0", 1.5, -1, True]}),
    (bp.SWAG, {}, {"rank": ["1", -1, 1.5, True]}),
    (bp.Normal, {}, {"std": [0, "1", -1, None, float("nan")]}),
    (bp.SGLD, sampling, sampler),
    (bp.SGHMC, {**sampling, "friction": 0.1}, sampler),
    (bp.ImplicitPriorSGD, {"params": list(net.parameters()), "lr": 0.1}, {
        **optimizer, "momentum": ["1", 2]}),
    (bp.load_run, {}, {"run": [5, None, "~/nowhere"]}),
]
found = {}
for function, given, misses in table:
    for name, values in misses.items():
        for value in values:
            label = f"{function.__qualname__}({name}={type(value).__name__} {str(value)[:20]!r})"
            try:
                function(**{**given, name: value})
                found[label] = "accepted"
            except bp.BayesPriorError as error:
                long = "\\n" in str(error) or len(str(error)) > 400
                found[label] = str(error) if long else "told"
            except Exception as error:
                told = re.search("unexpected keyword|missing a required", str(error))
                kind = isinstance(error, TypeError) and told
                found[label] = "told" if kind else f"{type(error).__name__}: {error}"


def stored_draws():
    bp.sample(net, law, bundle, num_draws=1, chains=1, burn_in=0, thin=1, progress=False,
              device=torch.device("cpu"), out="~/draws", seed=np.int64(3))
    for folders in ("~/draws", Path("~/draws"), ["~/draws/chain-00"], ("~/draws/chain-00",)):
        assert bp.StoredDraws(folders).num_draws == 1
    bp.load_run("~/draws", network=net, data=bundle)


def saved():
    law.save("~/saved/law")
    point.save("~/saved/point")
    bp.GaussianWeights.load("~/saved/law", device=torch.device("cpu"), rank=np.int64(0))
    bp.PointPosterior.load(Path("~/saved/point"))
    np.savez(home / "data.npz", x=x, y=y)
    bp.get_data("~/data.npz")
    bp.get_data("npz", path="~/data.npz")


def optimizers():
    plain = {"lr": np.float32(0.1), "num_data": np.int64(60), "seed": np.int64(1)}
    bp.SGLD(net.parameters(), temperature=np.float64(1), **plain)
    bp.SGHMC(net.parameters(), friction=np.float32(0.1), **plain)
    bp.ImplicitPriorSGD(net.parameters(), lr=np.float32(0.1), momentum=np.float32(0.9))


ordinary = {
    "predict": lambda: bp.predict(net, point, list(loader), cat, num_draws=np.int64(1),
                                  device=torch.device("cpu"), seed=np.int64(1)),
    "train": lambda: bp.train(net, bp.supervised(cat), loader, sgd, constant(), np.int64(1),
                              num_data=np.int64(60), progress=False, run_dir="~/train",
                              checkpoint_every=np.int64(5), log_every=np.int64(1)),
    "stored draws": stored_draws,
    "saved": saved,
    "draw writer": lambda: bp.DrawWriter("~/written", chain=np.int64(0)),
    "few_shot": lambda: (bp.few_shot(bundle, num_data=np.int64(4), seed=np.int64(1)),
                         bp.few_shot(bundle, per_class=np.int32(2))),
    "from_arrays": lambda: bp.from_arrays("t", [x[:20].tolist(), y[:20].tolist()],
                                          [x[30:], y[30:]], class_names=np.array(["a", "b"])),
    "get_model": lambda: bp.get_model("mlp", in_features=np.int64(16), num_classes=np.int64(2),
                                      widths=(np.int64(4),)),
    "attach_prior": lambda: bp.attach_prior(sgd, net, law, num_data=np.int64(60)),
    "network": lambda: bp.BayesianNetwork(net, law, cat, num_data=np.int64(60)),
    "normal": lambda: (bp.Normal(np.float32(0.1)), bp.Normal([0.1, 0.2])),
    "swag": lambda: (bp.SWAG(rank=np.int64(3)), law.rescale(rms_std=np.float32(0.1))),
    "optimizers": optimizers,
    "make_prior": lambda: bp.make_prior(law, net, head=("head",), rms_std=np.float32(0.1),
                                        out=Path("~/prior")),
    "fit_map": lambda: bp.fit_map(net, law, bundle, num_steps=np.int32(1), out=Path("~/map"),
                                  device=torch.device("cpu"), progress=np.bool_(False)),
}
refused = {}
for label, call in ordinary.items():
    try:
        call()
    except Exception as error:
        refused[label] = f"{type(error).__name__}: {error}"
here = [str(path) for path in Path.cwd().glob("~*")]
print(json.dumps([found, refused, here, sorted(path.name for path in home.iterdir())]))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    done = run_code(SCRIPT, str(home), cwd=work, env={"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_near_miss_is_one_clear_line(outcomes):
    found = outcomes[0]
    assert len(found) > 250
    assert not {label: text for label, text in found.items() if text != "told"}


def test_ordinary_values_are_taken(outcomes):
    assert not outcomes[1]


def test_the_home_folder_is_written_out_everywhere(outcomes):
    _, _, here, there = outcomes
    assert not here
    assert {"draws", "map", "prior", "saved", "train"} <= set(there)
