"""The ArviZ DataTree of a run."""
