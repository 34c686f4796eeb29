"""Diagnostics a person can decide from: calibration, uncertainty, shift, convergence, the prior."""
