import numpy as np
from sklearn.datasets import load_digits

import bayesprior as bp
from bayesprior.cli import main

task = ["--data", "digits", "--model", "small_conv", "--num_data", "20"]
quiet = ["--progress", "false", "--device", "cpu"]
main(["make-prior", "--shape", "zero", "--rms_std", "1", *task, "--out", "prior"])
prior = ["--prior", "prior/prior.safetensors"]
main(["fit", "map", *prior, *task, *quiet, "--num_steps", "10", "--out", "run"])

np.savez("new.npz", x=load_digits().images[:5] / 16)
new = bp.predict_new("run", ["new.npz"], progress=False)
print(new.columns[:2], new.probs.shape, new.threshold)
