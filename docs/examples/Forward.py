import torch

import bayesprior as bp


def two_inputs(module, batch):
    one, other, labels = batch
    return module(one + other), labels


forward: bp.Forward = two_inputs
loss = bp.supervised(bp.Categorical(), forward=forward)
batch = torch.ones(4, 2), torch.ones(4, 2), torch.tensor([0, 1, 2, 0])
print(loss(torch.nn.Linear(2, 3), batch)[0])
