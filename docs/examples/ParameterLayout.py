import torch

import bayesprior as bp

network = torch.nn.Linear(2, 3)
layout = bp.ParameterLayout.from_module(network)
print(layout.names, layout.shapes, layout.dim)
weights = layout.flatten(network)
layout.load_(network, torch.zeros_like(weights))
print(network.weight)
