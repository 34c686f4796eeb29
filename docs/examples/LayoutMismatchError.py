import torch

import bayesprior as bp

mine = bp.ParameterLayout(("body.weight", "head.weight"), ((2, 2), (1, 2)))
prior = bp.GaussianWeights.point(mine, torch.zeros(6), std=1.0)
network = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
try:
    bp.attach_prior(optimizer, network, prior, num_data=10)
except bp.LayoutMismatchError as error:
    print(error)
