"""Write ``format-2.safetensors``; made once, by the version that brought the format.

    python tests/weights/files/write_format_2.py PATH

Later versions may write another format; what this one wrote must be read for ever.
"""

import sys

import torch

from bayesprior.weights.blocks import Block
from bayesprior.weights.gaussian import GaussianWeights
from bayesprior.weights.layout import ParameterLayout
from bayesprior.weights.lowrank import LowRankCovariance
from bayesprior.weights.rows import RowCovariance


def main() -> None:
    layout = ParameterLayout(("conv.weight", "conv.bias", "head.weight"), ((2, 2), (1,), (2, 2)))
    rows = torch.tensor([[-1.0, 1.0, 0.25, 0.0, 0.5], [1.0, -0.5, 0.0, 2.0, 0.5]])
    body = LowRankCovariance(torch.tensor([2.5, 0.5, 1.0, 1.5, 2.0]), rows)
    widths = torch.tensor([0.25, 4.0], dtype=torch.float64)
    head = RowCovariance(torch.tensor([[1.0, 0.0], [0.5, 2.0]]), count=2)
    law = GaussianWeights.from_blocks(
        layout,
        torch.arange(9.0) / 8,
        [
            Block(("conv.bias", "conv.weight"), body, widths),
            Block(("head.weight",), head, new=True),
        ],
        buffers={"bn.steps": torch.tensor(7)},
        provenance={"objective": "tests"},
        statistics={"feature_mean": torch.tensor([0.5, -0.5])},
    )
    law.save(sys.argv[1])


if __name__ == "__main__":
    main()
