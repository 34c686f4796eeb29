import torch

import bayesprior as bp

layout = bp.ParameterLayout(("body", "head"), ((4,), (2,)))
law = bp.GaussianWeights.point(layout.select(["body"]), torch.zeros(4), std=0.1)
law = law.extend(layout, std=1.0)
for block in law.blocks:
    assert isinstance(block, bp.Block)
    print(block.names, block.new)
