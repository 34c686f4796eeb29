"""From draws to predictions: the network as a function, averages, metrics."""
