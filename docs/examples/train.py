import torch

import bayesprior as bp
from bayesprior.inference.schedules import constant

network = torch.nn.Linear(2, 1)
layout = bp.ParameterLayout.from_module(network)
prior = bp.GaussianWeights.point(layout, torch.zeros(3), std=1.0)
x = torch.randn(50, 2)
result = bp.train(
    network,
    bp.supervised(bp.Normal(std=1.0)),
    [(x, x.sum(1, keepdim=True))],
    bp.ImplicitPriorSGD(network.parameters(), lr=0.1),
    constant(),
    100,
    num_data=50,
    prior=prior,
    progress=False,
)
print(result)
