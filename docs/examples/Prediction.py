import torch

import bayesprior as bp

network = torch.nn.Linear(2, 3)
layout = bp.ParameterLayout.from_module(network)
posterior = bp.GaussianWeights.point(layout, layout.flatten(network), std=0.1)
loader = [(torch.randn(8, 2), torch.arange(8) % 3)]
prediction = bp.predict(network, posterior, loader, bp.Categorical(), num_draws=5, progress=False)
print(prediction.metrics)
