import torch

import bayesprior as bp
from bayesprior.inference.schedules import constant

network = torch.nn.Linear(2, 1)
bp.train(
    network,
    bp.supervised(bp.Normal(std=1.0)),
    [(torch.ones(4, 2), torch.ones(4, 1))],
    bp.SGLD(network.parameters(), lr=0.01, num_data=4),
    constant(burn_in=10, thin=5),
    30,
    num_data=4,
    collectors=[bp.DrawWriter("draws")],
    progress=False,
)
print(bp.StoredDraws("draws"))
