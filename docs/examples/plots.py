import numpy as np

import bayesprior as bp

figure = bp.plots.image_grid(np.zeros((4, 8, 8)), ["a", "b", "c", "d"])
figure.savefig("pictures.png")
