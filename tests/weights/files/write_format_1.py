"""Write ``format-1.safetensors``; made once, by version 0.1 of the package, and never again.

    python tests/weights/files/write_format_1.py PATH

Later versions may write another format; what this one wrote must be read for ever.
"""

import sys

import torch

from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout


def main() -> None:
    layout = ParameterLayout(("conv.weight", "conv.bias", "head.weight"), ((2, 2), (1,), (3,)))
    law = GaussianWeights(
        layout,
        torch.arange(8.0) / 8,
        torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 4.0, 4.0, 9.0]),
        torch.tensor([[1.0, -0.5], [0.25, 0.0], [0.0, 2.0], [0.5, 0.5], [-1.0, 1.0]]),
        buffers={"bn.running_mean": torch.tensor([0.5, -1.5]), "bn.steps": torch.tensor(7)},
        provenance={"objective": "tests", "seeds": [1, 2], "nested": {"lr": 0.1, "swag": None}},
    )
    law.rescale(cov_scale=0.25).save(sys.argv[1])


if __name__ == "__main__":
    main()
