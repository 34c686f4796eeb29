"""One file a heading of the report."""
