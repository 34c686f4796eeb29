import bayesprior as bp

quick = {"progress": False, "device": "cpu"}
source_net = bp.get_model("small_conv", in_channels=1, num_classes=62)
source = bp.fit_source(
    source_net,
    bp.get_data("glyphs", num_data=300, num_test=62),
    head="head",
    rank=3,
    num_steps=10,
    num_snapshots=4,
    **quick,
)
network = bp.get_model("small_conv", in_channels=1, num_classes=10)
prior = bp.make_prior(source, network, head="head", rms_std=1.0, head_std=1.7)
print(prior.provenance["new"], prior.rms_std)
