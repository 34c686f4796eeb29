import bayesprior as bp

quick = {"progress": False, "device": "cpu"}
data = bp.few_shot(bp.get_data("digits"), num_data=20)
network = bp.get_model("small_conv", in_channels=1, num_classes=10)
layout = bp.ParameterLayout.from_module(network)
prior = bp.GaussianWeights.point(layout, layout.flatten(network), std=1.0)
bp.fit_map(network, prior, data, num_steps=10, out="run", **quick)
run = bp.load_run("run", network=network, data=data)
print(run.method, run.options["seed"], run.posterior)
