"""What a prior is: named weights, their Gaussian law, its files and its sources."""
