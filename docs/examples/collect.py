import torch

import bayesprior as bp

data = bp.get_data("digits")
network = bp.get_model("small_conv", in_channels=1, num_classes=10)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
checkpoints = []
for step, (x, y) in zip(range(12), data.loader("train", batch_size=64), strict=False):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()
    if step >= 6:  # your trainer writes files: "epoch-07.pt", ...
        checkpoints.append({name: t.clone() for name, t in network.state_dict().items()})
source = bp.collect(network, checkpoints, data=data, head="head", rank=4, device="cpu")
print(source.rank, source.rms_std, sorted(source.statistics))
