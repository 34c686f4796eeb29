"""What watches a trajectory and learns from it."""
