from pathlib import Path

import bayesprior as bp

Path("cut.safetensors").write_bytes(b"not a prior")
try:
    bp.GaussianWeights.load("cut.safetensors")
except bp.PriorFileError as error:
    print(error)
