"""Shows what a classifier looks at. This stage is not written yet."""
