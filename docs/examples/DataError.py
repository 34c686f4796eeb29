import numpy as np

import bayesprior as bp

try:
    bp.from_arrays("short", (np.zeros((3, 8, 8), np.uint8), np.arange(2)))
except bp.DataError as error:
    print(error)
