from pathlib import Path

import torch

import bayesprior as bp

Path("a-file").write_text("in the way")
layout = bp.ParameterLayout(("w",), ((3,),))
try:
    bp.GaussianWeights.point(layout, torch.zeros(3), std=1.0).save("a-file/prior.safetensors")
except bp.StorageError as error:
    print(error)
