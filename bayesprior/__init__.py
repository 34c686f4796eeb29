"""Source posteriors as informative priors."""
