import torch

import bayesprior as bp

try:
    bp.get_model("mlp", in_features=2, num_classes=2, weights="nowhere.pt")
except (bp.CheckpointError, bp.ConfigError) as error:
    print(type(error).__name__, error)

network = torch.nn.Linear(2, 1)
try:
    bp.train(
        network,
        bp.supervised(bp.Normal(std=1.0)),
        [(torch.ones(4, 2), torch.ones(4, 1))],
        torch.optim.SGD(network.parameters(), lr=0.1),
        lambda step: None,
        10,
        num_data=4,
        run_dir="empty",
        resume=True,
        progress=False,
    )
except bp.CheckpointError as error:
    print(error)
