"""Words and pictures: the page that says what a run brought."""
