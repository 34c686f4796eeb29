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
source.save("source.safetensors")
found = bp.study(
    data="digits",
    model="small_conv",
    source="source.safetensors",
    methods={
        "fine-tuning": {"start": "source", "prior": {"shape": "zero", "rms_std": 3.0}},
        "MAP": {"prior": {"rms_std": 1.0}},
    },
    num_data=20,
    budget=10,
    seeds=2,
    out="study",
    **quick,
)
for sentence in found.comparisons[0].sentences:
    print(sentence)
