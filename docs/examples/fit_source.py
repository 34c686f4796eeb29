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
print(source.rank, source.rms_std)
