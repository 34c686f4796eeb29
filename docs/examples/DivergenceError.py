import torch

import bayesprior as bp
from bayesprior.inference.schedules import constant

network = torch.nn.Linear(2, 1)
try:
    bp.train(
        network,
        bp.supervised(bp.Normal(std=1.0)),
        [(torch.ones(4, 2), torch.ones(4, 1))],
        torch.optim.SGD(network.parameters(), lr=1e6),
        constant(),
        100,
        num_data=4,
        progress=False,
    )
except bp.DivergenceError as error:
    print(error)
