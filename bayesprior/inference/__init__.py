"""Inference: one loop, samplers as optimizers, collectors that watch the trajectory."""
