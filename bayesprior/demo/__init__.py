"""The embedded example: typeset glyphs to handwritten digits, offline, in minutes."""
