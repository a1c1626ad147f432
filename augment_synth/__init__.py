"""Makes a training set robust."""
