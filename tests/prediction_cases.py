"""A small classifier, its data and a posterior in memory."""

import torch
from torch import nn

from bayesprior.inference.protocols import Draw
from bayesprior.weights.layout import ParameterLayout


class Draws:
    """A posterior in memory: random weights around the module's own."""

    def __init__(self, module, num_draws=5, std=0.5, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.layout = ParameterLayout.from_module(module)
        loc = self.layout.flatten(module)
        self.weights = [
            loc + std * torch.randn(loc.shape, generator=generator).to(loc)
            for _ in range(num_draws)
        ]

    def draws(self, num_draws=None, seed=0):
        for index, weights in enumerate(self.weights[:num_draws]):
            yield Draw(index // 2, index % 2, weights)


def classifier():
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))


def batches(num=11, size=4, classes=4, inputs=3):
    x, y = torch.randn(num, inputs), torch.randint(0, classes, (num,))
    return list(zip(x.split(size), y.split(size), strict=True))
