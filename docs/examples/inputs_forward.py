import torch

import bayesprior as bp

outputs, targets = bp.inputs_forward(torch.nn.Linear(2, 3), torch.ones(4, 2))
print(outputs.shape, targets)
