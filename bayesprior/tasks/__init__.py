"""What a network is asked to do: likelihoods and objectives."""
