"""One tab a file; each has `build`, which lays it out, and functions that need no browser."""
