import bayesprior as bp

data = bp.few_shot(bp.get_data("digits"), num_data=40)
network = bp.get_model("small_conv", in_channels=1, num_classes=10)  # with trained weights in it
found = bp.transfer(data, network, progress=False, device="cpu")
for row in found.leaderboard():
    print(row["method"], row["on"], row["nll"])
